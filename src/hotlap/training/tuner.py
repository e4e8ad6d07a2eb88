"""The search for the fastest set-up: changes are tried one upon another, each against the workload's own set-up.

Whole steps are timed, in turn with the baseline's, in processes of their own. A change stays if the steps with it
are faster than with what was best before by more than the noise floor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hotlap.core import Interval, Json, Start, to_json
from hotlap.errors import CandidateFailed, InputError, OutOfMemory, Refusal, WorkloadError
from hotlap.measure import pairs, statistics
from hotlap.measure.pairs import Blocks
from hotlap.measure.worker import Worker
from hotlap.search.setting import LOAD_SECONDS, start_worker
from hotlap.training.set_ups import Change, changes, thriftier
from hotlap.training.settings import Settings
from hotlap.training.stopping import EndNow

_TIMING, _MEMORY = "hotlap.training.timing", "hotlap.training.memory.work"
_PEAK_STEPS = 3
"""The first step makes the optimizer's state, and the heap is full after the third."""
SCREENING = Blocks(pairs=6, seconds=0.3, timeout=300.0, enough_seconds=4.0)
HOPELESS = 3.0
"""What takes so many times as long as the baseline is timed twice only."""
CONFIRMING = Blocks(pairs=4, seconds=0.3, timeout=300.0, least_pairs=2, enough_seconds=4.0)
BUDGET_SPENT = "the budget was spent"
_INTERRUPTED = "the tuning was interrupted"
_LONGEST = 300
_CONFIRMING_SHARES = 0.35, 0.75
"""So much of the time is kept for the confirmation, at least and at most."""
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What stays the same through one search. `deadline` is on time.monotonic's clock. `places` holds where the
    training data's largest example was found, once it was."""

    target: str
    study: Json
    memory_limit: int | None
    work: Path
    deadline: float
    compiler: bool
    other_batch_sizes: bool
    tell: Callable[[Json], None]
    places: list[Json] = field(default_factory=list)

    @contextmanager
    def hold(self, *chosen: Settings) -> Iterator[list[Worker]]:
        """Processes that hold a step with each of these, loaded side by side. Raises CandidateFailed or OutOfMemory."""
        with ExitStack() as stack, memory_told():
            workers = []
            for settings in chosen:
                worker = stack.enter_context(start_worker(settings.threads, self.memory_limit, self.work))
                worker.begin(f"{_TIMING}:hold", target=self.target, settings=settings.to_json())
                workers.append(worker)
            for worker in workers:
                worker.finish(LOAD_SECONDS)
                worker.pause()
            yield workers

    def peak_bytes(self, settings: Settings) -> int:
        """The most that a process holds which trains on batches as large as the epoch's largest, optimizer's state
        and all. Raises OutOfMemory where that is more than it may."""
        given = settings.to_json()
        with start_worker(settings.threads, self.memory_limit, self.work) as worker, memory_told():
            known = self.places[-1] if self.places else None
            arguments: dict[str, Any] = {"target": self.target, "settings": given, "place": known}
            opened = worker.call(f"{_MEMORY}:open_training", timeout=LOAD_SECONDS, **arguments)
            self.places.append(opened["place"])
            batch = opened["rows"] or settings.examples_a_pass
            arguments = {"settings": given, "batch": batch, "steps": _PEAK_STEPS}
            found = worker.call(f"{_MEMORY}:run_steps", timeout=LOAD_SECONDS, **arguments)
        return int(found["peak_bytes"])


@contextmanager
def memory_told() -> Iterator[None]:
    """An error of torch's or the user's own code that says it ran out of memory is one of memory; any other is not."""
    try:
        yield
    except (WorkloadError, CandidateFailed) as error:
        if any(words in str(error).lower() for words in _OUT_OF_MEMORY):
            raise OutOfMemory(str(error)) from error
        raise


def told(error: Exception) -> str:
    """The first line of what went wrong, cut where it is long: compilers and kernels write pages."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


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
    """Search. Raises Refusal where the own set-up can't train, or no set-up of the same result fits the memory."""
    baseline, peak_bytes, warnings = _that_fits(bench, usual)
    bench.tell({"event": "phase", "phase": "timing the workload's own set-up against itself"})
    began = time.monotonic()
    with bench.hold(baseline) as (own,):
        load_seconds = time.monotonic() - began
        began = time.monotonic()
        floor, baseline_ms, baseline_held = _noise(bench, baseline, own, peak_bytes)
        compared_seconds = time.monotonic() - began
        left = bench.deadline - time.monotonic()
        until = bench.deadline - kept_for_confirming(left, load_seconds, compared_seconds)
        best, rows = _climbed(
            bench,
            baseline,
            own,
            changes(
                bench.study,
                baseline,
                compiler=bench.compiler,
                loading_share=baseline_held["loading_share"],
                other_batch_sizes=bench.other_batch_sizes,
            ),
            floor,
            until,
        )
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


def _climbed(
    bench: Bench, baseline: Settings, own: Worker, tried: Sequence[Change], floor: float, until: float
) -> tuple[Settings, list[dict[str, Any]]]:
    """Each change upon the best so far: what came out best, and a row for each.

    Interrupted, it tries nothing more, and what is best by then goes on to be confirmed.
    """
    best, ratio, stopped = baseline, 1.0, False
    rows, taken = list[dict[str, Any]](), set[str]()
    for change in tried:
        reason = change.reason or (_INTERRUPTED if stopped else None)
        reason = reason or (BUDGET_SPENT if time.monotonic() > until else None)
        if change.upon and not taken & set(change.upon):
            reason = reason or f"{' and '.join(change.upon)} brought nothing"
        row: dict[str, Any] = {"name": change.name, "settings": dict(change.settings)}
        if reason:
            rows.append({**row, "status": "skipped", "reason": reason})
            continue
        try:
            bench.tell({"event": "start", "name": change.name})
            row |= _screened(bench, baseline, own, replace(best, **change.settings), ratio * (1 + floor))
            if row["status"] == "passed":
                best, ratio = replace(best, **change.settings), row["speedup"]["estimate"]
                taken.add(change.name)
            rows.append(row)
            bench.tell({"event": "done", **row})
        except EndNow:
            raise
        except KeyboardInterrupt:
            stopped = True
            if not rows or rows[-1] is not row:
                rows.append({**row, "status": "skipped", "reason": _INTERRUPTED})
            bench.tell({"event": "phase", "phase": "interrupted: the best so far is confirmed; once more ends at once"})
    return best, rows


def _screened(bench: Bench, baseline: Settings, own: Worker, settings: Settings, least: float) -> dict[str, Any]:
    """A set-up in turn with the baseline's process; it passes where it is `least` times as fast."""
    try:
        with bench.hold(settings) as (worker,):
            hopeless = HOPELESS * settings.batch_size / baseline.batch_size
            measured, _ = pairs.measure(own, worker, replace(SCREENING, hopeless=hopeless))
            start = _per_example(measured, baseline, settings)
            held = worker.call(f"{_TIMING}:held", timeout=LOAD_SECONDS)
    except (CandidateFailed, InputError) as error:
        return {"status": "failed", "reason": told(error)}
    median_ms = statistics.median_ms([start.candidate_ms]) * settings.batch_size / baseline.batch_size
    if len(start.candidate_ms) < SCREENING.least_pairs:
        longer = min(start.candidate_ms) / max(start.baseline_ms)
        reason = f"a step took {longer:.1f} times as long; it was timed twice"
        return {**held, "median_ms": median_ms, "status": "rejected", "reason": reason}
    interval = statistics.screening(start)
    row = {**held, "median_ms": median_ms, "speedup": to_json(interval)}
    if interval.estimate > least:
        return {**row, "status": "passed"}
    reason = f"no faster than without it: {interval.estimate:.3f} times the baseline's speed, {least:.3f} was needed"
    return {**row, "status": "rejected", "reason": reason}


def _per_example(start: Start, baseline: Settings, settings: Settings) -> Start:
    """The candidate's times for as many examples as a step of the baseline has."""
    share = baseline.batch_size / settings.batch_size
    return replace(start, candidate_ms=tuple(share * ms for ms in start.candidate_ms))


def kept_for_confirming(left: float, load_seconds: float, compared_seconds: float) -> float:
    """Of `left` seconds, what the first look at the best and one last change take; a share at least and at most.

    load_seconds: what one process took to load; compared_seconds: another one, and timing it. Two that are loaded side
    by side share the cores.
    """
    start = compared_seconds + load_seconds / 2
    least, most = _CONFIRMING_SHARES
    taken = load_seconds + statistics.LOOKS.at[0] * start + compared_seconds
    return max(0.0, left) * min(most, max(least, taken / max(left, 1e-9)))


def settle(bench: Bench, found: Found, settings: Settings) -> Found:
    """What was found, with `settings` as the best where fresh processes confirm them as faster; else the baseline."""
    try:
        starts, held = _confirmed(bench, found.baseline, settings)
    except (CandidateFailed, InputError) as error:
        return give_up(found, f"it failed when it was to be confirmed: {told(error)}")
    speedup = statistics.speedup(starts)
    if statistics.verdict(speedup, found.noise_floor) != "faster":
        return give_up(found, "together with the others it was not confirmed as faster")
    return replace(found, best=settings, best_held=held, starts=tuple(starts), speedup=speedup)


def give_up(found: Found, reason: str) -> Found:
    """What was found, with the baseline as the best, since what was faster is not to be taken for that reason."""
    return replace(
        found, best=found.baseline, best_held=found.baseline_held, starts=(), speedup=None, dropped_because=reason
    )


def _that_fits(bench: Bench, usual: Settings) -> tuple[Settings, int, list[str]]:
    """The workload's own set-up, or the nearest of the same result that fits the memory, and its peak in bytes."""
    tried = [Change(name="the workload's own set-up"), *thriftier(bench.study, usual)]
    last = ""
    for change in tried:
        settings = replace(usual, **change.settings)
        bench.tell({"event": "phase", "phase": f"the memory of {change.name}"})
        try:
            peak_bytes = bench.peak_bytes(settings)
        except OutOfMemory as error:
            last = told(error)
            continue
        except CandidateFailed as error:
            raise Refusal(f"{change.name} can't train here: {told(error)}") from error
        warning = f"the workload's own set-up runs out of memory; compared with {change.name} instead"
        return settings, peak_bytes, [warning] if change.settings else []
    raise Refusal(f"no set-up of the same result fits the memory: with {tried[-1].name} it {last}; allow more")


def _noise(bench: Bench, baseline: Settings, own: Worker, peak_bytes: int) -> tuple[float, float, Json]:
    """The noise floor, the median ms of a step, and what a process of them held."""
    with bench.hold(baseline) as (second,):
        start, _ = pairs.measure(own, second, SCREENING)
        held = second.call(f"{_TIMING}:held", timeout=LOAD_SECONDS)
    held["peak_memory_bytes"] = max(held["peak_memory_bytes"], peak_bytes)
    return statistics.noise_floor([start]), statistics.median_ms([start.baseline_ms]), held


def _confirmed(bench: Bench, baseline: Settings, best: Settings) -> tuple[list[Start], Json]:
    """Both again, in fresh processes each time, until the question is settled or the budget is spent.

    The best's memory on the epoch's largest batch comes first: what is found holds for a whole epoch.
    """
    bench.tell({"event": "phase", "phase": "the memory of the best"})
    peak_bytes = bench.peak_bytes(best)
    starts: list[Start] = []
    held: Json = None
    while True:
        look = statistics.next_look(starts)
        settled = bool(starts) and statistics.settled(starts, noise_floor=0.0)
        if look is None or settled or (statistics.speedup_ready(starts) and time.monotonic() > bench.deadline):
            held["peak_memory_bytes"] = max(held["peak_memory_bytes"], peak_bytes)
            return starts, held
        while len(starts) < look:
            bench.tell({"event": "phase", "phase": f"confirming the best, start {len(starts) + 1}"})
            with bench.hold(baseline, best) as (first, second):
                starts.append(_per_example(pairs.measure(first, second, CONFIRMING)[0], baseline, best))
                held = second.call(f"{_TIMING}:held", timeout=LOAD_SECONDS)


def medians(starts: Sequence[Start]) -> tuple[float, float]:
    """The baseline's and the best's median ms over all starts, for as many examples as a baseline's step has."""
    return (
        statistics.median_ms([start.baseline_ms for start in starts]),
        statistics.median_ms([start.candidate_ms for start in starts]),
    )
