"""The search for the fastest set-up: changes are tried one upon another, each against the workload's own set-up.

Whole steps are timed, in turn with the baseline's, in processes of their own. A change stays if the steps with it
are faster than with what was best before by more than the noise floor.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from hotlap.core import Json, Start, to_json
from hotlap.errors import CandidateFailed, LoaderDied, OutOfMemory, Refusal, WorkerTimeout
from hotlap.measure import pairs, statistics
from hotlap.measure.pairs import Blocks
from hotlap.measure.worker import Worker
from hotlap.search.setting import LOAD_SECONDS
from hotlap.training.bench import FAILURES, TIMING, Bench, told
from hotlap.training.confirming import Costs, Found, kept_for_confirming, per_example, settle
from hotlap.training.fitting import that_fits, too_large
from hotlap.training.set_ups import Change, changes, idle, together
from hotlap.training.settings import Settings
from hotlap.training.stopping import EndNow

SCREENING = Blocks(pairs=6, seconds=0.3, timeout=300.0, enough_seconds=4.0)
HOPELESS = 3.0
"""What takes so many times as long as the baseline is timed three times only."""
BUDGET_SPENT = "the budget was spent"
_INTERRUPTED = "the tuning was interrupted"
_SURE_GAIN = math.expm1(1.645 * math.sqrt(2) * statistics.BETWEEN_PROCESS_SD)
"""Of two single starts of the same thing the second is faster than the first by more than this 1 time in 20."""
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
            own = Own(bench, baseline, stack)
            load_seconds = time.monotonic() - began
            floor, baseline_ms, baseline_held, timed_seconds = _noise(bench, own, peak.bytes)
        costs = Costs(own_load=load_seconds, load=load_seconds, timed=timed_seconds, peak=peak.seconds)
        left = max(0.0, bench.deadline - time.monotonic())
        if kept_for_confirming(left, costs) > left:
            warnings.append(
                f"{left:.0f} s of the budget were left, and to try one change and confirm it takes about "
                f"{costs.a_change + costs.confirming:.0f} s here, so that none was tried; give a longer --budget"
            )
        tried = changes(
            bench.study,
            baseline,
            compiler=bench.compiler,
            loading_share=baseline_held["loading_share"],
            other_batch_sizes=bench.other_batch_sizes,
        )
        if _seconds(tried, baseline_held["loading_share"], costs) > left - kept_for_confirming(left, costs):
            tried = together(tried, baseline, baseline_held["loading_share"])
        bests, rows = climbed(bench, own, tried, floor, baseline_held, costs)
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
    interrupted = any(row.get("reason") == _INTERRUPTED for row in rows)
    return settle(bench, found, *bests[:0:-1], least_seconds=costs.confirming, interrupted=interrupted)


def _seconds(tried: Sequence[Change], loading_share: float, costs: Costs) -> float:
    """To try each of them; what is tried only upon another is not counted."""
    count = sum(1 for one in tried if not (one.upon or _skipped_because(one, (), loading_share)))
    return count * costs.a_change


class Own:
    """The process of the workload's own set-up, which changes are timed against. It is started anew, once, where it
    fails: it trains through the whole search, and may come to what no candidate does."""

    def __init__(self, bench: Bench, settings: Settings, stack: ExitStack) -> None:
        """`stack` ends the processes. Raises what Bench.hold does."""
        self._bench, self._stack = bench, stack
        self.settings = settings
        self.given_up: str | None = None
        """Why no change can be timed any more."""
        self.usual_spread = 0.0
        """Of its blocks against those of another process of the same, statistics.block_spread."""
        self._again = False
        self.worker = self._started()

    def failed(self) -> bool:
        """Whether the last that went wrong was this process's."""
        try:
            return self.worker.ended or bool(self.worker.call(f"{TIMING}:failed", timeout=LOAD_SECONDS))
        except CandidateFailed:
            return True

    def renew(self, reason: str) -> None:
        """Start it anew; the second time, and where it can't be, give it up."""
        self.worker.close()
        if not self._again:
            self._again = True
            try:
                self.worker = self._started()
                return
            except FAILURES as error:
                reason = told(error)
        self.given_up = f"the workload's own set-up, which changes are timed against, failed: {reason}"

    def _started(self) -> Worker:
        (worker,) = self._stack.enter_context(self._bench.hold(self.settings))
        return worker


def climbed(
    bench: Bench, own: Own, tried: Sequence[Change], floor: float, held: Json, costs: Costs
) -> tuple[list[Settings], list[dict[str, Any]]]:
    """Each change upon the best so far: what was best in turn, from the baseline on, and a row for each change.

    `held` is what `timing.held` gave of the baseline. Interrupted, it tries nothing more, and what is best by then goes
    on to be confirmed.
    """
    bests, ratio, interrupted = [own.settings], 1.0, False
    rows: list[dict[str, Any]] = []
    left = bench.deadline - time.monotonic()
    for change in tried:
        reason = _skipped_because(change, rows, held["loading_share"]) or own.given_up
        if reason is None and interrupted:
            reason = _INTERRUPTED
        memory_seconds = costs.peak if change.holds_more else 0.0
        if reason is None and time.monotonic() > bench.deadline - kept_for_confirming(left, costs) - memory_seconds:
            reason = BUDGET_SPENT
        row: dict[str, Any] = {"name": change.name, "settings": dict(change.settings)}
        if reason:
            rows.append({**row, "status": "skipped", "reason": reason})
            continue
        settings = replace(bests[-1], **change.settings)
        try:
            bench.tell({"event": "start", "name": change.name})
            after = replace(costs, load=max(costs.load, _COMPILED_LOAD * costs.own_load)) if settings.compile else costs
            until = bench.deadline - after.confirming - memory_seconds
            found, load_seconds = _screened(bench, own, settings, least_ratio(change, ratio, floor), until)
            row |= found
            row |= too_large(bench, own.settings, change, settings, row)
            # The memory is that of a batch of the whole width, which has to be compiled then, too.
            late = (
                settings.compile
                and settings.trim
                and time.monotonic() + load_seconds + after.confirming > bench.deadline
            )
            if late and row["status"] == "passed":
                row |= {"status": "skipped", "reason": BUDGET_SPENT}
            if row["status"] == "passed":
                bests.append(settings)
                ratio, held = row["speedup"]["estimate"], row
                costs = after if settings.compile else replace(costs, load=max(costs.load, load_seconds))
            rows.append(row)
            bench.tell({"event": "done", **row})
        except EndNow:
            raise
        except KeyboardInterrupt:
            interrupted = True
            if not rows or rows[-1] is not row:
                rows.append({**row, "status": "skipped", "reason": _INTERRUPTED})
            bench.tell({"event": "phase", "phase": "interrupted: the best so far is confirmed; once more ends at once"})
    return bests, rows


def least_ratio(change: Change, ratio: float, floor: float) -> float:
    """The speed over the baseline from which on a change stays, where that of the best so far is `ratio`.

    Another number format changes what is learnt, so that noise alone must hardly ever bring it in.
    """
    return ratio * (1 + (max(floor, _SURE_GAIN) if "precision" in change.settings else floor))


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


def _screened(
    bench: Bench, own: Own, settings: Settings, least: float, until: float
) -> tuple[Mapping[str, Any], float]:
    """The row of a set-up in turn with the baseline's process, and the seconds of loading it; it passes where it is
    `least` times as fast.

    What has no answer by `until` (on time.monotonic's clock) is given up, but for a block of steps begun before that.
    """
    baseline = own.settings

    def left() -> float:
        return max(1.0, min(LOAD_SECONDS, until - time.monotonic()))

    began = time.monotonic()
    try:
        with bench.hold(settings, seconds=left()) as (worker,):
            load_seconds = time.monotonic() - began
            hopeless = HOPELESS * settings.batch_size / baseline.batch_size
            blocks = replace(SCREENING, hopeless=hopeless, timeout=left())
            start = per_example(timed(own, worker, blocks, until, late=until)[0], baseline, settings)
            held = worker.call(f"{TIMING}:held", timeout=LOAD_SECONDS)
    except FAILURES as error:
        if isinstance(error, WorkerTimeout) and time.monotonic() > until:
            return {"status": "skipped", "reason": BUDGET_SPENT}, 0.0
        if not own.failed():
            return {"status": "failed", "reason": told(error)}, 0.0
        own.renew(told(error))
        if own.given_up:
            return {"status": "skipped", "reason": own.given_up}, 0.0
        return _screened(bench, own, settings, least, until)
    return {**held, **_judged(start, settings.batch_size / baseline.batch_size, least)}, load_seconds


def timed(own: Own, worker: Worker, blocks: Blocks, until: float, *, late: float = math.inf) -> tuple[Start, float]:
    """The own set-up and another in turn: again, where something else spoiled that before `until`, and then the try
    that it spoiled least, with the seconds that this one took. Which side is faster plays no part in it.

    Raises WorkerTimeout where it has no answer by `late`.
    """
    tries: list[tuple[Start, float]] = []
    spoiled = True
    while not tries or (spoiled and len(tries) < _TRIES and time.monotonic() < until):
        began = time.monotonic()
        try:
            start, _ = pairs.measure(own.worker, worker, blocks, late)
        except WorkerTimeout:
            if tries:
                break
            raise
        tries.append((start, time.monotonic() - began))
        spoiled = not _cut_short(start, blocks) and statistics.was_disturbed(start, own.usual_spread)
    return min(tries, key=lambda one: (_cut_short(one[0], blocks), statistics.block_spread(one[0])))


def _cut_short(start: Start, blocks: Blocks) -> bool:
    """Whether the candidate was hopeless: so few blocks tell nothing of what else spoiled them."""
    return len(start.candidate_ms) < blocks.least_pairs


def _judged(start: Start, batches: float, least: float) -> Mapping[str, Any]:
    """The row of a start whose candidate's steps have so many batches of the baseline's."""
    median_ms = statistics.median_ms([start.candidate_ms]) * batches
    if _cut_short(start, SCREENING):
        longer = min(start.candidate_ms) / max(start.baseline_ms)
        reason = f"a step took {longer:.1f} times as long; it was timed three times"
        return {"median_ms": median_ms, "status": "rejected", "reason": reason}
    interval = statistics.screening(start)
    row = {"median_ms": median_ms, "speedup": to_json(interval)}
    if interval.estimate > least:
        return {**row, "status": "passed"}
    reason = f"no faster than without it: {interval.estimate:.3f} times the baseline's speed, {least:.3f} was needed"
    return {**row, "status": "rejected", "reason": reason}


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


def _noise(bench: Bench, own: Own, peak_bytes: int) -> tuple[float, float, Json, float]:
    """The noise floor, the median ms of a step, what a process of them held, and the seconds of timing it."""
    with bench.hold(own.settings) as (second,):
        start, seconds = timed(own, second, SCREENING, bench.deadline)
        held = second.call(f"{TIMING}:held", timeout=LOAD_SECONDS)
    held["peak_memory_bytes"] = max(held["peak_memory_bytes"], peak_bytes + held["loading_bytes"])
    own.usual_spread = statistics.block_spread(start)
    return statistics.noise_floor([start]), statistics.median_ms([start.baseline_ms]), held, seconds
