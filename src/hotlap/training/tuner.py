"""The search for the fastest set-up: changes are tried one upon another, each against the workload's own set-up.

Whole steps are timed, in turn with the baseline's, in processes of their own. A change stays if the steps with it
are faster than with what was best before by more than the noise floor.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from hotlap.core import Json, Start, to_json
from hotlap.errors import CandidateFailed, LoaderDied, OutOfMemory, Refusal, WorkerTimeout
from hotlap.measure import pairs, statistics
from hotlap.measure.pairs import Blocks
from hotlap.measure.worker import Worker
from hotlap.search.setting import LOAD_SECONDS
from hotlap.training.bench import FAILURES, TIMING, Bench, Peak, told
from hotlap.training.confirming import Costs, Found, kept_for_confirming, per_example, settle
from hotlap.training.set_ups import Change, changes, idle, thriftier
from hotlap.training.settings import Settings
from hotlap.training.stopping import EndNow

SCREENING = Blocks(pairs=6, seconds=0.3, timeout=300.0, enough_seconds=4.0)
HOPELESS = 3.0
"""What takes so many times as long as the baseline is timed twice only."""
BUDGET_SPENT = "the budget was spent"
_INTERRUPTED = "the tuning was interrupted"
_SURE_GAIN = math.expm1(1.645 * math.sqrt(2) * statistics.BETWEEN_PROCESS_SD)
"""Of two single starts of the same thing the second is faster than the first by more than this 1 time in 20."""
_MOST_CONFIRMED = 2
_TRIES = 3
"""So often is timed, at the most, what something else on the machine spoils."""


def tune(bench: Bench, usual: Settings) -> Found:
    """Search. Raises Refusal where the own set-up can't train, or no set-up of the same result fits the memory."""
    baseline, peak, warnings = _that_fits(bench, usual)
    bench.tell({"event": "phase", "phase": "timing the workload's own set-up against itself"})
    began = time.monotonic()
    with ExitStack() as stack:
        with _of_the_own():
            own = Own(bench, baseline, stack)
            load_seconds = time.monotonic() - began
            began = time.monotonic()
            floor, baseline_ms, baseline_held = _noise(bench, own, peak.bytes)
        timed_seconds = max(0.0, time.monotonic() - began - load_seconds)
        costs = Costs(load=load_seconds, timed=timed_seconds, peak=peak.seconds)
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
    return settle(bench, found, *bests[:0:-1][:_MOST_CONFIRMED])


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
    rows, taken = list[dict[str, Any]](), set[str]()
    left = bench.deadline - time.monotonic()
    for change in tried:
        reason = _skipped_because(change, taken, held["loading_share"]) or own.given_up
        if reason is None and interrupted:
            reason = _INTERRUPTED
        if reason is None and time.monotonic() > bench.deadline - kept_for_confirming(left, costs):
            reason = BUDGET_SPENT
        row: dict[str, Any] = {"name": change.name, "settings": dict(change.settings)}
        if reason:
            rows.append({**row, "status": "skipped", "reason": reason})
            continue
        settings = replace(bests[-1], **change.settings)
        try:
            bench.tell({"event": "start", "name": change.name})
            until = bench.deadline - costs.confirming
            began = time.monotonic()
            row |= _screened(bench, own, settings, least_ratio(change, ratio, floor), until)
            row |= _too_much_memory(change, row, held)
            if row["status"] == "passed":
                bests.append(settings)
                ratio, held = row["speedup"]["estimate"], row
                costs = replace(costs, load=max(costs.load, time.monotonic() - began - costs.timed))
                taken.add(change.name)
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


def _skipped_because(change: Change, taken: Set[str], loading_share: float) -> str | None:
    """Why a change is not tried upon those that were taken, whose steps wait such a share of their time for data."""
    reason = change.reason or idle(change, loading_share)
    if reason is None and change.upon and not taken & set(change.upon):
        reason = f"{' and '.join(change.upon)} brought nothing"
    return reason


def _too_much_memory(change: Change, row: Mapping[str, Any], held: Json) -> Json:
    """What becomes of a row that passed, where it takes too much more memory than what was held without the change."""
    times = row.get("peak_memory_bytes", 0) / held["peak_memory_bytes"] if row["status"] == "passed" else 0.0
    if times <= change.most_memory:
        return {}
    reason = f"it takes {times:.2f} times the memory, and {change.most_memory:g} times is the most that it may"
    return {"status": "rejected", "reason": reason}


def _screened(bench: Bench, own: Own, settings: Settings, least: float, until: float) -> dict[str, Any]:
    """A set-up in turn with the baseline's process; it passes where it is `least` times as fast.

    What has no answer by `until` (on time.monotonic's clock) is given up, but for a block of steps begun before that.
    """
    baseline = own.settings

    def left() -> float:
        return max(1.0, min(LOAD_SECONDS, until - time.monotonic()))

    try:
        with bench.hold(settings, seconds=left()) as (worker,):
            hopeless = HOPELESS * settings.batch_size / baseline.batch_size
            blocks = replace(SCREENING, hopeless=hopeless, timeout=left())
            start = per_example(timed(own, worker, blocks, until), baseline, settings)
            held = worker.call(f"{TIMING}:held", timeout=LOAD_SECONDS)
    except FAILURES as error:
        if isinstance(error, WorkerTimeout) and time.monotonic() > until:
            return {"status": "skipped", "reason": BUDGET_SPENT}
        if not own.failed():
            return {"status": "failed", "reason": told(error)}
        own.renew(told(error))
        if own.given_up:
            return {"status": "skipped", "reason": own.given_up}
        return _screened(bench, own, settings, least, until)
    return {**held, **_judged(start, settings.batch_size / baseline.batch_size, least)}


def timed(own: Own, worker: Worker, blocks: Blocks, until: float) -> Start:
    """The own set-up and another in turn: again, where something else spoiled that, and then the try that it spoiled
    least. Which side is faster plays no part in it.
    """
    starts: list[Start] = []
    while not starts or (
        len(starts) < _TRIES and statistics.was_disturbed(starts[-1], own.usual_spread) and time.monotonic() < until
    ):
        starts.append(pairs.measure(own.worker, worker, blocks)[0])
    return min(starts, key=statistics.block_spread)


def _judged(start: Start, batches: float, least: float) -> Mapping[str, Any]:
    """The row of a start whose candidate's steps have so many batches of the baseline's."""
    median_ms = statistics.median_ms([start.candidate_ms]) * batches
    if len(start.candidate_ms) < SCREENING.least_pairs:
        longer = min(start.candidate_ms) / max(start.baseline_ms)
        reason = f"a step took {longer:.1f} times as long; it was timed twice"
        return {"median_ms": median_ms, "status": "rejected", "reason": reason}
    interval = statistics.screening(start)
    row = {"median_ms": median_ms, "speedup": to_json(interval)}
    if interval.estimate > least:
        return {**row, "status": "passed"}
    reason = f"no faster than without it: {interval.estimate:.3f} times the baseline's speed, {least:.3f} was needed"
    return {**row, "status": "rejected", "reason": reason}


def _that_fits(bench: Bench, usual: Settings) -> tuple[Settings, Peak, list[str]]:
    """The workload's own set-up, or the nearest of the same result that fits the memory, its peak, and warnings."""
    tried = [Change(name="the workload's own set-up"), *thriftier(bench.study, usual)]
    last = ""
    for change in tried:
        if change.settings and time.monotonic() > bench.deadline:
            raise Refusal(
                f"the budget was spent before a set-up was found that fits the memory: the last {last}; give a longer "
                "--budget, or allow more"
            )
        settings = replace(usual, **change.settings)
        bench.tell({"event": "phase", "phase": f"the memory of {change.name}"})
        try:
            peak = bench.peak(settings)
        except OutOfMemory as error:
            last = told(error)
            continue
        except CandidateFailed as error:
            raise Refusal(f"{change.name} can't train here: {told(error)}") from error
        warnings = []
        if change.settings:
            warnings.append(f"the workload's own set-up runs out of memory; compared with {change.name} instead")
        if not peak.whole:
            warnings.append(
                f"memory is that of the largest of {peak.looked_at:,} examples (or batches), which is as far as the "
                "look through the data went; a larger one may be left"
            )
        return settings, peak, warnings
    raise Refusal(f"no set-up of the same result fits the memory: with {tried[-1].name} it {last}; allow more")


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


def _noise(bench: Bench, own: Own, peak_bytes: int) -> tuple[float, float, Json]:
    """The noise floor, the median ms of a step, and what a process of them held."""
    with bench.hold(own.settings) as (second,):
        start = timed(own, second, SCREENING, bench.deadline)
        held = second.call(f"{TIMING}:held", timeout=LOAD_SECONDS)
    held["peak_memory_bytes"] = max(held["peak_memory_bytes"], peak_bytes)
    own.usual_spread = statistics.block_spread(start)
    return statistics.noise_floor([start]), statistics.median_ms([start.baseline_ms]), held
