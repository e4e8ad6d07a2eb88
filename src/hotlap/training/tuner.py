"""The search for the fastest set-up: changes are tried one upon another, each against what was best before.

Whole steps are timed in processes of their own, in turn with those of what is best so far. A change stays if the steps
with it are faster by more than the noise floor.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from hotlap.core import Interval, Json, Start, to_json
from hotlap.errors import CandidateFailed, LoaderDied, OutOfMemory, Refusal, WorkerTimeout
from hotlap.measure import pairs, statistics
from hotlap.measure.pairs import Blocks
from hotlap.measure.worker import Worker
from hotlap.search.setting import LOAD_SECONDS
from hotlap.training.bench import FAILURES, TIMING, Bench, memory_told, told
from hotlap.training.confirming import Costs, Found, kept_for_confirming, per_example, settle
from hotlap.training.fitting import that_fits, too_large
from hotlap.training.leader import Leader
from hotlap.training.set_ups import Change, changes, idle, once_more, together
from hotlap.training.settings import Settings
from hotlap.training.stopping import EndNow

SCREENING = Blocks(pairs=6, seconds=0.3, timeout=300.0, enough_seconds=4.0)
HOPELESS = 3.0
"""What takes so many times as long as the baseline is timed three times only."""
BUDGET_SPENT = "the budget was spent"
_INTERRUPTED = "the tuning was interrupted"
_TOLD_INTERRUPTED = {"event": "phase", "phase": "interrupted: the best so far is confirmed; once more ends at once"}
_BUSY = 0.05
"""A noise floor above this is not the machine's own: 0.01 to 0.03 where nothing else runs."""
_SURE_GAIN = math.expm1(1.645 * statistics.BETWEEN_PROCESS_SD)
"""Of two processes of the same thing the second is faster than the first by more than this 1 time in 20."""
_COMPILED_LOAD = 2.0
"""What was compiled before, and lies in the compiler's cache, loads so many times as long as what is not compiled: 1.2
to 2.0 were measured."""
_TRIES = 3
"""So often is timed, at the most, what something else on the machine spoils."""


def tune(bench: Bench, usual: Settings) -> Found:
    """Search. Raises Refusal where the own set-up can't train, or no set-up of the same result fits the memory."""
    baseline, peak, warnings = that_fits(bench, usual)
    bench.tell({"event": "phase", "phase": "timing the workload's own set-up against itself"})
    began = time.monotonic()
    with ExitStack() as stack:
        with _of_the_own():
            leader = Leader(bench, baseline, stack)
            load_seconds = time.monotonic() - began
            floor, baseline_ms, baseline_held, timed_seconds = _noise(bench, leader, peak.bytes)
        costs = Costs(own_load=load_seconds, load=load_seconds, timed=timed_seconds, peak=peak.seconds)
        if floor > _BUSY:
            warnings.append(
                f"gains below {floor:.0%} can't be told from noise here: something else uses the machine; run it again "
                "when that is over"
            )
        left = max(0.0, bench.deadline - time.monotonic())
        if (needed := kept_for_confirming(left, costs)) > left:
            warnings.append(
                f"{left:.0f} s of the budget were left, and to try one change and confirm it takes about "
                f"{needed:.0f} s here, so that none was tried; give {needed - left:.0f} s more with --budget, at least"
            )
        tried = changes(
            bench.study,
            baseline,
            compiler=bench.compiler,
            loading_share=baseline_held["loading_share"],
            other_batch_sizes=bench.other_batch_sizes,
        )
        if _seconds(tried, baseline_held["loading_share"], costs) > left - kept_for_confirming(left, costs):
            tried = together(tried, baseline_held["loading_share"])
        bests, rows = climbed(bench, leader, tried, floor, baseline_held, costs)
        again = once_more(tried, rows)
        if again is not None and not leader.given_up and not leader.interrupted:
            bests, rows = _climbed_again(bench, leader, again, bests, rows, floor, baseline_held, costs)
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
    return settle(bench, found, *bests[:0:-1], least_seconds=costs.confirming, interrupted=leader.interrupted)


def _climbed_again(
    bench: Bench,
    leader: Leader,
    again: Change,
    bests: list[Settings],
    rows: list[dict[str, Any]],
    floor: float,
    held: Json,
    costs: Costs,
) -> tuple[list[Settings], list[dict[str, Any]]]:
    """One more change beside a fresh process of the best, where there is time; `bests` and `rows` with what it gave.

    `held` is what `timing.held` gave of the baseline, the first of `bests`.
    """
    seconds = costs.load + costs.a_change + costs.peak + costs.confirming
    if time.monotonic() + seconds >= bench.deadline:
        return bests, rows
    led = next((row for row in reversed(rows) if row["status"] == "passed"), held)
    try:
        leader.give_way(bests[-1], None, ExitStack())
        more, found = climbed(bench, leader, [again], floor, led, costs, speed=_speed(rows), own=bests[0])
    except EndNow:
        raise
    except KeyboardInterrupt:  # While its process was begun: what was found before that counts.
        leader.interrupted = True
        bench.tell(_TOLD_INTERRUPTED)
        return bests, [*rows, {**_row(again), "status": "skipped", "reason": _INTERRUPTED}]
    return [*bests, *more[1:]], [*rows, *found]


def _seconds(tried: Sequence[Change], loading_share: float, costs: Costs) -> float:
    """To try each of them; what is tried only upon another is not counted."""
    alone = [one for one in tried if not (one.upon or _skipped_because(one, (), loading_share))]
    return sum(costs.a_change + (costs.peak if one.holds_more else 0.0) for one in alone)


def climbed(
    bench: Bench,
    leader: Leader,
    tried: Sequence[Change],
    floor: float,
    held: Json,
    costs: Costs,
    speed: float = 1.0,
    own: Settings | None = None,
) -> tuple[list[Settings], list[dict[str, Any]]]:
    """Each change upon the best so far: what was best in turn, from the baseline on, and a row for each change.

    `held` is what `timing.held` gave of the leader, and `speed` the leader's over `own`, the workload's own set-up
    (None: the leader is that). Interrupted, it tries nothing more, and what is best by then goes on to be confirmed.
    """
    bests = [leader.settings]
    own = own or leader.settings
    rows: list[dict[str, Any]] = []
    left = bench.deadline - time.monotonic()
    for change in tried:
        reason = _skipped_because(change, rows, held["loading_share"]) or leader.given_up
        if reason is None and leader.interrupted:
            reason = _INTERRUPTED
        memory_seconds = costs.peak if change.holds_more else 0.0
        if reason is None and time.monotonic() > bench.deadline - kept_for_confirming(left, costs) - memory_seconds:
            reason = BUDGET_SPENT
        row = _row(change)
        if reason:
            rows.append({**row, "status": "skipped", "reason": reason})
            continue
        settings = replace(bests[-1], **change.settings)
        after = replace(costs, load=max(costs.load, _COMPILED_LOAD * costs.own_load)) if settings.compile else costs
        until = bench.deadline - after.confirming - memory_seconds
        try:
            bench.tell({"event": "start", "name": change.name})
            with ExitStack() as candidate:
                found = _screened(bench, leader, settings, least_ratio(change, floor), until, candidate)
                row |= found.row(speed)
                if row["status"] == "passed" and change.holds_more and not _has_room(bench, held, row):
                    candidate.close()
                    found = replace(found, worker=None)
                row |= too_large(bench, own, change, settings, row)
                # The memory is that of a batch of the whole width, which has to be compiled then, too.
                late = time.monotonic() + found.load_seconds + after.confirming > bench.deadline
                if row["status"] == "passed" and settings.compile and settings.trim and late:
                    row |= {"status": "skipped", "reason": BUDGET_SPENT}
                if row["status"] == "passed":
                    bests.append(settings)
                    speed, held = row["speedup"]["estimate"], row
                    costs = after if settings.compile else replace(costs, load=max(costs.load, found.load_seconds))
                rows.append(row)
                bench.tell({"event": "done", **row})
                if row["status"] == "passed":
                    leader.give_way(settings, found.worker, candidate)
        except EndNow:
            raise
        except KeyboardInterrupt:
            leader.interrupted = True
            if not rows or rows[-1] is not row:
                rows.append({**row, "status": "skipped", "reason": _INTERRUPTED})
            bench.tell(_TOLD_INTERRUPTED)
    return bests, rows


def _row(change: Change) -> dict[str, Any]:
    return {"name": change.name, "settings": dict(change.settings)}


def _speed(rows: Sequence[Mapping[str, Any]]) -> float:
    """Of the last that passed, over the workload's own set-up."""
    return next((row["speedup"]["estimate"] for row in reversed(rows) if row["status"] == "passed"), 1.0)


def _has_room(bench: Bench, leader: Json, candidate: Json) -> bool:
    """Whether a third process fits beside these two: one whose memory is measured on the largest batch. Not on CUDA,
    whose memory is another than the limits are of."""
    third = max((peak.bytes for peak in bench.peaks.values()), default=0)
    held = leader["peak_memory_bytes"] + candidate["peak_memory_bytes"] + third
    on_cpu = all(settings.device == "cpu" for settings in bench.peaks)
    return on_cpu and bench.timing_limit is not None and held <= 2 * bench.timing_limit


def least_ratio(change: Change, floor: float) -> float:
    """The speed over the best so far from which on a change stays.

    Another number format changes what is learnt, and compiling takes its time at each start, so that noise alone must
    hardly ever bring them in.
    """
    return 1 + (max(floor, _SURE_GAIN) if {"precision", "compile"} & change.settings.keys() else floor)


def _skipped_because(change: Change, rows: Sequence[Mapping[str, Any]], loading_share: float) -> str | None:
    """Why a change is not tried after those of `rows`, where steps wait such a share of their time for data."""
    reason = change.reason or idle(change, loading_share)
    if change.within is not None and any(row["name"] == change.within and row["status"] == "passed" for row in rows):
        return f"taken with others, and not timed alone: {change.within}"
    below = [row for row in rows if row["name"] in change.upon]
    if reason or not change.upon or any(row["status"] == "passed" for row in below):
        return reason
    for status, what in (("rejected", "brought nothing"), ("failed", "failed")):
        names = [row["name"] for row in below if row["status"] == status]
        if names:
            return f"{' and '.join(names)} {what}"
    return str(below[0]["reason"])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Screened:
    """What timing a set-up gave: a row, with its speed over the leader's, and the process that was timed and what it
    took to load; None and 0 where there is none."""

    outcome: Mapping[str, Any]
    over_leader: Interval | None = None
    worker: Worker | None = None
    load_seconds: float = 0.0

    def row(self, leaders: float) -> Json:
        """With the speed over the workload's own set-up, where the leader's over that is `leaders`."""
        if self.over_leader is None:
            return dict(self.outcome)
        one = self.over_leader
        over_own = Interval(estimate=leaders * one.estimate, low=leaders * one.low, high=leaders * one.high)
        return {**self.outcome, "speedup": to_json(over_own)}


def _screened(
    bench: Bench, leader: Leader, settings: Settings, least: float, until: float, held: ExitStack
) -> _Screened:
    """A set-up in turn with the leader; it passes where it is `least` times as fast. `held` ends its process.

    What has no answer by `until` (on time.monotonic's clock) is given up, but for a block of steps begun before that.
    """

    def left() -> float:
        return max(1.0, min(LOAD_SECONDS, until - time.monotonic()))

    began = time.monotonic()
    try:
        with memory_told():
            (worker,) = held.enter_context(bench.hold(settings, seconds=left()))
            load_seconds = time.monotonic() - began
            batches = settings.batch_size / leader.settings.batch_size
            blocks = replace(SCREENING, hopeless=HOPELESS * batches, timeout=left())
            start = per_example(timed(leader, worker, blocks, until, late=until)[0], leader.settings, settings)
            holds = worker.call(f"{TIMING}:held", timeout=LOAD_SECONDS)
    except FAILURES as error:
        held.close()
        if isinstance(error, WorkerTimeout) and time.monotonic() > until:
            return _Screened(outcome={"status": "skipped", "reason": BUDGET_SPENT})
        if not leader.failed():
            return _Screened(outcome={"status": "failed", "reason": told(error)})
        leader.renew(told(error))
        if leader.given_up:
            return _Screened(outcome={"status": "skipped", "reason": leader.given_up})
        return _screened(bench, leader, settings, least, until, held)
    row = {**holds, "median_ms": statistics.median_ms([start.candidate_ms]) * batches}
    if _cut_short(start, SCREENING):
        longer = min(start.candidate_ms) / max(start.baseline_ms)
        reason = f"a step took {longer:.1f} times as long; it was timed three times"
        return _Screened(outcome={**row, "status": "rejected", "reason": reason}, load_seconds=load_seconds)
    interval = statistics.screening(start)
    reason = f"no faster than without it: {interval.estimate:.3f} times the speed, {least:.3f} was needed"
    judged = {"status": "passed"} if interval.estimate > least else {"status": "rejected", "reason": reason}
    return _Screened(outcome={**row, **judged}, over_leader=interval, worker=worker, load_seconds=load_seconds)


def timed(
    leader: Leader, worker: Worker, blocks: Blocks, until: float, *, late: float = math.inf
) -> tuple[Start, float]:
    """The leader and another in turn: again, where something else spoiled that before `until`, and then the try
    that it spoiled least, with the seconds that this one took. Which side is faster plays no part in it.

    Raises WorkerTimeout where it has no answer by `late`.
    """
    tries: list[tuple[Start, float]] = []
    spoiled = True
    while not tries or (spoiled and len(tries) < _TRIES and time.monotonic() < until):
        began = time.monotonic()
        try:
            start, _ = pairs.measure(leader.worker, worker, blocks, late)
        except WorkerTimeout:
            if tries:
                break
            raise
        tries.append((start, time.monotonic() - began))
        spoiled = not _cut_short(start, blocks) and statistics.was_disturbed(start, leader.usual_spread)
    return min(tries, key=lambda one: (_cut_short(one[0], blocks), statistics.block_spread(one[0])))


def _cut_short(start: Start, blocks: Blocks) -> bool:
    """Whether the candidate was hopeless: so few blocks tell nothing of what else spoiled them."""
    return len(start.candidate_ms) < blocks.least_pairs


@contextmanager
def _of_the_own() -> Iterator[None]:
    """What fails while the workload's own set-up is timed against itself ends the search, in a sentence."""
    try:
        yield
    except OutOfMemory as error:
        raise Refusal(
            f"the workload's own set-up ran out of memory when it was timed: {told(error)}. Two trainings are held "
            "side by side for that, and share the memory; give a smaller batch_size, or more memory"
        ) from error
    except (CandidateFailed, LoaderDied) as error:
        raise Refusal(f"the workload's own set-up can't be timed here: {told(error)}") from error


def _noise(bench: Bench, leader: Leader, peak_bytes: int) -> tuple[float, float, Json, float]:
    """The noise floor, the median ms of a step, what a process of them held, and the seconds of timing it."""
    with bench.hold(leader.settings) as (second,):
        start, seconds = timed(leader, second, SCREENING, bench.deadline)
        held = second.call(f"{TIMING}:held", timeout=LOAD_SECONDS)
    held["peak_memory_bytes"] = max(held["peak_memory_bytes"], peak_bytes + held["loading_bytes"])
    leader.usual_spread = statistics.block_spread(start)
    return statistics.noise_floor([start]), statistics.median_ms([start.baseline_ms]), held, seconds
