"""The benchmark's networks are the ones they say they are, and their data is what it says."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

MODELS = Path(__file__).parents[2] / "benchmarks" / "models"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(MODELS))

    def load_one(name: str) -> ModuleType:
        return __import__(name)

    yield load_one
    for name in ("digit_data", "resnet18", "conv1d", "vit", "lstm", "unet"):
        sys.modules.pop(name, None)


def parameters(module: torch.nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def test_resnet18_has_as_many_parameters_as_torchvisions(load) -> None:
    assert parameters(load("resnet18").BUILD()) == 11_689_512


def test_the_signal_network_has_22_million(load) -> None:
    assert round(parameters(load("conv1d").BUILD()) / 1e6) == 22


@pytest.mark.parametrize("file", ["resnet18", "conv1d", "vit", "lstm", "unet"])
def test_each_takes_its_own_examples_and_scores_them(load, file: str) -> None:
    module = load(file)
    torch.manual_seed(0)
    net = module.BUILD().eval()
    for workload in (value for value in vars(module).values() if type(value).__name__ == "Workload"):
        inputs, targets = next(iter(workload.evaluation()))
        assert workload.example(2).shape[1:] == inputs.shape[1:]
        with torch.no_grad():
            outputs = net(inputs[:2])
        scores = workload.score(outputs, targets[:2])
        assert scores.shape == (2,)
        assert ((scores >= 0) & (scores <= 1)).all()
        item, target = workload.training()[0]
        assert item.shape == inputs.shape[1:]
        assert target.shape == targets.shape[1:]


def test_weights_that_are_not_there_are_asked_for(load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = load("digit_data")
    monkeypatch.setattr(data, "WEIGHTS", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"lstm has no weights; make them with: python benchmarks/models/train"):
        load("lstm").workload.model()


def test_held_out_digits_never_train(load) -> None:
    data = load("digit_data")
    training, evaluation = (data.digits(part)[0].flatten(1) for part in ("training", "evaluation"))
    seen = {row.numpy().tobytes() for row in training}
    assert not any(row.numpy().tobytes() in seen for row in evaluation)
