"""The loop: windows in, steps of the optimizer, scores at the end of each epoch, checkpoints on the way."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from hotlap.core import Json
from hotlap.errors import HotlapError, InputError, OutputError, TrainingStopped, WorkloadError
from hotlap.training import checkpoint, divergence, preparing, state, validation
from hotlap.training.attributes import Attributes
from hotlap.training.averaging import Average
from hotlap.training.buffers import Buffers
from hotlap.training.loading import Source
from hotlap.training.processes import Processes, all_finite, whole
from hotlap.training.reading import NO_BATCH, Window
from hotlap.training.records import FAILURE, Records
from hotlap.training.schedule import miscounted, rate_factor
from hotlap.training.settings import Settings
from hotlap.training.state import Best, Position
from hotlap.training.stepping import LATE, NotFinite, Stepped, Stepper
from hotlap.training.stopping import Stop
from hotlap.workload.opened import Opened
from hotlap.workload.user_code import running

if TYPE_CHECKING:
    import torch

_PAGE = os.sysconf("SC_PAGE_SIZE")
_SAVING_PAYS = 100.0
"""An epoch's checkpoint waits until so many times what the last one took has gone by."""
_MEMORY_SECONDS = 0.1
_START_OVER = "look at that batch, or start over with --force and a change such as --set clip=1"
Tell = Callable[[Json], None]


class Interrupted(Exception):
    """Ctrl-C, or a request to end: all that was done is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What one run is made of. `checkpoints` is their folder; `records` is None but for the process that writes."""

    opened: Opened
    settings: Settings
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    stepper: Stepper
    average: Average | None
    attributes: Attributes
    source: Source
    processes: Processes
    records: Records | None
    checkpoints: Path
    tell: Tell


class Loop:
    """Trains from `position` to the end; afterwards the model holds the weights that are to be kept."""

    def __init__(self, parts: Parts, position: Position, stop: Stop) -> None:
        self._parts, self.position, self._stop = parts, position, stop
        self._steps = steps_of(parts.source, parts.settings)
        self._weighed = position.step > 0
        self._moved = False
        self.warnings: list[str] = []
        self._saved_at = self._mark = time.monotonic()
        self._save_seconds = 0.0
        self._memory = _Memory(parts.settings)
        self._buffers = Buffers(parts.model)

    def run(self) -> Position:
        """Train. Raises TrainingStopped where a number is not finite, Interrupted after Ctrl-C, with all saved."""
        settings = self._parts.settings
        with self._stop.after_the_work_in_hand():
            self._mark = self._saved_at = time.monotonic()
            while not self.position.done:
                epoch = self.position.epoch
                self._epoch(epoch)
                score, best = self._judge(epoch)
                done = epoch + 1 >= settings.epochs or waited_enough(best, epoch, settings)
                self.position = replace(self.position, epoch=epoch + 1, window=0, score=score, best=best, done=done)
                asked, worth = self._parts.processes.sums(float(self._stop.asked), float(self._worth_saving()))
                if asked and not done:
                    self._end()
                if worth:
                    self._save()
        self._take_best()
        return self.position

    def _epoch(self, epoch: int) -> None:
        found, settings = self.position.window > 0, self._parts.settings
        for window in self._windows(epoch):
            found = True
            self._window(window)
            asked, due = self._parts.processes.sums(float(self._stop.asked), float(self._due()))
            if asked:
                self._end()
            if due:
                self._save()
        self.warnings += miscounted(self._parts.source.windows, self.position.window, settings)
        if not found:
            raise WorkloadError(NO_BATCH)
        if not self._weighed:
            raise WorkloadError(
                "the workload's `loss_weight` gave 0 for every batch, so that nothing was learnt; give what the loss "
                "was averaged over, such as the number of tokens that count"
            )

    def _windows(self, epoch: int) -> Iterator[Window]:
        try:
            yield from self._parts.source.epoch(epoch, self.position.window)
        except HotlapError:
            # What goes to a whole group of processes also ends those that an iterable reads with.
            if self._stop.asked and self._parts.processes.world == 1:
                self._end()
            raise

    def _window(self, window: Window) -> None:
        parts, position = self._parts, self.position
        settings = parts.settings
        parts.processes.give_buffers()
        self._buffers.keep()
        factor = rate_factor(settings.schedule, position.step, steps=self._steps, warmup=settings.warmup)
        rate = preparing.set_rate(parts.optimizer, factor)
        weight, rows = parts.processes.sums(sum(one.weight for one in window.micro_batches), float(window.rows))
        stepped = self._stepped(window, weight) if weight else None
        self._weighed |= bool(weight)
        skipped = stepped is None or stepped.skipped
        if not skipped and not self._moved:
            # An optimizer makes its state at the first step; a checkpoint may be an hour away.
            state.check_optimizer(parts.model, parts.optimizer)
            self.warnings += self._found_at_the_first()
            self._moved = True
        if parts.average is not None and not skipped:
            parts.average.update()
        now = time.monotonic()
        seconds, self._mark = now - self._mark, now
        loss = stepped.loss if stepped else None
        self.position = position.after_step(window.number + 1, loss=loss, skipped=skipped, seconds=seconds)
        self._note(window, stepped, rate, rows, seconds)

    def _found_at_the_first(self) -> list[str]:
        """What only a step that was taken tells of the workload."""
        parts = self._parts
        found = preparing.untrained_warnings(parts.opened.workload.loss, parts.optimizer)
        if parts.stepper.draws:
            found += preparing.drawing_warnings(parts.model, parts.settings, parts.processes.world)
        if parts.stepper.seed_late_ones():
            found.append(LATE)
        return found

    def _stepped(self, window: Window, weight: float) -> Stepped:
        parts = self._parts
        try:
            return parts.stepper.step(window, weight)
        except NotFinite as found:
            sentence = divergence.explain(parts.stepper, window, found, step=self.position.step)
            try:
                kept = self._keep_good_state()
            except OutputError as error:
                kept = f"the state before it was not kept: {error}"
            with suppress(OutputError):
                self._note_failure(window.epoch + 1, self.position.step + 1, sentence)
            way_on = self._way_on(sentence, self.position.step + 1)
            raise TrainingStopped(f"{sentence}; {kept}; {way_on}") from found

    def _keep_good_state(self) -> str:
        """Save the state before the step that failed, unless its passes have changed what can't be put back."""
        parts = self._parts
        # What is kept takes all of them, where they share the weights.
        (changed,) = parts.processes.sums(float(not self._buffers.put_back() or parts.attributes.changed_by_passes()))
        tensors = [whole(one.detach()) for one in preparing.trainable(parts.model).values()]
        if not changed and all_finite(tensors) and not parts.source.ahead:
            self._save(failed=True)
            parts.processes.wait()
            return f"the state after step {self.position.step} is kept in {parts.checkpoints}"
        if checkpoint.newest(parts.checkpoints)[0] is None:
            return "there was no checkpoint before it"
        return f"the last checkpoint before it is kept in {parts.checkpoints}"

    def _note_failure(self, epoch: int, step: int, sentence: str) -> None:
        """Have the metrics end with it: a resumed run then knows, whatever state was kept."""
        records = self._parts.records
        if records is not None:
            records.add({"step": step, "epoch": epoch, FAILURE: sentence})

    def _way_on(self, sentence: str, step: int) -> str:
        """What can help. A change of settings needs steps before the one that failed, which is `step`, to matter."""
        if sentence.endswith(divergence.OF_DATA):
            return "mend the data of that batch (not in FILE.py) and go on with --resume, or start over with --force"
        before = checkpoint.before_failure(self._parts.checkpoints, step)
        if before is None:
            return _START_OVER
        return (
            f"look at that batch; --resume with a change such as --set clip=1 goes back to step {before.step}; where "
            "that is too late, start over with --force"
        )

    def _note(self, window: Window, stepped: Stepped | None, rate: float | None, rows: float, seconds: float) -> None:
        parts, position = self._parts, self.position
        line: dict[str, Any] = {
            "step": position.step,
            "epoch": window.epoch + 1,
            "loss": stepped.loss if stepped else None,
            "rate": rate,
            "gradient_norm": _finite(stepped.gradient_norm) if stepped else None,
            "skipped": position.skipped,
            "examples": int(rows),
            "ms": 1000 * seconds,
            "examples_per_second": rows / seconds,
            "memory_bytes": self._memory.bytes(),
        }
        if parts.records is not None:
            parts.records.add(line)
        left = None if self._steps is None else self._steps - position.step
        parts.tell({"event": "step", **line, "steps": self._steps, "left": left, "epochs": parts.settings.epochs})

    def _judge(self, epoch: int) -> tuple[float | None, Best | None]:
        """Score the model; where a stop hangs on it, note the best so far and keep its weights."""
        parts, position = self._parts, self.position
        patience = parts.settings.early_stop
        try:
            score = self._score("selection" if patience else "all")
        except Interrupted:
            self._end()
        if score is None:
            return None, None
        if parts.records is not None:
            parts.records.add({"step": position.step, "epoch": epoch + 1, "score": score})
        parts.tell({"event": "score", "epoch": epoch + 1, "score": score})
        if patience is None or (position.best is not None and score <= position.best.score):
            return score, position.best
        self._save_best()
        return score, Best(step=position.step, epoch=epoch, score=score)

    def _score(self, role: Any) -> float | None:
        parts = self._parts
        sharded = parts.stepper.sharded
        found, left, modes = None, False, preparing.modes_of(parts.model)
        if parts.processes.writes or sharded:
            # A scoring that was left is done again from its beginning.
            undone = self._buffers.undone_if_left(), parts.attributes.undone_if_left()
            try:
                # What takes all processes none of them can leave.
                with self._kept_weights(), undone[0], undone[1], nullcontext() if sharded else self._stop.at_once():
                    found = validation.score(parts.opened, parts.model, parts.settings, role)
            except KeyboardInterrupt:
                if sharded:
                    raise
                left = True
                preparing.set_modes(modes)  # It may have come while they were put back.
        self._mark = time.monotonic()
        score, left = parts.processes.gathered((found, left))[0]
        if left:
            raise Interrupted
        return score  # type: ignore[no-any-return]

    def check_result(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Raise TrainingStopped where the weights that would be kept are not finite: no step came after, to tell."""
        # What is not trained may be infinite: a mask.
        trained = [name for name in preparing.trainable(self._parts.model) if name in tensors]
        bad = next((name for name in trained if not all_finite([tensors[name]])), None)
        if bad is None:
            return
        step = self.position.step
        sentence = f"the last step (step {step}) left the weight {bad!r} NaN or infinite"
        self._note_failure(self.position.epoch, step, sentence)
        raise TrainingStopped(f"{sentence}; {self._way_on(sentence, step)}")

    def score_of_result(self) -> float | None:
        """The score on examples that chose nothing: all of them, unless a stop was chosen on some."""
        return self._score("confirmation") if self._parts.settings.early_stop else self.position.score

    @contextmanager
    def _kept_weights(self) -> Iterator[None]:
        """Within the block the model holds what would be kept if training ended here."""
        parts = self._parts
        if self.position.done or (parts.average is None and not preparing.has_modes(parts.optimizer)):
            yield
        elif parts.average is not None:
            with parts.average.in_place():
                yield
        else:
            with preparing.switched(parts.optimizer):
                yield

    def _take_best(self) -> None:
        """Put the weights that are kept into the model: the best ones, the average, or the last."""
        best, parts = self.position.best, self._parts
        if best is not None:
            state.load_weights(checkpoint.load_best(parts.checkpoints, best.step), parts.model)
        elif parts.average is not None:
            parts.average.take()
        elif preparing.has_modes(parts.optimizer):
            with running("optimizer"):
                parts.optimizer.eval()  # type: ignore[attr-defined]

    def _save(self, *, failed: bool = False) -> None:
        parts, began = self._parts, time.monotonic()
        if parts.average is not None:
            parts.average.give_back()
        if parts.records is not None:
            self.position = replace(self.position, metrics_bytes=parts.records.mark())
        taken = state.capture(
            self.position,
            parts.model,
            parts.optimizer,
            scaler=parts.stepper.scaler,
            average=parts.average,
            loader=parts.source.state(within_epoch=self.position.window > 0),
            examples=parts.source.examples,
            attributes=parts.attributes,
            failed=failed,
        )
        if parts.processes.writes:
            best = self.position.best
            checkpoint.save(parts.checkpoints, taken, keep_best=best.step if best else None)
        self._saved_at = self._mark = time.monotonic()
        self._save_seconds = self._saved_at - began

    def _end(self) -> NoReturn:
        """Keep what was done, and end; not before it is kept, since torchrun ends the others where one has ended."""
        self._save()
        self._parts.processes.wait()
        raise Interrupted

    def _save_best(self) -> None:
        parts = self._parts
        with self._kept_weights():
            taken = state.capture_weights(self.position.step, parts.model)
            # Within the block: what was taken are the model's own tensors.
            if parts.processes.writes:
                checkpoint.save(parts.checkpoints, taken, kind="best")

    def _worth_saving(self) -> bool:
        """At an epoch's end: always at the last one, else where saving is a small part of the time of the process that
        writes. A run that goes on from an older checkpoint ends with the same weights.
        """
        spent = time.monotonic() - self._saved_at
        return self.position.done or (self._parts.processes.writes and spent >= _SAVING_PAYS * self._save_seconds)

    def _due(self) -> bool:
        return self._parts.processes.writes and (
            time.monotonic() - self._saved_at >= self._parts.settings.checkpoint_seconds
        )


def steps_of(source: Source, settings: Settings) -> int | None:
    """The steps of the whole training; None where an iterable does not say. Raises InputError where a schedule needs
    them, or has a warmup that is longer.
    """
    steps = source.windows * settings.epochs if source.windows is not None else None
    if steps is None and settings.schedule != "constant":
        raise InputError(
            f"settings: schedule={settings.schedule} needs to know how many steps there are, and `training` is an "
            "iterable without a length; give it a __len__, or leave the schedule out"
        )
    if steps is not None and settings.warmup > steps:
        raise InputError(f"settings: warmup is {settings.warmup} steps, and the whole training has {steps}; give fewer")
    return steps


def waited_enough(best: Best | None, epoch: int, settings: Settings) -> bool:
    """Whether after that epoch the score has not risen for as long as `early_stop` allows."""
    return settings.early_stop is not None and best is not None and epoch - best.epoch >= settings.early_stop


class _Memory:
    """What this process holds: of the CUDA device's memory, or resident on the CPU. Looked up ten times a second."""

    def __init__(self, settings: Settings) -> None:
        self._cuda = settings.device == "cuda"
        self._at, self._bytes = -math.inf, 0

    def bytes(self) -> int:
        now = time.monotonic()
        if now - self._at >= _MEMORY_SECONDS:
            self._at, self._bytes = now, self._now()
        return self._bytes

    def _now(self) -> int:
        if self._cuda:
            import torch

            return int(torch.cuda.memory_allocated())
        with open("/proc/self/statm", "rb", buffering=0) as file:
            return int(file.read().split()[1]) * _PAGE


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
