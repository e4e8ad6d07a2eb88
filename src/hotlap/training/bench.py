"""What a search of set-ups stands on: processes that hold a training, and what a failure of one is called."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hotlap.core import Json
from hotlap.errors import CandidateFailed, InputError, LoaderDied, OutOfMemory, Refusal, WorkloadError
from hotlap.measure.worker import Worker, past_limit
from hotlap.search.setting import LOAD_SECONDS, start_worker
from hotlap.training.settings import Settings
from hotlap.training.stepping import OUT_OF_MEMORY

TIMING, _MEMORY = "hotlap.training.timing", "hotlap.training.memory.work"
FAILURES = (CandidateFailed, InputError, LoaderDied)
"""What one set-up may fail of, which is a row and never the end of a search."""
_PEAK_STEPS = 3
"""The first step makes the optimizer's state, and the heap is full after the third."""
_CHECKS: Mapping[str, Mapping[str, Json]] = {
    "in_passes": {},
    "trim": {"kept": 1.0, "difference": 0.0},
    "at_once": {"examples": 0},
    "kernels": {"attention": 0, "masked": 0},
    "length_buckets": {"kept": 1.0, "difference": 0.0},
}
"""By name, what is said of one that failed beside its reason."""
_CHECK_SECONDS = 120.0
"""A check ends by itself after some seconds and the batch that it is at."""
_LONGEST = 300


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
    `places` holds where the training data's largest example was found, once it was, and `peaks` what was found of the
    memory of set-ups without loader processes.
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
    peaks: dict[Settings, Peak] = field(default_factory=dict)

    @contextmanager
    def hold(self, *chosen: Settings, seconds: float = LOAD_SECONDS) -> Iterator[list[Worker]]:
        """Processes that hold a step with each of these, loaded one after another in `seconds` each: the threads of
        two wait for each other's cores, and two took 14 and 20 s side by side that took 5 and 12 s in turn.

        Raises CandidateFailed or OutOfMemory.
        """
        limit = self.timing_limit or self.memory_limit
        with ExitStack() as stack, memory_told():
            workers = []
            for settings in chosen:
                worker = stack.enter_context(start_worker(settings.threads, limit, self.work))
                worker.call(f"{TIMING}:hold", timeout=seconds, target=self.target, settings=settings.to_json())
                worker.pause()
                workers.append(worker)
            yield workers

    def peak(self, settings: Settings, *, beside: int = 0) -> Peak:
        """The most that a process holds which trains on batches as large as the epoch's largest, optimizer's state
        and all, with what loader processes hold `beside` it. Raises OutOfMemory where that is more than it may."""
        size = min(settings.batch_size, self.study.get("examples") or settings.batch_size)
        plain: Any = {
            "workers": 0,
            "prefetch": Settings().prefetch,
            "at_once": False,
            "trim": False,
            "length_buckets": 1,
        }
        alone = replace(settings, batch_size=size, **plain)
        if alone not in self.peaks:
            self.peaks[alone] = self._peak(alone)
        found, limit = self.peaks[alone], self.peak_limit
        held = found.bytes + beside
        if settings.length_buckets > 1:
            # The longest rows come last, on top of the gradients of those before; weights that are cast stay.
            held += self.study["parameters"] * (4 if settings.precision == "fp32" else 6)
        if limit and held > limit:
            raise past_limit(held, limit)
        return replace(found, bytes=held)

    def _peak(self, settings: Settings) -> Peak:
        given, began = settings.to_json(), time.monotonic()
        with start_worker(settings.threads, self.memory_limit, self.work) as worker, memory_told():
            known = self.places[-1] if self.places else None
            arguments: dict[str, Any] = {"target": self.target, "settings": given, "place": known}
            opened = worker.call(f"{_MEMORY}:open_training", timeout=LOAD_SECONDS, **arguments)
            self.places.append(opened["place"])
            batch = opened["rows"] or settings.examples_a_pass
            arguments = {"settings": given, "batch": batch, "steps": _PEAK_STEPS}
            found = worker.call(f"{_MEMORY}:run_steps", timeout=LOAD_SECONDS, **arguments)
        saved = opened["look_seconds"] if opened["place"] else 0.0
        return Peak(
            bytes=int(found["peak_bytes"]),
            seconds=time.monotonic() - began - saved,
            looked_at=opened["looked_at"],
            whole=opened["whole"],
        )


def studied(target: str, settings: Settings, *, memory_limit: int | None, work: Path) -> Json:
    """What `timing.study` and the checks of the data find, in a process of `memory_limit` bytes.

    A check that fails, or takes more memory than that, is the reason not to try what it is of. Raises Refusal where
    opening the workload takes more.
    """
    found: dict[str, Json] = {}
    while True:
        with start_worker(settings.threads, memory_limit, work) as worker:
            study = _opened(worker, target, settings)
            try:
                for name in [one for one in _CHECKS if one not in found]:
                    with memory_told():
                        found[name] = worker.call(f"{TIMING}:check_{name}", timeout=_CHECK_SECONDS)
                return {**study, **found}
            except CandidateFailed as error:
                found[name] = {**_CHECKS[name], "reason": f"the check of it failed: {told(error)}"}


def _opened(worker: Worker, target: str, settings: Settings) -> dict[str, Json]:
    try:
        with memory_told():
            found: dict[str, Json] = worker.call(
                f"{TIMING}:study", timeout=LOAD_SECONDS, target=target, settings=settings.to_json()
            )
    except OutOfMemory as error:
        raise Refusal(
            f"no set-up of the same result fits the memory: opening the workload: {told(error)}; allow more"
        ) from error
    return found


@contextmanager
def memory_told() -> Iterator[None]:
    """An error of torch's or the user's own code that says it ran out of memory is one of memory; any other is not."""
    try:
        yield
    except (WorkloadError, CandidateFailed) as error:
        if any(words in str(error).lower() for words in OUT_OF_MEMORY):
            raise OutOfMemory(str(error)) from error
        raise


def told(error: Exception) -> str:
    """The first line of what went wrong, cut where it is long: compilers and kernels write pages."""
    if isinstance(error, LoaderDied):
        # What else it says is for a training, which can be resumed.
        return str(error).partition(";")[0]
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
