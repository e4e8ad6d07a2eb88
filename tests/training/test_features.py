"""What the settings switch on, each against the plain way of doing it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import trainable
from safetensors.torch import load_file
from torch import nn

import hotlap
from hotlap.errors import InputError
from hotlap.training import checkpoint, loop
from hotlap.training.averaging import Average
from hotlap.training.preparing import not_exact, prepare_model, to_device
from hotlap.training.recompute import recompute_layers, repeated_layers
from hotlap.training.settings import Settings
from hotlap.workload.target import load_target

GIVEN: dict[str, Any] = {"threads": 1, "device": "cpu"}

IMAGES = """
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        return torch.relu(self.norm(self.conv(x))) + x

class ImageNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(Block(), Block(), Block())
        self.head = nn.Linear(8, 3)

    def forward(self, images):
        return self.head(self.blocks(self.stem(images)).mean((2, 3)))

def image_model():
    torch.manual_seed(0)
    return ImageNet()

class Images(Dataset):
    def __init__(self):
        self.images = drawn(5, 40, 3, 8, 8)
    def __len__(self):
        return 40
    def __getitem__(self, index):
        return self.images[index], index % 3

workload = Workload(
    name="images", model=image_model, example=lambda batch: drawn(1, batch, 3, 8, 8), training=Images,
    loss=functional.cross_entropy, batch_size=10, epochs=2,
    optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e-2, momentum=0.9),
)
"""
ADAM = """
import dataclasses
workload = dataclasses.replace(workload, optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-2))
"""


def trained(tmp_path: Path, name: str, settings: dict[str, Any], add: str = "") -> dict[str, torch.Tensor]:
    path = tmp_path / "images.py"
    path.write_text(trainable.HEAD + IMAGES + add)
    hotlap.train(str(path), out=tmp_path / name, settings=settings, **GIVEN)
    return load_file(tmp_path / name / "model.safetensors")


def difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name].double() - b[name].double()).norm() / (a[name].double().norm() + 1e-9)) for name in a)


@pytest.mark.parametrize("settings", [{"checkpointing": True}, {"fused": True}, {"layout": "channels_last"}], ids=str)
def test_the_same_weights_another_way(settings: dict[str, Any], tmp_path: Path) -> None:
    """Running statistics too: a layer computed twice must count a batch once."""
    assert difference(trained(tmp_path, "plain", {}), trained(tmp_path, "other", settings)) < 1e-3


def in_channels_last(value: torch.Tensor) -> bool:
    return value.is_contiguous(memory_format=torch.channels_last) and not value.is_contiguous()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_weights_and_images_lie_as_the_layout_says(layout: Any, tmp_path: Path) -> None:
    settings = Settings(layout=layout)
    (tmp_path / "images.py").write_text(trainable.HEAD + IMAGES)
    model = prepare_model(load_target(str(tmp_path / "images.py")), settings)
    weights = [one for one in model.parameters() if one.ndim == 4]
    images, labels = to_device((torch.randn(4, 3, 8, 8), torch.arange(4)), settings)
    assert len(weights) == 4
    assert {in_channels_last(one) for one in (*weights, images)} == {layout == "channels_last"}
    assert labels.equal(torch.arange(4))


@pytest.mark.slow
def test_every_step_runs_what_the_compiler_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of the kernels, which take long to build, torch's own calls; the rest is the compiler's."""
    from torch._inductor import compile_fx

    runs: list[int] = []

    def built(graph: Any, *_: Any, **__: Any) -> Any:
        def run(*given: Any) -> Any:
            runs.append(len(given))
            return graph(*given)

        return run

    plain = trained(tmp_path, "plain", {"epochs": 1})
    assert not runs
    monkeypatch.setattr(compile_fx, "compile_fx", built)
    try:
        compiled = trained(tmp_path, "compiled", {"epochs": 1, "compile": True})
    finally:
        torch.compiler.reset()
    assert len(runs) == 4, "an epoch has four steps"
    assert difference(plain, compiled) < 1e-5


@pytest.mark.exhaustive
def test_a_compiled_model_ends_with_the_same_weights(tmp_path: Path) -> None:
    assert difference(trained(tmp_path, "plain", {}), trained(tmp_path, "other", {"compile": True})) < 1e-3


@pytest.mark.parametrize("settings", [{"layout": "channels_last", "fused": True}, {"ema": 0.8, "clip": 1.0}], ids=str)
def test_a_resumed_run_keeps_layout_and_average(settings: dict[str, Any], tmp_path: Path) -> None:
    """The fused kernel goes through moments and weights in the order of memory: other strides would mix them up."""
    whole = trained(tmp_path, "whole", {**settings, "checkpoint_seconds": 0}, ADAM)
    out = tmp_path / "whole"
    for path in [out / "result.json", out / "model.safetensors", *(out / "checkpoints").glob("step-00000008.*")]:
        path.unlink()
    result = hotlap.train(str(tmp_path / "images.py"), out=out, resume=True, **GIVEN)
    assert result["training"]["resumed_from_step"] == 7
    again = load_file(out / "model.safetensors")
    assert all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_and_keeps_fp32_weights(precision: str, tmp_path: Path) -> None:
    plain, half = trained(tmp_path, "plain", {}), trained(tmp_path, "half", {"precision": precision})
    assert 0 < difference(plain, half) < 0.05, "0.018 with bf16, 0.009 with fp16; of what starts at 0 all was learnt"
    assert {value.dtype for value in half.values()} == {torch.float32, torch.int64}


def test_the_average_is_torchs() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    theirs = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9), use_buffers=False
    )
    theirs.update_parameters(model)
    ours = Average(model, 0.9)
    for _ in range(4):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        ours.update()
        theirs.update_parameters(model)
    wanted = dict(theirs.module.named_parameters())
    assert all(torch.allclose(value, wanted[name]) for name, value in ours.tensors.items())
    before = copy.deepcopy(model.state_dict())
    with ours.in_place():
        assert torch.equal(model.weight, ours.tensors["weight"])
    assert torch.equal(model.weight, before["weight"])


def test_only_outermost_repeated_layers_with_weights_are_recomputed() -> None:
    def layer() -> nn.Module:
        return nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.ReLU()))

    model = nn.ModuleDict({"encoder": nn.ModuleList([layer(), layer()]), "flat": nn.Sequential(nn.Linear(2, 2))})
    assert list(repeated_layers(model)) == ["encoder.0", "encoder.1"]
    names = [name for name, _ in model.named_parameters()]
    recompute_layers(model)
    assert [name for name, _ in model.named_parameters()] == names


def test_recomputed_layers_are_compiled_but_for_those_with_running_statistics() -> None:
    def layers(norm: Any) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), norm(4), nn.Dropout(0.1)) for _ in range(2)))

    def gradient(model: nn.Module) -> torch.Tensor:
        torch.manual_seed(1)
        model(torch.randn(8, 4)).square().mean().backward()
        (found,) = [value.grad for name, value in model.named_parameters() if name == "0.0.weight"]
        assert found is not None
        return found

    plain, both = layers(nn.LayerNorm), layers(nn.LayerNorm)
    plain.compile(backend="aot_eager")
    assert recompute_layers(both, compiled=True) == ["0", "1"]
    both.compile(backend="aot_eager")
    assert torch.equal(gradient(plain), gradient(both))
    with pytest.raises(InputError, match="compile=true can't be had together here: '0' has running statistics"):
        recompute_layers(layers(nn.BatchNorm1d), compiled=True)


def test_layers_whose_result_depends_on_the_cut_are_named() -> None:
    model = nn.Sequential(
        nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.1), nn.Dropout(0.0), nn.LSTM(2, 2, 2, dropout=0.5)
    )
    assert not_exact(model) == {"batch statistics": ["1"], "randomness": ["2", "4"]}


def test_cutting_a_step_is_warned_about(tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows")
    result = hotlap.train(target, out=tmp_path / "out", settings={"epochs": 1, "micro_batch": 8}, **GIVEN)
    assert [warning for warning in result["warnings"] if "1 layers have batch statistics (layers.1)" in warning]
    assert [warning for warning in result["warnings"] if "1 layers have randomness (layers.3)" in warning]


def test_frozen_parameters_stay(tmp_path: Path) -> None:
    add = """
def half_frozen():
    net = model()
    net.layers[0].requires_grad_(False)
    return net

import dataclasses
workload = dataclasses.replace(workload, model=half_frozen)
"""
    target = trainable.write(tmp_path, "rows", add=add)
    hotlap.train(target, out=tmp_path / "out", settings={"epochs": 1}, **GIVEN)
    trained_weights = load_file(tmp_path / "out" / "model.safetensors")
    fresh = load_target(target).workload.model().state_dict()
    assert torch.equal(trained_weights["layers.0.weight"], fresh["layers.0.weight"])
    assert not torch.equal(trained_weights["layers.4.weight"], fresh["layers.4.weight"])


def test_early_stop_keeps_the_best_weights(tmp_path: Path) -> None:
    """A rate that ruins the model after the first epochs: the run stops, and what it wrote is the best."""
    add = """
import dataclasses
workload = dataclasses.replace(workload, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=2.0))
"""
    target = trainable.write(tmp_path, "rows", add=add)
    result = hotlap.train(target, out=tmp_path / "out", settings={"epochs": 30, "early_stop": 2}, **GIVEN)
    training = result["training"]
    assert training["stopped_early"]
    assert training["epochs"] == training["best_epoch"] + 2
    kept = load_file(tmp_path / "out" / "checkpoints" / f"best-{training['best_epoch'] * 10:08d}.safetensors")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(written[name], kept[f"model.{name}"]) for name in written)


def test_the_best_weights_are_the_average_that_was_scored(tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows")
    found = []
    for name, settings in {"average": {}, "best": {"early_stop": 1}}.items():
        hotlap.train(target, out=tmp_path / name, settings={"ema": 0.9, "epochs": 1, **settings}, **GIVEN)
        found.append(load_file(tmp_path / name / "model.safetensors"))
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_loader_processes_read_the_same(tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows")
    for workers in (0, 2):
        hotlap.train(target, out=tmp_path / str(workers), settings={"epochs": 1, "workers": workers}, **GIVEN)
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("0", "2"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_one_step_is_torchs_own(tmp_path: Path) -> None:
    """The whole loop against a hand-written one, on data without augmentation."""
    from hotlap.training.order import epoch_order

    weights = trained(tmp_path, "ours", {"epochs": 1})
    workload = load_target(str(tmp_path / "images.py")).workload
    model, data = workload.model().train(), workload.training()
    optimizer = workload.optimizer(model.parameters())
    for rows in torch.from_numpy(epoch_order(40, seed=0, epoch=0)).split(10):
        optimizer.zero_grad()
        workload.loss(model(data.images[rows]), rows % 3).backward()
        optimizer.step()
    assert difference(weights, model.state_dict()) < 1e-6


def test_shared_weights_are_kept_once_and_go_on_shared(tmp_path: Path) -> None:
    add = """
class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.second.weight = self.first.weight

    def forward(self, rows):
        return self.head(self.second(torch.relu(self.first(rows))))

import dataclasses
workload = dataclasses.replace(workload, model=Tied)
"""
    target = trainable.write(tmp_path, "rows", add=add)
    hotlap.train(target, out=tmp_path / "out", settings={"epochs": 1}, **GIVEN)
    names = set(load_file(tmp_path / "out" / "model.safetensors"))
    assert len(names & {"first.weight", "second.weight"}) == 1
    again = hotlap.train(f"{target}@{tmp_path / 'out'}", out=tmp_path / "more", settings={"epochs": 1}, **GIVEN)
    assert again["training"]["steps"] == 10


@pytest.mark.parametrize(("pays", "saved"), [(0.0, 4), (1e9, 2)])
def test_short_epochs_are_saved_where_that_is_a_small_part_of_the_time_and_the_last_always(
    pays: float, saved: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first too: what a checkpoint costs is not known before."""
    steps: list[int] = []

    def noted(folder: Path, taken: Any, **options: Any) -> None:
        steps.append(taken.step)
        save(folder, taken, **options)

    save = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", noted)
    monkeypatch.setattr(loop, "_SAVING_PAYS", pays)
    trained(tmp_path, "out", {"epochs": 4})
    assert len(steps) == saved
    assert (steps[0], steps[-1]) == (4, 16)


def test_the_norm_of_sparse_gradients_is_that_of_dense_ones(tmp_path: Path) -> None:
    """An embedding with sparse gradients, whose norm takes another way."""
    norms = []
    for sparse in (False, True):
        path = tmp_path / "words.py"
        path.write_text(trainable.HEAD + WORDS % sparse)
        hotlap.train(str(path), out=tmp_path / str(sparse), **GIVEN)
        lines = (tmp_path / str(sparse) / "metrics.jsonl").read_text().splitlines()
        norms.append([line["gradient_norm"] for line in map(json.loads, lines) if "gradient_norm" in line])
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


WORDS = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(20, 4, sparse=%s)
        self.head = nn.Linear(4, 3)

    def forward(self, words):
        return self.head(self.words(words).mean(1))

def model():
    torch.manual_seed(0)
    return Net()

class Texts(Dataset):
    def __len__(self):
        return 20
    def __getitem__(self, index):
        return torch.arange(5) * (index + 1) %% 20, index %% 3

workload = Workload(
    name="words", model=model, example=lambda batch: torch.zeros(batch, 5, dtype=torch.long), training=Texts,
    loss=functional.cross_entropy, batch_size=10, epochs=2, optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
)
"""
