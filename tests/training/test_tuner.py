"""The search on real processes: what is tried upon what, and whose failure is whose."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import trainable

from hotlap.core import Interval, Start
from hotlap.errors import Refusal, WorkloadError
from hotlap.measure import pairs, statistics
from hotlap.measure import timing as blocks
from hotlap.measure.statistics import BETWEEN_PROCESS_SD
from hotlap.training import timing, tuner
from hotlap.training.bench import Bench, Peak
from hotlap.training.confirming import Costs
from hotlap.training.leader import Leader
from hotlap.training.set_ups import Change, together
from hotlap.training.settings import Settings
from hotlap.training.tuner import BUDGET_SPENT, SCREENING, _has_room, _Screened, climbed, least_ratio, timed, tune

STUDY: dict[str, Any] = {
    "bf16_arithmetic": True, "images": False, "fused": True, "foreach": False, "optimizer": "AdamW",
    "in_passes": {"reason": None}, "repeated": 0, "locked": [], "trim": {"reason": "no"}, "at_once": {"reason": "no"},
    "kernels": {"reason": None, "attention": 0, "masked": 0}, "length_buckets": {"reason": "no padding"},
    "kept_memory": {"reason": "no"}, "examples": None,
}  # fmt: skip
COSTS = Costs(own_load=0.0, load=0.0, timed=0.0, peak=0.0)
FUSED = Change(name="fused optimizer", settings={"fused": True})
BF16 = Change(name="bf16", settings={"precision": "bf16"})
LOADER = Change(name="1 loader process", settings={"workers": 1}, loading=True)


def bench(folder: Path, *, add: str = "", seconds: float = 300.0, **limits: Any) -> Bench:
    return Bench(
        target=trainable.write(folder, "rows", add=add), study=STUDY, memory_limit=4 * 2**30, work=folder,
        deadline=time.monotonic() + seconds, compiler=False, other_batch_sizes=False, tell=lambda event: None, **limits,
    )  # fmt: skip


def held(loading_share: float) -> dict[str, float]:
    return {"loading_share": loading_share, "peak_memory_bytes": 2**29}


@contextmanager
def own_of(search: Bench) -> Iterator[Leader]:
    with ExitStack() as stack:
        yield Leader(search, Settings(threads=1, batch_size=16), stack)


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ("loss=lambda outputs, labels: outputs.sum() * float('nan')", "gave a loss that is not finite"),
        ("training=lambda: []", "`training` gave no batch"),
    ],
)
def test_steps_that_cant_be_timed(tmp_path: Path, replaced: str, message: str) -> None:
    add = f"import dataclasses\nworkload = dataclasses.replace(workload, {replaced})\n"
    threads = torch.get_num_threads()
    with pytest.raises(WorkloadError, match=message):
        timing.hold(
            {}, target=trainable.write(tmp_path, "tokens", add=add), settings=Settings(threads=threads).to_json()
        )


def test_a_slow_step_is_timed_once_a_block_from_the_first_on(tmp_path: Path) -> None:
    state: dict[str, Any] = {}
    settings = Settings(threads=torch.get_num_threads(), batch_size=16).to_json()
    timing.hold(state, target=trainable.write(tmp_path, "rows", add=trainable.slow_rows(0.02)), settings=settings)
    before = len(state["call"].rows)
    assert len(blocks.block(state, seconds=0.0)["times_ms"]) == 1
    assert len(state["call"].rows) == before + 1


def test_another_number_format_is_hardly_ever_kept_by_noise() -> None:
    """The best so far and a change without effect, in two processes."""
    drawn = np.random.default_rng(0).normal(0.0, BETWEEN_PROCESS_SD, 20_000)
    assert 0.045 < np.mean(np.exp(drawn) > least_ratio(BF16, 0.013)) < 0.055
    assert least_ratio(FUSED, 0.013) == pytest.approx(1.013)
    assert least_ratio(BF16, 0.2) == pytest.approx(1.2)
    assert least_ratio(Change(name="compile", settings={"compile": True}), 0.013) == least_ratio(BF16, 0.013)


LOADER_DIES = """
import os, signal
from torch.utils.data import get_worker_info
_read = Rows.__getitem__
def _last(self, index):
    if get_worker_info() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return _read(self, index)
Rows.__getitem__ = _last
"""


@pytest.mark.slow
def test_a_loader_process_that_ends_is_a_failed_row(tmp_path: Path) -> None:
    search = bench(tmp_path, add=LOADER_DIES)
    with own_of(search) as own:
        bests, (row,) = climbed(search, own, [LOADER], 0.01, held(0.9), COSTS)
    assert bests == [own.settings]
    assert row["status"] == "failed"
    assert row["reason"] == "a loader process ended by itself, most often for want of memory"


OWN_FAILS = """
import os, pathlib
MARK = pathlib.Path(__file__ + ".failed")
calls = 0
def failing(outputs, labels):
    global calls
    calls += 1
    if calls == 10 and len(MARK.read_text() if MARK.exists() else "") < TIMES and not torch.is_autocast_enabled("cpu"):
        with MARK.open("a") as file:
            file.write("x")
        raise ValueError("a corrupt row")
    return functional.cross_entropy(outputs, labels)
import dataclasses
workload = dataclasses.replace(workload, loss=failing)
"""
"""The first processes that compute in fp32, which is the workload's own, fail at their tenth step."""


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_a_failure_of_the_own_process_is_no_candidates(tmp_path: Path, times: int) -> None:
    search = bench(tmp_path, add=f"TIMES = {times}\n{OWN_FAILS}")
    with own_of(search) as own:
        _, rows = climbed(search, own, [BF16, FUSED], 9.0, held(0.0), COSTS)
    if times == 1:
        assert [row["status"] for row in rows] == ["rejected", "rejected"]
    else:
        assert [row["status"] for row in rows] == ["skipped", "skipped"]
        assert "workload's own set-up, which changes are timed against, failed: " in rows[1]["reason"]
        assert "a corrupt row" in rows[1]["reason"]


@pytest.mark.slow
def test_whether_there_is_anything_to_wait_for_is_asked_of_the_best_so_far(tmp_path: Path) -> None:
    slow = "if not torch.is_autocast_enabled('cpu'): time.sleep(0.3)\n        "
    add = f"""
import time
class Slow(Net):
    def forward(self, rows):
        {slow}return super().forward(rows)
import dataclasses
workload = dataclasses.replace(workload, model=Slow)
"""
    search = bench(tmp_path, add=add)
    with own_of(search) as own:
        _, rows = climbed(search, own, [LOADER, BF16, LOADER], 0.01, held(0.001), COSTS)
    assert [row["status"] for row in rows[:2]] == ["skipped", "passed"]
    assert rows[2]["status"] != "skipped"


MANY = """
import dataclasses
workload = dataclasses.replace(workload, training=lambda: Rows(20_500, 3))
"""


@pytest.mark.slow
def test_a_look_through_a_part_of_the_data_is_told_and_a_spent_budget_tries_nothing(tmp_path: Path) -> None:
    found = tune(bench(tmp_path, add=MANY, seconds=0.0), Settings(threads=1, batch_size=16))
    assert found.best == found.baseline
    assert {row["reason"] for row in found.rows if row["name"] in ("bf16", "fused optimizer")} == {
        "the budget was spent"
    }
    assert "memory is that of the largest of 10,250 examples" in found.warnings[0]
    assert found.warnings[1].startswith("0 s of the budget were left, and to try one change and confirm it takes about")


@pytest.mark.slow
def test_a_spent_budget_ends_the_search_for_what_fits(tmp_path: Path) -> None:
    search = bench(tmp_path, seconds=0.0, peak_limit=50 * 2**20)
    words = "the budget was spent before a set-up was found that fits the memory: with the workload's own set-up: used"
    with pytest.raises(Refusal, match=words):
        tune(search, Settings(threads=1, batch_size=16))


@pytest.mark.slow
def test_two_trainings_that_have_no_room(tmp_path: Path) -> None:
    search = bench(tmp_path, timing_limit=50 * 2**20)
    with pytest.raises(Refusal, match="Two trainings are held side by side"):
        tune(search, Settings(threads=1, batch_size=16))


@pytest.mark.slow
def test_what_has_no_answer_in_time_is_left_untried(tmp_path: Path) -> None:
    search = bench(tmp_path, add=trainable.slow_rows(0.02))
    with own_of(search) as own:
        # Loading takes longer than what is left until the confirmation.
        costs = Costs(own_load=0.0, load=0.0, timed=0.0, peak=search.deadline - time.monotonic() - 0.2)
        _, (row,) = climbed(search, own, [FUSED], 0.01, held(0.0), costs)
    assert (row["status"], row["reason"]) == ("skipped", "the budget was spent")


@pytest.mark.slow
def test_what_takes_too_much_memory_is_not_taken(tmp_path: Path) -> None:
    kept = Change(name="kept memory", settings={"keep_memory": True}, holds_more=True, most_memory=1.25)
    search = bench(tmp_path)
    with own_of(search) as own:
        _, (row,) = climbed(search, own, [kept], -0.9, held(0.0), COSTS)
        bests, (other,) = climbed(search, own, [replace(kept, most_memory=0.5)], -0.9, held(0.0), COSTS)
    assert row["status"] == "passed"
    assert bests == [own.settings]
    assert other["status"] == "rejected"
    assert re.fullmatch(r"it takes \d+\.\d\d times the memory on the epoch's largest .*", other["reason"])


def test_memory_is_held_to_that_of_the_own_set_up_also_where_another_leads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, led, beside = Settings(threads=1), Settings(threads=1, precision="bf16"), list[Settings]()
    search = bench(tmp_path)
    leader: Any = SimpleNamespace(
        settings=led, given_up=None, interrupted=False, give_way=lambda *given: None, usual_spread=0.0
    )
    faster = Interval(estimate=1.1, low=1.0, high=1.2)
    passed = _Screened(outcome={"status": "passed", "loading_bytes": 0, **held(0.0)}, over_leader=faster)
    monkeypatch.setattr(tuner, "_screened", lambda *given: passed)
    monkeypatch.setattr(tuner, "too_large", lambda bench, baseline, *others: beside.append(baseline) or {})
    kept = Change(name="kept memory", settings={"keep_memory": True}, holds_more=True, most_memory=1.25)
    rows = [{"name": "bf16", "status": "passed", "speedup": {"estimate": 2.0}, **held(0.2)}]
    bests, found = tuner._climbed_again(search, leader, kept, [own, led], rows, 0.01, held(0.0), COSTS)
    assert beside == [own]
    assert bests == [own, led, replace(led, keep_memory=True)]
    assert found[-1]["speedup"]["estimate"] == pytest.approx(2.2)


@pytest.mark.slow
def test_ctrl_c_is_heeded_also_where_nothing_more_would_be_tried(tmp_path: Path) -> None:
    def interrupt(event: Any) -> None:
        if event["event"] == "done":
            raise KeyboardInterrupt

    search = replace(bench(tmp_path), tell=interrupt)
    with own_of(search) as own:
        bests, rows = climbed(search, own, [FUSED], -0.9, held(0.0), COSTS)
        assert own.interrupted
    assert [row["status"] for row in rows] == ["passed"]
    assert len(bests) == 2


def test_a_rows_speed_is_over_the_own_set_up() -> None:
    over_leader = Interval(estimate=1.5, low=1.2, high=2.0)
    row = _Screened(outcome={"status": "passed"}, over_leader=over_leader).row(2.0)
    assert row == {"status": "passed", "speedup": {"estimate": 3.0, "low": 2.4, "high": 4.0}}


@pytest.mark.parametrize(("limit", "room"), [(None, False), (2, True), (1, False)])
def test_a_third_process_has_room_where_three_fit_the_machine(tmp_path: Path, limit: int | None, room: bool) -> None:
    gibibytes = {"peak_memory_bytes": 2**30}
    search = bench(tmp_path, timing_limit=limit and limit * 2**30)
    search.peaks[Settings()] = Peak(bytes=2**30, seconds=1.0, looked_at=1, whole=True)
    assert _has_room(search, gibibytes, gibibytes) == room
    search.peaks[Settings(device="cuda")] = search.peaks[Settings()]
    assert not _has_room(search, gibibytes, gibibytes)


@pytest.mark.slow
def test_what_was_taken_together_is_not_tried_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held_so_often, hold = list[Any](), Bench.hold

    def counted(self: Bench, *given: Any, **named: Any) -> Any:
        held_so_often.append(given)
        return hold(self, *given, **named)

    monkeypatch.setattr(Bench, "hold", counted)
    kept = Change(name="kept memory", settings={"keep_memory": True}, holds_more=True)
    tried = together([BF16, FUSED, kept], 0.0)
    search = bench(tmp_path, timing_limit=4 * 2**30)
    with own_of(search) as own:
        bests, (whole, _, *alone) = climbed(search, own, tried, -0.9, held(0.0), COSTS)
        # What is best is what the next change is timed against, in the process that it was timed in.
        assert own.settings == bests[-1]
        assert not own.worker.ended
    assert own.worker.ended
    assert len(held_so_often) == 3
    assert whole["status"] == "passed"
    assert bests[1] == replace(own.settings, fused=True, keep_memory=True)
    assert {one["reason"] for one in alone} == {"taken with others, and not timed alone: fused optimizer + kept memory"}


@pytest.mark.parametrize(
    ("usual", "spoiled", "tries"), [(0.01, 1, 2), (0.01, 0, 1), (0.01, 9, 3), (0.3, 9, 1)],
    ids=["once", "never", "always", "as much as usual"],
)  # fmt: skip
def test_what_something_else_spoiled_is_timed_again(
    usual: float, spoiled: int, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blocks of each try are drawn, so that nothing hangs on what runs here."""
    draw, starts = np.random.default_rng(0), list[Start]()

    def measure(*given: Any) -> tuple[Start, float]:
        spread = 0.6 - 0.1 * len(starts) if len(starts) < spoiled else 0.01
        drawn = np.exp(draw.normal(0.0, spread, (2, 6)))
        starts.append(Start(baseline_ms=tuple(drawn[0]), candidate_ms=tuple(drawn[1])))
        return starts[-1], 0.0

    monkeypatch.setattr(pairs, "measure", measure)
    own: Any = SimpleNamespace(worker=None, usual_spread=usual)
    found, _ = timed(own, own, SCREENING, time.monotonic() + 60)
    assert len(starts) == tries
    assert found == min(starts, key=statistics.block_spread)


def start_of(*candidate_ms: float) -> Start:
    return Start(baseline_ms=(10.0,) * len(candidate_ms), candidate_ms=candidate_ms)


CALM, SPOILED, HOPELESS = start_of(*[10.0] * 6), start_of(10, 10, 20, 40, 10, 10), start_of(90, 40, 41)


@pytest.mark.parametrize(
    ("tries", "taken"), [([SPOILED, CALM], 1), ([HOPELESS], 0), ([SPOILED, HOPELESS], 0)],
    ids=["spoiled once", "hopeless at once", "hopeless later"],
)  # fmt: skip
def test_what_a_timing_takes_is_that_of_the_try_that_counts(
    tries: list[Start], taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was cut short has few blocks, which would seem calm. The clock goes as the tries say."""
    clock, left = [0.0], list(enumerate(tries, 1))

    def measure(*given: Any) -> tuple[Start, float]:
        number, start = left.pop(0)
        clock[0] += 10.0 * number
        return start, 0.0

    monkeypatch.setattr(pairs, "measure", measure)
    monkeypatch.setattr(tuner, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    own: Any = SimpleNamespace(worker=None, usual_spread=0.01)
    assert timed(own, own, SCREENING, 100.0) == (tries[taken], 10.0 * (taken + 1))
    assert not left


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([("rejected", "slow"), ("rejected", "slow")], "1 loader process and 2 loader processes brought nothing"),
        ([("rejected", "slow"), ("skipped", BUDGET_SPENT)], "1 loader process brought nothing"),
        ([("failed", "it died"), ("skipped", BUDGET_SPENT)], "1 loader process failed"),
        ([("skipped", BUDGET_SPENT), ("skipped", BUDGET_SPENT)], BUDGET_SPENT),
        ([("skipped", "locked"), ("skipped", "locked")], "locked"),
        ([("rejected", "slow"), ("passed", None)], None),
    ],
)
def test_what_was_not_tried_brought_nothing_to_nobody(rows: list[Any], reason: str | None) -> None:
    names = ("1 loader process", "2 loader processes")
    ahead = Change(name="4 batches read ahead", settings={"prefetch": 4}, upon=names)
    found = [{"name": name, "status": status, "reason": why} for name, (status, why) in zip(names, rows, strict=True)]
    assert tuner._skipped_because(ahead, found, 0.5) == reason


def test_all_that_was_best_may_be_confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit the memory may be in the last two of them."""
    bests, told = [Settings(threads=number) for number in range(1, 6)], list[Any]()
    peak = SimpleNamespace(bytes=1, seconds=0.0)
    search: Any = SimpleNamespace(
        tell=lambda event: None, deadline=math.inf, study=STUDY, compiler=False, other_batch_sizes=False
    )
    monkeypatch.setattr(tuner, "that_fits", lambda bench, usual: (usual, peak, []))
    monkeypatch.setattr(tuner, "Leader", lambda *given: SimpleNamespace(given_up=None, interrupted=False))
    monkeypatch.setattr(tuner, "_noise", lambda *given: (0.22, 1.0, held(0.5), 0.0))
    monkeypatch.setattr(tuner, "climbed", lambda *given, **named: (bests, []))
    monkeypatch.setattr(tuner, "settle", lambda bench, found, *tried, **given: told.extend(tried))
    tune(search, bests[0])
    assert told == bests[:0:-1]
    # Ctrl-C while another process is begun, to look once more: what was found counts.
    settled: list[Any] = []

    def interrupted(*given: Any) -> None:
        raise KeyboardInterrupt

    leader = SimpleNamespace(given_up=None, interrupted=False, give_way=interrupted)
    monkeypatch.setattr(tuner, "Leader", lambda *given: leader)
    monkeypatch.setattr(tuner, "once_more", lambda tried, rows: Change(name="again", settings={"fused": True}))
    monkeypatch.setattr(tuner, "settle", lambda bench, found, *tried, **given: settled.append((found, tried, given)))
    tune(search, bests[0])
    ((found, tried, given),) = settled
    assert list(tried) == bests[:0:-1]
    assert given["interrupted"]
    assert found.rows[-1]["reason"] == "the tuning was interrupted"
    (warning,) = found.warnings
    assert warning.startswith("gains below 22% can't be told from noise here: something else uses the machine; run it")
