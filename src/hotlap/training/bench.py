"""What a search of set-ups stands on: processes that hold a training, and what a failure of one is called."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hotlap.core import Json
from hotlap.errors import CandidateFailed, InputError, LoaderDied, OutOfMemory, Refusal, WorkloadError
from hotlap.measure.worker import Worker
from hotlap.search.setting import LOAD_SECONDS, start_worker
from hotlap.training.settings import Settings

TIMING, _MEMORY = "hotlap.training.timing", "hotlap.training.memory.work"
FAILURES = (CandidateFailed, InputError, LoaderDied)
"""What one set-up may fail of, which is a row and never the end of a search."""
_PEAK_STEPS = 3
"""The first step makes the optimizer's state, and the heap is full after the third."""
_LONGEST = 300
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """The most that a training held, in bytes, and what finding that takes again, in seconds.

    `looked_at` examples (or batches) were looked through for the largest; `whole` says whether that were all.
    """

    bytes: int
    seconds: float
    looked_at: int
    whole: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What stays the same through one search. `deadline` is on time.monotonic's clock.

    Limits are in bytes: `memory_limit` of what a process and those it starts hold, `timing_limit` the same of each of
    two that are timed in turn, where that is less, `peak_limit` of a training's peak (on CUDA, the device's memory).
    `places` holds where the training data's largest example was found, once it was.
    """

    target: str
    study: Json
    memory_limit: int | None
    work: Path
    deadline: float
    compiler: bool
    other_batch_sizes: bool
    tell: Callable[[Json], None]
    timing_limit: int | None = None
    peak_limit: int | None = None
    places: list[Json] = field(default_factory=list)

    @contextmanager
    def hold(self, *chosen: Settings, seconds: float = LOAD_SECONDS) -> Iterator[list[Worker]]:
        """Processes that hold a step with each of these, loaded side by side in `seconds` each.

        Raises CandidateFailed or OutOfMemory.
        """
        limit = self.timing_limit or self.memory_limit
        with ExitStack() as stack, memory_told():
            workers = []
            for settings in chosen:
                worker = stack.enter_context(start_worker(settings.threads, limit, self.work))
                worker.begin(f"{TIMING}:hold", target=self.target, settings=settings.to_json())
                workers.append(worker)
            for worker in workers:
                worker.finish(seconds)
                worker.pause()
            yield workers

    def peak(self, settings: Settings) -> Peak:
        """The most that a process holds which trains on batches as large as the epoch's largest, optimizer's state
        and all. Raises OutOfMemory where that is more than it may."""
        given, began = settings.to_json(), time.monotonic()
        with start_worker(settings.threads, self.memory_limit, self.work) as worker, memory_told():
            known = self.places[-1] if self.places else None
            arguments: dict[str, Any] = {"target": self.target, "settings": given, "place": known}
            opened = worker.call(f"{_MEMORY}:open_training", timeout=LOAD_SECONDS, **arguments)
            self.places.append(opened["place"])
            batch = opened["rows"] or settings.examples_a_pass
            arguments = {"settings": given, "batch": batch, "steps": _PEAK_STEPS}
            found = worker.call(f"{_MEMORY}:run_steps", timeout=LOAD_SECONDS, **arguments)
        held, limit = int(found["peak_bytes"]), self.peak_limit
        if limit and held > limit:
            raise OutOfMemory(f"used {held / 2**30:.1f} GiB of memory, more than its limit of {limit / 2**30:.1f} GiB")
        saved = opened["look_seconds"] if opened["place"] else 0.0
        return Peak(
            bytes=held,
            seconds=time.monotonic() - began - saved,
            looked_at=opened["looked_at"],
            whole=opened["whole"],
        )


def studied(target: str, settings: Settings, *, memory_limit: int | None, work: Path) -> Json:
    """What `timing.study` finds, in a process of `memory_limit` bytes; less where whole batches take more than that.

    Raises Refusal where a few rows do, too.
    """
    last = ""
    for whole_batches in (True, False):
        arguments = {"target": target, "settings": settings.to_json(), "whole_batches": whole_batches}
        try:
            with start_worker(settings.threads, memory_limit, work) as worker, memory_told():
                return worker.call(f"{TIMING}:study", timeout=LOAD_SECONDS, **arguments)
        except OutOfMemory as error:
            last = told(error)
    raise Refusal(f"no set-up of the same result fits the memory: opening the workload {last}; allow more")


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
    if isinstance(error, LoaderDied):
        # What else it says is for a training, which can be resumed.
        return str(error).partition(";")[0]
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
