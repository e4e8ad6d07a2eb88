"""What stays the same through one search."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hotlap.core import Array, Candidate, Json, Signature, to_json
from hotlap.measure.worker import Worker

_HOLDING = "hotlap.search.work.holding"
Objective = Literal["latency", "throughput", "size"]
Progress = Callable[[Json], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a fresh process of `threads` threads is to call first."""

    threads: int
    function: str
    arguments: Mapping[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One search: what is optimized, how it is judged, and where it works.

    `arrays`: the inputs of the measured call. `memory_limit`: bytes a worker may hold. `max_drop`: absolute; None
    where there is no evaluation. `deadline`: on time.monotonic's clock. `bounds_ms`: the least time that the
    machine's limits allow each number format; `rates`: the multiply-adds a second behind it.
    """

    target: str
    objective: Objective
    batch: int
    threads: int
    device: Literal["cpu", "cuda"]
    seed: int
    work: Path
    signature: Signature
    signature_json: Json
    arrays: list[Array]
    study: Mapping[str, Json]
    max_drop: float | None
    noise_floor: float
    memory_limit: int | None
    deadline: float
    progress: Progress
    bounds_ms: Mapping[str, float] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)

    @property
    def seconds_left(self) -> float:
        """Until the deadline; not below 0."""
        return max(0.0, self.deadline - time.monotonic())

    def worker(self, threads: int | None = None) -> Worker:
        """A fresh process with the thread settings of this search."""
        return start_worker(threads or self.threads, self.memory_limit, self.work)

    @property
    def original(self) -> Load:
        """What loads the user's own model, ready to be timed."""
        arguments = {"target": self.target, "batch": self.batch, "threads": self.threads, "device": self.device}
        return Load(threads=self.threads, function=f"{_HOLDING}:load_original", arguments=arguments)

    def built(self, candidate: Candidate, folder: str) -> Load:
        """What loads a candidate's callable and little else, ready to be timed."""
        arguments = {
            "candidate": to_json(candidate),
            "built": folder,
            "signature": self.signature_json,
            "arrays": self.arrays,
        }
        return Load(threads=candidate.threads, function=f"{_HOLDING}:load", arguments=arguments)

    def begun(self, load: Load) -> Worker:
        """A fresh process that has begun to load; `finish` ends it."""
        worker = self.worker(load.threads)
        try:
            worker.begin(load.function, **load.arguments)
        except BaseException:
            worker.close()
            raise
        return worker

    def loaded(self, *loads: Load) -> list[Worker]:
        """Fresh processes that hold these, loaded side by side; they are the caller's to close."""
        workers: list[Worker] = []
        try:
            for load in loads:
                workers.append(self.begun(load))
            for worker in workers:
                worker.finish(LOAD_SECONDS)
        except BaseException:
            for worker in workers:
                worker.close()
            raise
        return workers


LOAD_SECONDS = 300.0
"""Longest a load may take before it counts as hung: importing torch from a cold disk takes a minute."""

_LONGEST_FOLDER = 107 - len("/pymp-12345678/listener-12345678")
"""Bytes of a path in which multiprocessing can still open a socket (unix(7)): loader processes hand their tensors over
through one, and where it can't be opened they lose them and their reader waits for ever."""


def start_worker(threads: int, memory_limit: int | None, work: Path | None = None) -> Worker:
    """A fresh process whose thread pools are of that size and whose compilers start no pools of their own.

    Its temporary files go into `work`, where they end with the run however a worker ends; into the system's folder
    where the path of `work` is too long for a socket in it.
    """
    environment = {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if work is not None:
        scratch = work.absolute() / "tmp"
        scratch.mkdir(parents=True, exist_ok=True)
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(scratch / "inductor")
        if len(os.fsencode(scratch)) <= _LONGEST_FOLDER:
            environment["TMPDIR"] = str(scratch)
    return Worker(memory_limit=memory_limit, environment=environment)
