"""The steps of a training on batches of any size: those that `train` computes, without its data and its records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hotlap.errors import WorkloadError
from hotlap.training import preparing
from hotlap.training.averaging import Average
from hotlap.training.processes import Processes
from hotlap.training.reading import MicroBatch, Window, loss_weight
from hotlap.training.settings import Settings
from hotlap.training.stepping import NotFinite, Stepped, Stepper
from hotlap.workload.target import Loaded

Make = Callable[[int], tuple[Any, Any]]
"""Gives (inputs, targets) with so many rows, fresh ones each time, as a loader would."""


class Steps:
    """A workload's model and optimizer as `settings` say, built anew."""

    def __init__(self, loaded: Loaded, settings: Settings) -> None:
        """Raises WorkloadError where the user's code misbehaves, InputError for settings that the model can't do."""
        self._workload = loaded.workload
        self.model = preparing.prepare_model(loaded, settings)
        self.optimizer = preparing.prepare_optimizer(loaded.workload, self.model, settings)
        self.stepper = Stepper(self.model, loaded.workload, self.optimizer, settings, Processes(settings.device))
        self.average = Average(self.model, settings.ema) if settings.ema is not None else None
        preparing.compile_model(self.model, settings)

    def window(self, make: Make, rows: int, passes: int) -> Window:
        """A window of `passes` passes with `rows` rows each."""
        parts = []
        for number in range(passes):
            inputs, targets = make(rows)
            weight = loss_weight(self._workload, targets, rows)
            parts.append(MicroBatch(inputs=inputs, targets=targets, rows=rows, weight=weight, start=number * rows))
        return Window(epoch=0, number=0, micro_batches=tuple(parts))

    def step(self, make: Make, rows: int, passes: int) -> Stepped:
        """One whole step: the batches, forward and backward of each, the optimizer, the average."""
        window = self.window(make, rows, passes)
        try:
            stepped = self.stepper.step(window, sum(one.weight for one in window.micro_batches) or 1.0)
        except NotFinite as error:
            raise WorkloadError(
                f"a training step on the largest batch gave a {error.what} that is not finite ({error.value}); "
                "see what `loss` and `model` make of it"
            ) from error
        if self.average is not None:
            self.average.update()
        return stepped


def passes_of(settings: Settings, rows: int | None) -> int:
    """The forward passes of a step; `rows` is the user's own batch size where the data is an iterable of batches."""
    return settings.accumulation if rows is not None else -(-settings.batch_size // settings.examples_a_pass)
