"""The search for the fastest set-up: changes are tried one upon another, each against the workload's own set-up.

Whole steps are timed, in turn with the baseline's, in processes of their own. A change stays if the steps with it
are faster than with what was best before by more than the noise floor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hotlap.core import Interval, Json, Start, to_json
from hotlap.errors import CandidateFailed, OutOfMemory, Refusal, WorkloadError
from hotlap.measure import pairs, statistics
from hotlap.measure.pairs import Blocks
from hotlap.measure.worker import Worker
from hotlap.search.setting import LOAD_SECONDS, start_worker
from hotlap.training.set_ups import Change, changes, thriftier
from hotlap.training.settings import Settings

_TIMING = "hotlap.training.timing"
SCREENING = Blocks(pairs=4, seconds=0.3, timeout=300.0)
CONFIRMING = Blocks(pairs=4, seconds=0.3, timeout=300.0)
_CONFIRMING_SHARE = 0.35
"""So much of the budget is left for the confirmation."""
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
DATA_BOUND = 0.1
"""A step that waits longer than this share of its time for data is bound by loading."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What stays the same through one search. `deadline` is on time.monotonic's clock."""

    target: str
    study: Json
    memory_limit: int | None
    work: Path
    deadline: float
    compiler: bool
    tell: Callable[[Json], None]

    def hold(self, settings: Settings) -> Worker:
        """A process that holds a step with these settings. Raises CandidateFailed or OutOfMemory."""
        worker = start_worker(settings.threads, self.memory_limit, self.work)
        try:
            worker.call(f"{_TIMING}:hold", target=self.target, settings=settings.to_json(), timeout=LOAD_SECONDS)
        except WorkloadError as error:
            worker.close()
            if any(words in str(error).lower() for words in _OUT_OF_MEMORY):
                raise OutOfMemory(str(error)) from error
            raise
        except BaseException:
            worker.close()
            raise
        return worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What the search found: the baseline, the best, one row for each change, the figures behind them."""

    baseline: Settings
    best: Settings
    rows: list[dict[str, Any]]
    noise_floor: float
    starts: tuple[Start, ...]
    speedup: Interval | None
    baseline_ms: float
    baseline_held: Json
    best_held: Json
    warnings: tuple[str, ...] = field(default=())
    dropped_because: str = "a later change took its place"

    def outcomes(self) -> list[dict[str, Any]]:
        """The rows, with what is in the best as chosen, and what else was faster as dropped with its reason."""
        return [self._outcome(row) if row["status"] == "passed" else dict(row) for row in self.rows]

    def _outcome(self, row: Mapping[str, Any]) -> dict[str, Any]:
        if all(getattr(self.best, name) == value for name, value in row["settings"].items()):
            return {**row, "status": "chosen"}
        return {**row, "status": "dropped", "reason": self.dropped_because}


def tune(bench: Bench, usual: Settings) -> Found:
    """Search. Raises Refusal where not even the thriftiest set-up of the same result fits the memory."""
    baseline, warnings = _that_fits(bench, usual)
    floor, baseline_ms, baseline_held = _noise(bench, baseline)
    best, ratio, rows = baseline, 1.0, []
    search_until = bench.deadline - _CONFIRMING_SHARE * max(0.0, bench.deadline - time.monotonic())
    for change in changes(bench.study, baseline, compiler=bench.compiler):
        row, gained = _tried(bench, baseline, best, ratio, floor, change, search_until)
        rows.append(row)
        if gained is not None:
            best, ratio = replace(best, **change.settings), gained
    found = Found(
        baseline=baseline,
        best=baseline,
        rows=rows,
        noise_floor=floor,
        starts=(),
        speedup=None,
        baseline_ms=baseline_ms,
        baseline_held=baseline_held,
        best_held=baseline_held,
        warnings=tuple(warnings),
    )
    return settle(bench, found, best) if best != baseline else found


def settle(bench: Bench, found: Found, settings: Settings) -> Found:
    """What was found, with `settings` as the best where fresh processes confirm them as faster; else the baseline."""
    try:
        starts, held = _confirmed(bench, found.baseline, settings)
    except CandidateFailed as error:
        return give_up(found, f"it failed when it was to be confirmed: {error}")
    speedup = statistics.speedup(starts)
    if statistics.verdict(speedup, found.noise_floor) != "faster":
        return give_up(found, "together with the others it was not confirmed as faster")
    return replace(found, best=settings, best_held=held, starts=tuple(starts), speedup=speedup)


def give_up(found: Found, reason: str) -> Found:
    """What was found, with the baseline as the best, since what was faster is not to be taken for that reason."""
    return replace(
        found, best=found.baseline, best_held=found.baseline_held, starts=(), speedup=None, dropped_because=reason
    )


def _that_fits(bench: Bench, usual: Settings) -> tuple[Settings, list[str]]:
    """The workload's own set-up, or the nearest of the same result that fits the memory."""
    tried = [Change(name="the workload's own set-up"), *thriftier(bench.study, usual)]
    last = ""
    for change in tried:
        settings = replace(usual, **change.settings)
        try:
            bench.hold(settings).close()
        except OutOfMemory as error:
            last = str(error)
            continue
        told = f"the workload's own set-up runs out of memory; compared with {change.name} instead"
        return settings, [told] if change.settings else []
    raise Refusal(f"no set-up of the same result fits the memory: with {tried[-1].name} it {last}; allow more")


def _noise(bench: Bench, baseline: Settings) -> tuple[float, float, Json]:
    """The noise floor, the median ms of a step, and what a process of them held."""
    bench.tell({"event": "phase", "phase": "timing the workload's own set-up against itself"})
    with bench.hold(baseline) as first, bench.hold(baseline) as second:
        start, _ = pairs.measure(first, second, SCREENING)
        held = first.call(f"{_TIMING}:held", timeout=LOAD_SECONDS)
        return statistics.noise_floor([start]), statistics.median_ms([start.baseline_ms]), held


def _tried(
    bench: Bench, baseline: Settings, best: Settings, ratio: float, floor: float, change: Change, until: float
) -> tuple[dict[str, Any], float | None]:
    """One change upon the best so far: its row, and the ratio over the baseline where it is to stay."""
    row: dict[str, Any] = {"name": change.name, "settings": dict(change.settings)}
    reason = change.reason or ("the budget was spent" if time.monotonic() > until else None)
    if reason:
        return {**row, "status": "skipped", "reason": reason}, None
    bench.tell({"event": "start", "name": change.name})
    try:
        with bench.hold(baseline) as first, bench.hold(replace(best, **change.settings)) as second:
            start, _ = pairs.measure(first, second, SCREENING)
            row |= second.call(f"{_TIMING}:held", timeout=LOAD_SECONDS)
    except (CandidateFailed, WorkloadError) as error:
        bench.tell({"event": "done", "name": change.name, "status": "failed", "reason": str(error)})
        return {**row, "status": "failed", "reason": str(error)}, None
    interval = statistics.screening(start)
    row |= {"median_ms": statistics.median_ms([start.candidate_ms]), "speedup": to_json(interval)}
    gained = interval.estimate > ratio * (1 + floor)
    row["status"] = "passed" if gained else "rejected"
    if not gained:
        row["reason"] = f"no faster than without it ({interval.estimate:.3f}x the baseline, before {ratio:.3f}x)"
    bench.tell({"event": "done", **row})
    return row, interval.estimate if gained else None


def _confirmed(bench: Bench, baseline: Settings, best: Settings) -> tuple[list[Start], Json]:
    """Both again, in fresh processes each time, until the question is settled or the budget is spent."""
    starts: list[Start] = []
    held: Json = None
    while True:
        look = statistics.next_look(starts)
        settled = bool(starts) and statistics.settled(starts, noise_floor=0.0)
        if look is None or settled or (statistics.speedup_ready(starts) and time.monotonic() > bench.deadline):
            return starts, held
        while len(starts) < look:
            bench.tell({"event": "phase", "phase": f"confirming the best, start {len(starts) + 1}"})
            with bench.hold(baseline) as first, bench.hold(best) as second:
                starts.append(pairs.measure(first, second, CONFIRMING)[0])
                held = second.call(f"{_TIMING}:held", timeout=LOAD_SECONDS)


def medians(starts: Sequence[Start]) -> tuple[float, float]:
    """The baseline's and the best's median ms a step over all starts."""
    return (
        statistics.median_ms([start.baseline_ms for start in starts]),
        statistics.median_ms([start.candidate_ms for start in starts]),
    )
