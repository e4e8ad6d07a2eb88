"""Predictions, held against processes that really train."""

import re
from pathlib import Path

import pytest

from hotlap.errors import InputError, OutOfMemory, WorkloadError
from hotlap.training.memory.predict import Observation, largest_pass, measure, observe, predict
from hotlap.training.settings import Settings


@pytest.fixture(scope="module")
def seen(trains: Path) -> Observation:
    return observe(f"{trains}:workload", Settings(ema=0.9), batches=(64, 128))


@pytest.mark.slow
def test_a_prediction_meets_the_measured_peak(seen: Observation, trains: Path) -> None:
    # Large enough that what a step takes is a good part of the process.
    batch = 16_000
    foreseen = predict(seen, batch)
    real = measure(f"{trains}:workload", Settings(ema=0.9), batch=batch, steps=4)
    assert foreseen.peak_bytes == pytest.approx(real["peak_bytes"], rel=0.1)
    assert foreseen.steps_bytes > 0.3 * real["peak_bytes"]
    assert foreseen.steps_bytes >= foreseen.tensors_peak_bytes
    assert foreseen.holdings["activations"]["norm"] == 4 * (batch * 1024 + 2 * 1024)


@pytest.mark.slow
def test_larger_batches_need_more(seen: Observation) -> None:
    peaks = [predict(seen, batch).peak_bytes for batch in (128, 1000, 10_000, 100_000)]
    assert peaks == sorted(peaks)
    assert peaks[-1] > 100_000 * 1024 * 4


@pytest.mark.slow
def test_the_largest_pass_that_fits(seen: Observation) -> None:
    limit = predict(seen, 5000).peak_bytes
    found = largest_pass(seen, limit, at_most=100_000)
    assert found is not None
    assert predict(seen, found).peak_bytes <= limit < predict(seen, found + 1).peak_bytes
    assert largest_pass(seen, limit, at_most=300) == 300
    assert largest_pass(seen, seen.base_bytes // 2, at_most=300) is None


@pytest.mark.slow
def test_a_batch_size_of_none(seen: Observation) -> None:
    with pytest.raises(InputError, match="batch 0: give a batch size from 1 on"):
        predict(seen, 0)


@pytest.mark.slow
def test_what_goes_wrong_is_said(trains: Path) -> None:
    with pytest.raises(
        WorkloadError, match=r"`loss` raised AttributeError: 'Tensor' object has no attribute 'nothing'"
    ):
        observe(f"{trains}:fails", Settings())
    with pytest.raises(OutOfMemory, match=r"more than its limit of 0.7 GiB"):
        measure(f"{trains}:workload", Settings(), batch=100_000, memory_limit=700 * 2**20)


def test_batches_that_are_no_two_sizes(trains: Path) -> None:
    with pytest.raises(InputError, match="batches 8 and 4: give two different sizes"):
        observe(f"{trains}:workload", batches=(8, 4))


@pytest.mark.exhaustive
def test_the_code_in_the_docs_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[3]
    code = re.findall(r"```python\n(.*?)```", (root / "docs" / "monitor.md").read_text(), re.DOTALL)[1]
    monkeypatch.chdir(root)
    names: dict[str, object] = {}
    exec(compile(code, "monitor.md", "exec"), names)
    assert names["foreseen"].holdings["activations"]  # type: ignore[attr-defined]


CONTRASTS = """
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset
from hotlap import Workload

def drawn(rows):
    return torch.randn(rows, 16, generator=torch.Generator().manual_seed(0))

class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, rows):
        return self.layer(rows) @ rows.T

workload = Workload(
    name="contrasts", model=Both, example=drawn, training=lambda: TensorDataset(drawn(4096), torch.zeros(4096)),
    loss=lambda outputs, labels: functional.cross_entropy(outputs, torch.arange(len(outputs))), batch_size=64,
)
"""


@pytest.mark.exhaustive
def test_a_loss_that_sets_rows_against_each_other_needs_the_square(tmp_path: Path) -> None:
    file = tmp_path / "contrasts.py"
    file.write_text(CONTRASTS)
    settings = Settings(threads=1)
    foreseen = predict(observe(file, settings), 3072).peak_bytes
    measured = measure(file, settings, batch=3072, steps=3)
    assert foreseen == pytest.approx(measured["peak_bytes"], rel=0.1)
    assert measured["peak_bytes"] - measured["base_bytes"] > 3 * 4 * 3072**2
