"""Whole training steps, timed in a process of their own: what `hotlap tune` calls there.

A step here is all that training does for one: a batch is loaded, goes forward and backward, and the optimizer moves
the weights. Peak memory so includes the optimizer's state and loader processes.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from hotlap.core import Json, to_json
from hotlap.errors import WorkloadError
from hotlap.machine.facts import facts
from hotlap.training import preparing
from hotlap.training.loop import Parts
from hotlap.training.processes import Processes
from hotlap.training.reading import Window
from hotlap.training.recompute import repeated_layers
from hotlap.training.run import make_parts, trimming_of
from hotlap.training.settings import Settings
from hotlap.training.stepping import NotFinite
from hotlap.workload.opened import check_fields, open_workload
from hotlap.workload.target import load_target

_NEEDS = ("training", "loss")
_ENDLESS = 1_000_000
"""Epochs, so that steps never run out while they are timed."""


def study(state: dict[str, Any], *, target: str, settings: Json) -> Json:
    """What decides which set-ups make sense: facts of the model, the optimizer and the data."""
    import torch

    loaded = load_target(target)
    check_fields(loaded, _NEEDS, "tune")
    chosen = Settings(**settings)
    opened = open_workload(loaded, needs=_NEEDS, command="tune")
    processes = Processes(chosen.device)
    torch.set_num_threads(chosen.threads)
    parts = make_parts(opened, chosen, Path(), processes, _nobody)
    trim = trimming_of(opened, chosen, processes)
    return {
        "name": loaded.name,
        "digest": loaded.digest,
        "bf16_arithmetic": chosen.device == "cuda" or facts().has_bf16_dot_product,
        "images": any(parameter.ndim == 4 for parameter in parts.model.parameters()),
        "fused": preparing.has_fused_form(parts.optimizer),
        "foreach": preparing.has_foreach_form(parts.optimizer),
        "trim": to_json(trim),
        "at_once": to_json(parts.source.check_at_once()),
        "optimizer": type(parts.optimizer).__name__,
        "not_exact": preparing.not_exact(parts.model),
        "repeated": len(repeated_layers(parts.model)),
        "locked": list(parts.source.locked),
        "examples": parts.source.examples,
        "parameters": sum(one.numel() for one in parts.model.parameters()),
        "warnings": list(opened.warnings),
    }


def hold(state: dict[str, Any], *, target: str, settings: Json) -> Json:
    """Make `state["call"]` one step with these settings, and take the first ones: the optimizer's state is there."""
    import torch

    chosen = Settings(**{**settings, "epochs": _ENDLESS})
    torch.set_num_threads(chosen.threads)
    opened = open_workload(load_target(target), needs=_NEEDS, command="tune")
    parts = make_parts(opened, chosen, Path(), Processes(chosen.device), _nobody)
    preparing.compile_model(parts.model, chosen)
    steps = Steps(parts)
    began = time.monotonic()
    steps()
    steps()
    steps.loading = steps.whole = 0.0
    state["call"] = steps
    return {"first_seconds": time.monotonic() - began}


def held(state: dict[str, Any]) -> Json:
    """What the steps so far took: the share of their time spent waiting for data, the peak memory in bytes, and the
    examples that a step has: the median of them.
    """
    steps: Steps = state["call"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {
        "loading_share": steps.loading / steps.whole if steps.whole else 0.0,
        "peak_memory_bytes": 1024 * peak,
        "rows_a_step": median(steps.rows),
    }


class Steps:
    """Each call is one step; `loading` and `whole` add up seconds, `rows` are the examples of each."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._epoch, self._found = -1, True
        self._windows: Iterator[Window] = iter(())
        self.loading = self.whole = 0.0
        self.rows: list[int] = []

    def __call__(self) -> None:
        began = time.perf_counter()
        window = self._next()
        loaded = time.perf_counter()
        try:
            self._parts.stepper.step(window, sum(one.weight for one in window.micro_batches))
        except NotFinite as error:
            raise WorkloadError(
                f"a training step with these settings gave a {error.what} that is not finite ({error.value}); `hotlap "
                "train` with them names the step and the layer"
            ) from error
        self.rows.append(window.rows)
        self.loading += loaded - began
        self.whole += time.perf_counter() - began

    def _next(self) -> Window:
        while True:
            window: Window | None = next(self._windows, None)
            if window is not None:
                self._found = True
                return window
            if not self._found:
                raise WorkloadError("the workload's `training` gave no batch; give at least one an epoch")
            self._found = False
            self._epoch += 1
            self._windows = self._parts.source.epoch(self._epoch, 0)


def _nobody(event: Json) -> None:
    """Nobody watches."""
