"""Whole training steps, timed in a process of their own: what `hotlap tune` calls there.

A step here is all that training does for one: a batch is loaded, goes forward and backward, and the optimizer moves
the weights. Peak memory so includes the optimizer's state and loader processes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from hotlap.core import Json, to_json
from hotlap.errors import WorkloadError
from hotlap.machine.facts import facts
from hotlap.training import cutting, heap, kernels, preparing, validation
from hotlap.training.loading import DatasetSource, Source
from hotlap.training.loop import Parts, steps_of
from hotlap.training.making import by_length_of, look_at_casts, make_parts, make_source, trimming_of, undone
from hotlap.training.memory.use import fields, kibibytes
from hotlap.training.memory.work import peak_bytes
from hotlap.training.processes import Processes
from hotlap.training.reading import NO_BATCH, Window
from hotlap.training.recompute import repeated_layers
from hotlap.training.schedule import rate_factor
from hotlap.training.settings import Settings
from hotlap.training.stepping import NotFinite
from hotlap.workload.opened import Opened, check_fields, open_workload
from hotlap.workload.target import load_target

_NEEDS = ("training", "loss")
_ENDLESS = 1_000_000
"""Epochs, so that steps never run out while they are timed."""


def study(state: dict[str, Any], *, target: str, settings: Json) -> Json:
    """What decides which set-ups make sense: facts of the model, the optimizer and the data. The checks are others."""
    import torch

    loaded = load_target(target)
    check_fields(loaded, _NEEDS, "tune")
    chosen = Settings(**settings)
    opened = open_workload(loaded, needs=_NEEDS, command="tune")
    processes = Processes(chosen.device)
    torch.set_num_threads(chosen.threads)
    parts = make_parts(opened, chosen, Path(), processes, _nobody)
    state["checked"] = opened, chosen, processes, parts
    steps_of(parts.source, chosen)  # Whether a schedule can be laid out.
    if chosen.early_stop is not None:
        validation.check_both_parts(opened, chosen)
    return {
        "name": loaded.name,
        "digest": loaded.digest,
        "bf16_arithmetic": chosen.device == "cuda" or facts().has_bf16_dot_product,
        "images": any(parameter.ndim == 4 for parameter in parts.model.parameters()),
        "fused": preparing.has_fused_form(parts.optimizer),
        "foreach": preparing.has_foreach_form(parts.optimizer),
        "optimizer": type(parts.optimizer).__name__,
        "kept_memory": {"reason": _why_not_kept(chosen)},
        "repeated": len(repeated_layers(parts.model)),
        "locked": list(parts.source.locked),
        "examples": parts.source.examples,
        "steps": parts.source.windows,
        "parameters": sum(one.numel() for one in parts.model.parameters()),
        "warnings": [*opened.warnings, *parts.source.warnings],
        "loaders": {"reason": _why_no_loaders(parts.source)},
    }


def _why_no_loaders(source: Source) -> str | None:
    """Why loader processes would read other examples; None where nothing is known that speaks against them."""
    if not isinstance(source, DatasetSource) or not source.counts:
        return None
    return "reading changes the Dataset's numbers, and what it gives may hang on them: each process would have its own"


def _why_not_kept(settings: Settings) -> str | None:
    return heap.why_not() if settings.device == "cpu" else "tensors lie on the device, which keeps what they free"


def check_in_passes(state: dict[str, Any]) -> Json:
    """Why a step of what `study` opened can't be computed in passes with the same result; None where it can."""
    opened, settings, processes, parts = _checked(state)
    cut = cutting.in_two(settings, parts.source.examples)
    if cut is None or "micro_batch" in parts.source.locked:
        return {"reason": None}
    whole, halves = (make_source(opened, one, processes) for one in (replace(cut, micro_batch=None), cut))
    return {"reason": cutting.why_not(parts, whole, halves)}


def check_trim(state: dict[str, Any]) -> Json:
    """What cutting off the padding of what `study` opened changes, by rows of real batches."""
    opened, settings, processes, _ = _checked(state)
    return to_json(trimming_of(opened, settings, processes))


def check_kernels(state: dict[str, Any]) -> Json:
    """What forward and loss of the first batch of what `study` opened compute that torch has several kernels for."""
    *_, parts = _checked(state)
    if parts.source.once:
        reason = "`training` gives the same iterator each time, so that what is looked at would be missing from it"
        return {"reason": reason, "attention": 0, "masked": 0}
    with undone(parts):
        first = next(iter(parts.source.epoch(0, 0)), None)
        parts.source.close()
        if first is None:
            raise WorkloadError(NO_BATCH)
        seen = kernels.seen_in(parts.stepper, first.micro_batches[0])
    return {"reason": None, "attention": seen.attention, "masked": seen.masked}


def check_length_buckets(state: dict[str, Any]) -> Json:
    """What passes by length change in what `study` opened, by a few rows of real batches."""
    opened, settings, processes, parts = _checked(state)
    return to_json(by_length_of(opened, settings, processes, parts))


def check_at_once(state: dict[str, Any]) -> Json:
    """Whether batches of what `study` opened are the same where the Dataset is indexed once for each."""
    *_, parts = _checked(state)
    return to_json(parts.source.check_at_once())


def _checked(state: dict[str, Any]) -> tuple[Opened, Settings, Processes, Parts]:
    found: tuple[Opened, Settings, Processes, Parts] = state["checked"]
    return found


def hold(state: dict[str, Any], *, target: str, settings: Json) -> Json:
    """Make `state["call"]` one step with these settings, and take the first ones: the optimizer's state is there."""
    import torch

    chosen = Settings(**{**settings, "epochs": _ENDLESS})
    torch.set_num_threads(chosen.threads)
    opened = open_workload(load_target(target), needs=_NEEDS, command="tune")
    parts = make_parts(opened, chosen, Path(), Processes(chosen.device), _nobody)
    if isinstance(parts.source, DatasetSource):
        # With another batch size it would be another share of the steps, and the times are of whole ones.
        parts.source.leave_out_short_steps()
    look_at_casts(parts)
    preparing.compile_model(parts.model, chosen)
    steps = Steps(parts)
    began = time.monotonic()
    steps()
    second = time.monotonic()
    steps()
    state["call_seconds"] = time.monotonic() - second
    steps.loading = steps.whole = 0.0
    state["call"] = steps
    return {"first_seconds": time.monotonic() - began}


def held(state: dict[str, Any]) -> Json:
    """What the steps so far took: the share of their time spent waiting for data, the peak memory in bytes, what of
    that loader processes hold, and the examples that a step has: the median of them.
    """
    steps: Steps = state["call"]
    # On CUDA it is the device's memory; the host's is another.
    beside = _bytes_of_processes() if steps.device == "cpu" else 0
    return {
        "loading_share": steps.loading / steps.whole if steps.whole else 0.0,
        "peak_memory_bytes": peak_bytes(steps.device) + beside,
        "loading_bytes": beside,
        "rows_a_step": median(steps.rows),
    }


def failed(state: dict[str, Any]) -> bool:
    """Whether the last step failed."""
    steps: Steps = state["call"]
    return steps.failed


def _bytes_of_processes() -> int:
    """What the processes that this one started, and that live, hold for themselves: a forked one shares the rest."""
    import psutil

    shares = [fields(Path(f"/proc/{one.pid}/smaps_rollup")) for one in psutil.Process().children(recursive=True)]
    return sum(kibibytes(one[name]) for one in shares for name in ("Private_Clean", "Private_Dirty") if name in one)


class Steps:
    """Each call is one step; `loading` and `whole` add up seconds, `rows` are the examples of each.

    The learning rate rises over a warmup and stays near the beginning of a schedule, since steps never run out.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._steps = steps_of(parts.source, parts.settings)
        self._epoch, self._found = -1, True
        self._windows: Iterator[Window] = iter(())
        self.loading = self.whole = 0.0
        self.rows: list[int] = []
        self.device = parts.settings.device
        self.failed = False

    def __call__(self) -> None:
        self.failed = True
        began = time.perf_counter()
        window = self._next()
        loaded = time.perf_counter()
        try:
            self._step(window)
        except NotFinite as error:
            raise WorkloadError(
                f"a training step with these settings gave a {error.what} that is not finite ({error.value}); `hotlap "
                "train` with them names the step and the layer"
            ) from error
        self.failed = False
        self.rows.append(window.rows)
        self.loading += loaded - began
        self.whole += time.perf_counter() - began

    def _step(self, window: Window) -> None:
        parts, settings = self._parts, self._parts.settings
        factor = rate_factor(settings.schedule, len(self.rows), steps=self._steps, warmup=settings.warmup)
        preparing.set_rate(parts.optimizer, factor)
        stepped = parts.stepper.step(window, sum(one.weight for one in window.micro_batches))
        if parts.average is not None and not stepped.skipped:
            parts.average.update()

    def _next(self) -> Window:
        while True:
            window: Window | None = next(self._windows, None)
            if window is not None:
                self._found = True
                return window
            if not self._found:
                raise WorkloadError(NO_BATCH)
            self._found = False
            self._epoch += 1
            self._windows = self._parts.source.epoch(self._epoch, 0)


def _nobody(event: Json) -> None:
    """Nobody watches."""
