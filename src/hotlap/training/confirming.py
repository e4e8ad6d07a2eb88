"""What a search found is confirmed in fresh processes before it counts, and time is kept for that."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hotlap.core import Interval, Json, Start
from hotlap.measure import pairs, statistics
from hotlap.measure.pairs import Blocks
from hotlap.search.setting import LOAD_SECONDS
from hotlap.training.bench import FAILURES, TIMING, Bench, told
from hotlap.training.settings import Settings
from hotlap.training.stopping import EndNow

CONFIRMING = Blocks(pairs=4, seconds=0.3, timeout=300.0, least_pairs=2, enough_seconds=4.0)
_SHARE_OF_SCREENING = 2 / 3
"""So much of what timing one takes in the search it takes here: 4 pairs of blocks are two thirds of 6."""
_LEAST_SHARE = 0.35
"""So much of the time is kept for the confirmation at least."""
_REPLACED = "a later change took its place"


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
    dropped_because: str = _REPLACED

    def outcomes(self) -> list[dict[str, Any]]:
        """The rows, with what is in the best as chosen, and what else was faster as dropped with its reason."""
        passed = [row for row in self.rows if row["status"] == "passed"]
        return [self._outcome(row, passed) if row["status"] == "passed" else dict(row) for row in self.rows]

    def _outcome(self, row: Mapping[str, Any], passed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        if all(getattr(self.best, name) == value for name, value in row["settings"].items()):
            return {**row, "status": "chosen"}
        later = passed[passed.index(row) + 1 :]
        others = [one["settings"].get(key, value) != value for one in later for key, value in row["settings"].items()]
        return {**row, "status": "dropped", "reason": _REPLACED if any(others) else self.dropped_because}


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What things take, in seconds: loading a process of the own set-up and one of the best so far, timing one in turn
    with another, and finding the memory of one."""

    own_load: float
    load: float
    timed: float
    peak: float

    @property
    def a_change(self) -> float:
        """To try one more."""
        return self.load + self.timed

    @property
    def confirming(self) -> float:
        """Until the first look at the best, whose memory takes as much longer to find as it takes to load."""
        start = self.own_load + self.load + _SHARE_OF_SCREENING * self.timed
        return self.peak + self.load - self.own_load + statistics.LOOKS.at[0] * start


def kept_for_confirming(left: float, costs: Costs) -> float:
    """Of `left` seconds, what the first look at the best and one last change take; a share at least."""
    return max(_LEAST_SHARE * max(0.0, left), costs.confirming + costs.a_change)


class Unconfirmed(KeyboardInterrupt):
    """Interrupted before the best was confirmed; `found` is what was found, with the baseline as the best."""

    def __init__(self, found: Found) -> None:
        super().__init__()
        self.found = found


def settle(
    bench: Bench, found: Found, *tried: Settings, least_seconds: float = 0.0, interrupted: bool = False
) -> Found:
    """What was found, with the first of `tried` that does not fail as the best, where fresh processes confirm it as
    faster; else with the baseline. Another one is tried where there are `least_seconds` until the deadline.

    A first Ctrl-C, where the search has not been `interrupted` before, ends it as soon as there is an interval to judge
    by. Raises Unconfirmed at the next, and at SIGTERM.
    """
    for index, settings in enumerate(tried):
        if index and time.monotonic() + least_seconds > bench.deadline:
            break
        try:
            starts, held = _confirmed(bench, found, settings, interrupted)
        except KeyboardInterrupt as error:
            raise Unconfirmed(give_up(found, "interrupted before it was confirmed")) from error
        except FAILURES as error:
            found = give_up(found, f"it failed when it was to be confirmed: {told(error)}")
            continue
        speedup = statistics.speedup(starts)
        if statistics.verdict(speedup, found.noise_floor) != "faster":
            return give_up(found, "together with the others it was not confirmed as faster")
        return replace(found, best=settings, best_held=held, starts=tuple(starts), speedup=speedup)
    return found


def give_up(found: Found, reason: str) -> Found:
    """What was found, with the baseline as the best, since what was faster is not to be taken for that reason."""
    return replace(
        found, best=found.baseline, best_held=found.baseline_held, starts=(), speedup=None, dropped_because=reason
    )


def per_example(start: Start, baseline: Settings, settings: Settings) -> Start:
    """The candidate's times for as many examples as a step of the baseline has."""
    share = baseline.batch_size / settings.batch_size
    return replace(start, candidate_ms=tuple(share * ms for ms in start.candidate_ms))


def medians(starts: Sequence[Start]) -> tuple[float, float]:
    """The baseline's and the best's median ms over all starts, for as many examples as a baseline's step has."""
    return (
        statistics.median_ms([start.baseline_ms for start in starts]),
        statistics.median_ms([start.candidate_ms for start in starts]),
    )


def starts_wanted(starts: Sequence[Start], noise_floor: float, *, spent: bool) -> int | None:
    """How many starts the next look is at; None where these settle whether the best is faster by more than the noise
    floor, or the budget is spent and there are enough to say anything."""
    if starts and statistics.settled(starts, noise_floor=noise_floor):
        return None
    if spent and statistics.speedup_ready(starts):
        return None
    return statistics.next_look(starts)


def _confirmed(bench: Bench, found: Found, best: Settings, interrupted: bool) -> tuple[list[Start], Json]:
    """Both again, in fresh processes each time, until the question is settled or the budget is spent.

    The best's memory on the epoch's largest batch comes first: what is found holds for a whole epoch.
    """
    starts: list[Start] = []
    held: Json = None
    longest = 0.0

    def spent() -> bool:
        """Whether another start would end after the deadline, or none is wanted."""
        return interrupted or time.monotonic() + longest > bench.deadline

    while look := starts_wanted(starts, found.noise_floor, spent=spent()):
        while len(starts) < look and not (spent() and statistics.speedup_ready(starts)):
            began = time.monotonic()
            try:
                if not starts:
                    bench.tell({"event": "phase", "phase": "the memory of the best"})
                    bench.peak(best)
                    began = time.monotonic()
                bench.tell({"event": "phase", "phase": f"confirming the best, start {len(starts) + 1}"})
                with bench.hold(found.baseline, best) as (first, second):
                    measured, _ = pairs.measure(first, second, CONFIRMING)
                    held = second.call(f"{TIMING}:held", timeout=LOAD_SECONDS)
                starts.append(per_example(measured, found.baseline, best))
                peak_bytes = bench.peak(best, beside=held["loading_bytes"]).bytes
                held["peak_memory_bytes"] = max(held["peak_memory_bytes"], peak_bytes)
            except EndNow:
                raise
            except KeyboardInterrupt:
                if interrupted:
                    raise
                interrupted = True
                bench.tell({"event": "phase", "phase": "interrupted: judged by what there is; once more ends at once"})
            longest = max(longest, time.monotonic() - began)
    return starts, held
