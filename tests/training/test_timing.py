"""Timed steps: what is said of them beside their time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trainable

from hotlap.errors import InputError
from hotlap.training import timing
from hotlap.training.settings import Settings

LOADER = """
import dataclasses
from torch.utils.data import DataLoader
workload = dataclasses.replace(workload, training=lambda: DataLoader(Rows(150, 3), batch_size=8, shuffle=True))
"""


@pytest.mark.parametrize(("add", "rows"), [(LOADER, 8), ("", 64)], ids=["a loader's own batches", "a Dataset"])
def test_a_step_has_the_rows_that_were_read(add: str, rows: int, tmp_path: Path) -> None:
    state: dict[str, Any] = {}
    timing.hold(state, target=trainable.write(tmp_path, "rows", add=add), settings=Settings().to_json())
    state["call"]()
    assert timing.held(state)["rows_a_step"] == rows


@pytest.mark.parametrize(("batch_size", "rows"), [(64, 64), (200, 150)], ids=["two whole steps", "one short step"])
def test_an_epochs_short_last_step_is_not_timed(batch_size: int, rows: int, tmp_path: Path) -> None:
    """Else a step of another batch size would be compared with one of other rows than it says: 150 examples here."""
    state: dict[str, Any] = {}
    settings = Settings(batch_size=batch_size).to_json()
    timing.hold(state, target=trainable.write(tmp_path, "rows"), settings=settings)
    for _ in range(5):
        state["call"]()
    assert set(state["call"].rows) == {rows}


def test_a_step_is_that_of_the_training_with_its_average_and_its_learning_rate(tmp_path: Path) -> None:
    state: dict[str, Any] = {}
    settings = Settings(ema=0.5, warmup=7, clip=0.1, threads=1)
    timing.hold(state, target=trainable.write(tmp_path, "rows"), settings=settings.to_json())
    parts = state["call"]._parts
    before = {name: one.clone() for name, one in parts.average.tensors.items()}
    state["call"]()
    assert parts.optimizer.param_groups[0]["lr"] == pytest.approx(1e-2 * 3 / 8)
    assert any(not one.equal(before[name]) for name, one in parts.average.tensors.items())


def test_a_schedule_needs_to_know_how_many_steps_there_are(tmp_path: Path) -> None:
    add = "import dataclasses\nworkload = dataclasses.replace(workload, training=lambda: iter(batches()))\n"
    target = trainable.write(tmp_path, "tokens", add=add)
    with pytest.raises(InputError, match="schedule=cosine needs to know how many steps there are"):
        timing.study({}, target=target, settings=Settings(schedule="cosine", threads=1).to_json())


SLOW_LOSS = """
import dataclasses, time
def slow(outputs, labels):
    time.sleep(0.05)
    return functional.cross_entropy(outputs, labels)
workload = dataclasses.replace(workload, loss=slow)
"""


@pytest.mark.parametrize(
    ("add", "waits"), [(trainable.slow_rows(0.001), True), (SLOW_LOSS, False)], ids=["slow data", "a slow loss"]
)
def test_the_share_of_a_step_that_waits_for_data(add: str, waits: bool, tmp_path: Path) -> None:
    """64 ms of a step are slept while its data is read, or 50 ms in its loss: the rest takes a few."""
    state: dict[str, Any] = {}
    timing.hold(state, target=trainable.write(tmp_path, "rows", add=add), settings=Settings().to_json())
    for _ in range(3):
        state["call"]()
    assert (timing.held(state)["loading_share"] > 0.5) == waits
    assert 0 < timing.held(state)["loading_share"] < 1


@pytest.mark.parametrize(
    ("name", "locked"), [("tokens", ["batch_size", "micro_batch", "workers", "prefetch", "pin"]), ("rows", [])]
)
def test_batches_of_its_own_leave_no_choice_in_how_they_are_read(name: str, locked: list[str], tmp_path: Path) -> None:
    found = timing.study({}, target=trainable.write(tmp_path, name), settings=Settings().to_json())
    assert sorted(found["locked"]) == sorted(locked)
