"""How much memory a training will need at a batch size, before it is run at that size.

The first steps are run at two small batch sizes. Every allocation of theirs is recorded, gets the size that it has at
the wanted batch size, and all are replayed, without computing and without using the memory, at the C library's own
allocator. What else the process holds (libraries, their buffers), or never touched of what it asked for, is what it
was measured to hold beside the replay at the larger of the small sizes, and at four and eight times that size, on the
line nearest to those three.
"""

from __future__ import annotations

import bisect
import operator
import subprocess
import sys
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import linear_regression, median

from hotlap.core import Json, to_json
from hotlap.errors import InputError, OutOfMemory
from hotlap.machine.facts import facts
from hotlap.measure.worker import Worker
from hotlap.search.setting import start_worker
from hotlap.training import heap
from hotlap.training.memory.traces import Trace, from_arrays, live_peak, scaled
from hotlap.training.settings import Settings
from hotlap.workload.target import target_of
from hotlap.workload.workload import Workload

SMALL_BATCHES = (4, 8)
_FURTHER = (4, 8)
"""So many times the larger small batch are measured too, where they fit the memory, but not traced. Two runs alike
differ by a few percent in their peaks, so that a line through two sizes near each other leads astray."""
_REACH = 4
_PAST = 0.5
"""Past the largest batch measured what libraries hold grows, or shrinks, at half the line's rate, and from so many
times that batch on it stays: buffers fill up, and the rate itself is known to a third at best."""
MEASURED_STEPS = 5
TIMEOUT_SECONDS = 1800.0
_WORK = "hotlap.training.memory.work"
_REPLAY = Path(__file__).with_name("replay.py")
_FREED_FIRST = (0, 4 * 2**20, 32 * 2**20 - 8192)
"""What the process may have mapped and freed before: nothing, some, and as much as glibc takes note of. How full the
heap gets depends on it, by a few percent and not in one direction; the middle of the replays is taken."""
_CUDA_GRANULE = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What the first steps at two small batch sizes showed. Bytes.

    `base_bytes` is what the process held before its first step, `load_peak_bytes` the most until then, `peak_bytes` the
    most in the whole run at `batches[1]`; `further` are larger batches with the most at each. `rows` is the user's own
    batch size where `training` is an iterable of batches.
    """

    settings: Settings
    batches: tuple[int, int]
    traces: tuple[Trace, Trace]
    holdings: tuple[Json, Json]
    base_bytes: int
    load_peak_bytes: int
    peak_bytes: int
    further: tuple[tuple[int, int], ...]
    rows: int | None
    whole: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The peak of the process that trains (on CUDA: of tensors on the device) with batches of `batch` rows; bytes.

    `base_bytes` of it is there before the first step, `steps_bytes` is what steps take, holes included, and
    `libraries_bytes` what libraries take beside it while they run; below 0 where more was asked for than ever used.
    `holdings` is what tensors hold at `batch`, as `holdings.Holdings` has it. `alone` counts allocations whose size
    could only be guessed.
    """

    batch: int
    peak_bytes: int
    base_bytes: int
    steps_bytes: int
    libraries_bytes: int
    tensors_peak_bytes: int
    alone: int
    holdings: Json

    def to_json(self) -> Json:
        """Plain JSON."""
        return to_json(self)


def observe(
    workload: Workload | str | Path,
    settings: Settings | None = None,
    *,
    batches: tuple[int, int] = SMALL_BATCHES,
    memory_limit: int | None = None,
) -> Observation:
    """Run a workload's first steps with two small numbers of rows a pass, in processes of their own.

    settings: default: all cores, else Settings' own. Its `batch_size` and `micro_batch` (`accumulation` for an
    iterable of batches) say how many passes a step has; how many rows each has is what `predict` varies.
    Takes as long as some thirty such steps, ten at four and eight times the larger size, and four starts of torch.
    Raises WorkloadError for a workload that lacks `training` or `loss`, and CandidateFailed (OutOfMemory among them)
    where a step fails.
    """
    small, large = batches
    if not 1 <= small < large:
        raise InputError(f"batches {small} and {large}: give two different sizes, the smaller first")
    chosen = settings or _usual()
    measured = measure(workload, chosen, batch=large, steps=MEASURED_STEPS, memory_limit=memory_limit)
    with _opened(workload, chosen, memory_limit) as (worker, opened):
        seen = [
            worker.call(f"{_WORK}:trace_steps", settings=chosen.to_json(), batch=batch, timeout=TIMEOUT_SECONDS)
            for batch in batches
        ]
    further = []
    if chosen.device == "cpu":
        with suppress(OutOfMemory):
            for batch in (times * large for times in _FURTHER):
                there = measure(workload, chosen, batch=batch, steps=MEASURED_STEPS, memory_limit=memory_limit)
                further.append((batch, there["peak_bytes"]))
    first, second = (from_arrays(**one["trace"]) for one in seen)
    return Observation(
        settings=chosen,
        batches=batches,
        traces=(first, second),
        holdings=(seen[0]["holdings"], seen[1]["holdings"]),
        rows=opened["rows"],
        whole=opened["whole"],
        further=tuple(further),
        **measured,
    )


def measure(
    workload: Workload | str | Path,
    settings: Settings | None = None,
    *,
    batch: int,
    steps: int = 2 * MEASURED_STEPS,
    memory_limit: int | None = None,
) -> Json:
    """The peak that a process really has that trains with `batch` rows a pass, and what it held before; bytes.

    Gives `base_bytes`, `load_peak_bytes`, `peak_bytes`. Raises OutOfMemory where it passes `memory_limit` (bytes;
    default: nine tenths of the machine's), and what `observe` raises.
    """
    chosen = settings or _usual()
    with _opened(workload, chosen, memory_limit) as (worker, _):
        measured: Json = worker.call(
            f"{_WORK}:run_steps", settings=chosen.to_json(), batch=batch, steps=steps, timeout=TIMEOUT_SECONDS
        )
    return measured


def _usual() -> Settings:
    return Settings(threads=facts().cores)


@contextmanager
def _opened(
    workload: Workload | str | Path, settings: Settings, memory_limit: int | None
) -> Iterator[tuple[Worker, Json]]:
    limit = memory_limit or facts().memory_limit
    with start_worker(settings.threads, limit) as worker:
        opened = worker.call(
            f"{_WORK}:open_training",
            target=target_of(workload),
            settings=settings.to_json(),
            timeout=TIMEOUT_SECONDS,
        )
        yield worker, opened


def predict(seen: Observation, batch: int) -> Prediction:
    """The peak with `batch` rows a pass, from an observation. It computes nothing of the model."""
    try:
        batch = operator.index(batch)
    except TypeError as error:
        raise InputError(f"batch {batch}: give a whole number of rows") from error
    if batch < 1:
        raise InputError(f"batch {batch}: give a batch size from 1 on")
    events = seen.traces[1].events
    sizes, alone = _sizes(seen, batch)
    steps = _footprint(seen, events, sizes)
    libraries = max(_libraries(seen, batch), -steps // 2)
    return Prediction(
        batch=batch,
        peak_bytes=max(seen.load_peak_bytes, seen.base_bytes + steps + libraries),
        base_bytes=seen.base_bytes,
        steps_bytes=steps,
        libraries_bytes=libraries,
        tensors_peak_bytes=live_peak(events, sizes),
        alone=alone,
        holdings=_line(seen.holdings, seen.batches, batch),
    )


def _libraries(seen: Observation, batch: int) -> int:
    """What was measured beside the replay, on the line nearest to all batch sizes that it was measured at."""

    def beside(rows: int, peak_bytes: int) -> int:
        return peak_bytes - seen.base_bytes - _footprint(seen, seen.traces[1].events, _sizes(seen, rows)[0])

    near = seen.batches[1]
    found = max(0, beside(near, seen.peak_bytes))
    if not seen.further or batch <= near:
        return found
    rows = [near, *(one for one, _ in seen.further)]
    line = linear_regression(rows, [found, *(beside(one, peak_bytes) for one, peak_bytes in seen.further)])
    past = max(0, min(batch, _REACH * rows[-1]) - rows[-1])
    return round(line.intercept + line.slope * (min(batch, rows[-1]) + _PAST * past))


def largest_pass(seen: Observation, limit: int, *, at_most: int) -> int | None:
    """The most rows a pass, up to `at_most`, whose foreseen peak is within `limit` bytes; None where not one row's is.

    Since a process may pass what is foreseen by a tenth, ask for less than there is.
    """
    if limit != limit:
        raise InputError(f"limit {limit}: give a number of bytes")
    sizes = range(1, at_most + 1)
    fitting = bisect.bisect_right(sizes, limit, key=lambda batch: predict(seen, batch).peak_bytes)
    return sizes[fitting - 1] if fitting else None


def _sizes(seen: Observation, batch: int) -> tuple[list[int], int]:
    (small, large), (small_batch, large_batch) = seen.traces, seen.batches
    return scaled(small, small_batch, large, large_batch, batch)


def _footprint(seen: Observation, events: Sequence[int], sizes: Sequence[int]) -> int:
    if seen.settings.device == "cuda":
        return live_peak(events, sizes, _CUDA_GRANULE)
    kept = seen.settings.keep_memory
    return round(median(replayed(events, sizes, freed_first=first, kept=kept) for first in _FREED_FIRST))


def replayed(events: Sequence[int], sizes: Sequence[int], *, freed_first: int = 0, kept: bool = False) -> int:
    """Bytes that the C library takes from the system for a trace, at the most; see `replay.py`. `kept`: with
    `keep_memory`.
    """
    options = list(heap.KEEPING.values()) if kept else []
    given = array("q", [len(sizes), freed_first, len(options), *chain(*options), *sizes, *events]).tobytes()
    command = [sys.executable, "-I", "-S", str(_REPLAY)]
    return int(subprocess.run(command, input=given, capture_output=True, check=True).stdout)


def _line(held: Sequence[Json], batches: Sequence[int], batch: int) -> Json:
    """Holdings at `batch`: each figure on the line through its two values."""
    small, large = held

    def at(low: int, high: int) -> int:
        return max(0, round(high + (high - low) / (batches[1] - batches[0]) * (batch - batches[1])))

    layers = {name: at(small["activations"].get(name, 0), size) for name, size in large["activations"].items()}
    found = {name: at(small[name], size) for name, size in large.items() if name != "activations"}
    return {**found, "activations": layers, "activations_bytes": sum(layers.values())}
