"""What a worker process does for a prediction or a measurement of memory. Each function is called by its name."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from hotlap.core import Device, Json, to_json
from hotlap.training.memory import tracing
from hotlap.training.memory.batches import Largest, Place, largest
from hotlap.training.memory.clear import resident_bytes
from hotlap.training.memory.holdings import holdings
from hotlap.training.memory.steps import Steps, passes_of
from hotlap.training.memory.traces import to_arrays
from hotlap.training.memory.use import fields, kibibytes
from hotlap.training.settings import Settings
from hotlap.workload.opened import check_fields
from hotlap.workload.target import Loaded, load_target

TRACED_STEPS = 3
"""The first step makes the optimizer's state, the second finds it there, the third runs like all others."""
_MOST_STEPS = 30
"""With those that are skipped: fp16 halves its scale, 65536 at first, by each of them."""
_KEEPS = 32 * 2**20
"""A process that grew by so many bytes while it read a Dataset may hold what it read."""


def open_training(state: dict[str, Any], *, target: str, settings: Json, place: Json = None) -> Json:
    """Load a target's workload and look through its training data; must come first.

    place: what an earlier look gave as such, which need not be repeated. It gives none where it would not show all
    memory: an iterable's largest batch, and a Dataset that keeps what was read of it.
    """
    import torch

    torch.set_num_threads(Settings(**settings).threads)
    loaded = load_target(target)
    check_fields(loaded, ("training", "loss"), "monitor")
    before, began = resident_bytes(), time.monotonic()
    found = largest(loaded.workload, Place(**place) if place else None)
    look_seconds = time.monotonic() - began
    keeps = resident_bytes() - before > _KEEPS
    state.update(loaded=loaded, largest=found)
    return {
        "workload": loaded.name,
        "rows": found.rows,
        "looked_at": found.looked_at,
        "whole": found.whole,
        "look_seconds": look_seconds,
        "place": to_json(found.place) if found.place and not keeps else None,
    }


def run_steps(state: dict[str, Any], *, settings: Json, batch: int, steps: int) -> Json:
    """Train for `steps` steps with `batch` rows a pass and give the process's peak, and what it held before; bytes.

    A step that fp16 skips, its scale being too high at first, makes no optimizer's state and does not count.
    """
    loaded, data = _opened(state)
    chosen = _whole_rows(settings)
    made = Steps(loaded, chosen)
    base = held_bytes(chosen.device)
    before = peak_bytes(chosen.device)
    counted = 0
    for _ in range(_MOST_STEPS):
        counted += not made.step(data.make, batch, passes_of(chosen, data.rows)).skipped
        if counted == steps:
            break
    return {"base_bytes": base, "load_peak_bytes": before, "peak_bytes": peak_bytes(chosen.device)}


def trace_steps(state: dict[str, Any], *, settings: Json, batch: int) -> Json:
    """Record the first steps of a training with `batch` rows a pass, then look what is held; for `predict.observe`."""
    loaded, data = _opened(state)
    chosen = _whole_rows(settings)
    passes = passes_of(chosen, data.rows)
    made = Steps(loaded, chosen)

    def run() -> None:
        for _ in range(TRACED_STEPS):
            made.step(data.make, batch, passes)

    trace = tracing.record(run, chosen.device)
    return {"trace": to_arrays(trace), "holdings": holdings(made, made.window(data.make, batch, passes)).to_json()}


def held_bytes(device: Device) -> int:
    """What this process holds: resident memory, or what tensors hold on the CUDA device."""
    if device == "cuda":
        import torch

        return int(torch.cuda.memory_allocated())
    return resident_bytes()


def peak_bytes(device: Device) -> int:
    """The most that this process held so far, as `held_bytes` counts."""
    if device == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated())
    return kibibytes(fields(Path("/proc/self/status"))["VmHWM"])


def _whole_rows(settings: Json) -> Settings:
    """The settings without trimming: a largest example may be mostly padding, and one that is not comes, too."""
    return replace(Settings(**settings), trim=False, length_buckets=1)


def _opened(state: dict[str, Any]) -> tuple[Loaded, Largest]:
    return state["loaded"], state["largest"]
