"""Timing in turn: how many pairs of blocks there are."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hotlap.errors import WorkerTimeout
from hotlap.measure.pairs import Blocks, measure
from hotlap.measure.worker import Worker

HOLDING = """
def hold(state): state["call"] = lambda: sum(range(1000))
"""


SLOW = """
def hold(state): state["call"] = lambda: sum(range(100_000))
"""


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[tuple[Worker, Worker]]:
    (tmp_path / "holding.py").write_text(HOLDING)
    (tmp_path / "slow.py").write_text(SLOW)
    with (
        Worker(environment={"PYTHONPATH": str(tmp_path)}) as first,
        Worker(environment={"PYTHONPATH": str(tmp_path)}) as second,
    ):
        for worker in (first, second):
            worker.call("holding:hold", timeout=30.0)
        yield first, second


@pytest.mark.parametrize(("enough_seconds", "pairs"), [(0.0, 4), (float("inf"), 6)])
def test_slow_blocks_are_fewer(sides: tuple[Worker, Worker], enough_seconds: float, pairs: int) -> None:
    start, overhead = measure(*sides, Blocks(pairs=6, seconds=0.0, enough_seconds=enough_seconds))
    assert len(start.baseline_ms) == len(start.candidate_ms) == pairs
    assert 0 <= overhead <= 1


@pytest.mark.parametrize(("hopeless", "pairs"), [(5.0, 3), (100_000.0, 4)])
def test_a_hopeless_candidate_is_timed_three_times(sides: tuple[Worker, Worker], hopeless: float, pairs: int) -> None:
    """It takes some hundred times as long here."""
    baseline, candidate = sides
    candidate.call("slow:hold", timeout=30.0)
    start, _ = measure(baseline, candidate, Blocks(pairs=4, seconds=0.0, hopeless=hopeless))
    assert len(start.baseline_ms) == len(start.candidate_ms) == pairs


class Scripted:
    """A worker whose blocks take what is given, in turn."""

    def __init__(self, *ms: float) -> None:
        self._ms = list(ms)

    def call(self, *_: Any, **__: Any) -> Any:
        return {"timed_seconds": 0.0, "times_ms": [self._ms.pop(0)]}

    def pause(self) -> None:
        """Nothing to stop."""


def test_one_stall_makes_no_candidate_hopeless() -> None:
    """The first two blocks of a candidate are neighbours."""
    baseline: Any = Scripted(10.0, 10.0, 10.0, 10.0)
    candidate: Any = Scripted(90.0, 90.0, 9.0, 9.0)
    start, _ = measure(baseline, candidate, Blocks(pairs=4, seconds=0.0, hopeless=3.0))
    assert start.candidate_ms == (90.0, 90.0, 9.0, 9.0)


def test_no_pair_is_begun_after_the_time(sides: tuple[Worker, Worker], monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter(range(100))
    monkeypatch.setattr("hotlap.measure.pairs.time.monotonic", lambda: float(next(looks)))
    blocks = Blocks(pairs=6, seconds=0.0, least_pairs=2)
    # The clock is looked at before each pair, and by the workers' own time-outs, so that each pair takes some.
    begun = len(measure(*sides, blocks, until=25.0)[0].baseline_ms)
    assert 2 <= begun < 6
    with pytest.raises(WorkerTimeout, match="there was time for 0 of 2 pairs of blocks"):
        measure(*sides, blocks, until=-1.0)
