"""One run of training, from a workload to a trained model: the parts are made, checked and put together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median

from hotlap.core import Json
from hotlap.errors import InputError, OutputError, WorkloadError
from hotlap.training import checkpoint, preparing, state, validation
from hotlap.training.iterables import BatchesSource
from hotlap.training.loop import Loop, Parts, Tell, steps_of, waited_enough
from hotlap.training.making import CHECKPOINTS, check_at_once, check_trimming, look_at_casts, make_parts, undone
from hotlap.training.processes import Processes, whole
from hotlap.training.records import Records, charts_wanted, failed_step
from hotlap.training.settings import Settings, check_early_stop
from hotlap.training.state import Position
from hotlap.training.stepping import OUT_OF_MEMORY, NotFinite
from hotlap.training.stopping import Stop
from hotlap.workload.opened import check_fields, open_workload
from hotlap.workload.target import Loaded

_NEEDS = ("training", "loss")
_WARM_STEPS, _TIMED_STEPS = 2, 6
_TIMED_SECONDS = 20.0
WEIGHTS = "model.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What came of a run. `score` is on examples that chose nothing, `score_before` that of the first weights.

    `step_ms` is the median of this process's steps, loading included, and `rows_a_step` that of the examples in one;
    None where it computed none. `own_batches`: they are those of `training`, whatever the settings say.
    `resumed_from` is the step that it went on from.
    """

    position: Position
    steps: int
    step_ms: float | None
    rows_a_step: float | None
    own_batches: bool
    examples_per_second: float | None
    score_before: float | None
    score: float | None
    parameters: int
    bytes: int
    resumed_from: int | None
    warnings: tuple[str, ...]


def train_model(
    loaded: Loaded,
    settings: Settings,
    folder: Path,
    processes: Processes,
    *,
    resume: bool,
    tell: Tell,
    stop: Stop | None = None,
    ready: Callable[[], None] = lambda: None,
    other: bool = False,
) -> Trained:
    """Train as the settings say and write checkpoints, `metrics.jsonl` and `model.safetensors` into `folder`.

    With `resume` it goes on from the newest whole checkpoint there. `stop` may ask it to end, `ready` is called by the
    process that writes once nothing stands in the way of the first step. `other`: settings were changed that decide
    what is learnt, so that a run whose numbers were not finite goes back to before that. Raises InputError for what the
    user can mend before any step, TrainingStopped and loop.Interrupted with all saved.
    """
    check_fields(loaded, _NEEDS, "train")
    _check(loaded, settings)
    tell({"event": "phase", "phase": "opening the workload"})
    warnings: list[str] = []
    with _threads(settings.threads):
        opened = open_workload(loaded, needs=_NEEDS, command="train")
        warnings += check_trimming(opened, settings, processes)
        if settings.early_stop is not None:
            validation.check_both_parts(opened, settings)
        kept = _kept(folder, warnings, failed=not other) if resume else None
        if resume and kept is None:
            tell({"event": "phase", "phase": "no checkpoint to go on from: beginning with the first step"})
        parts = make_parts(opened, settings, folder, processes, tell)
        finished = False
        try:
            opened = parts.opened  # The model that was only looked at may go.
            checkpoint.check_kinds(parts.model)
            state.check_optimizer(parts.model, parts.optimizer)
            check_at_once(parts)
            look_at_casts(parts)
            warnings += [*preparing.cutting_warnings(parts.model, settings, processes.world), *parts.source.warnings]
            warnings += [*preparing.optimizer_warnings(parts.optimizer), *parts.attributes.warnings]
            steps_of(parts.source, settings)
            position = _restore(parts, kept, warnings) if kept else Position(first_score=_first_score(parts))
            preparing.compile_model(parts.model, settings)
            processes.wait()  # All of them have read the checkpoints, and nothing more can be refused.
            if processes.writes:
                if kept is not None:
                    checkpoint.remove_later(parts.checkpoints, kept.step)
                size = position.metrics_bytes
                records = Records(folder, size=size, name=loaded.name, settings=settings.to_json())
                parts = replace(parts, records=records)
                ready()
            times = _Times(tell)
            tell({"event": "phase", "phase": "training"})
            loop = Loop(replace(parts, tell=times), position, stop or Stop())
            end = loop.run()
            tell({"event": "phase", "phase": "scoring the trained model"})
            score = loop.score_of_result()
            warnings += [*dict.fromkeys(loop.warnings), *_not_in_weights(parts)]
            tensors = {name: whole(value) for name, value in checkpoint.model_tensors(parts.model).items()}
            loop.check_result(tensors)
            if processes.writes:
                checkpoint.write_weights(folder / WEIGHTS, tensors)
            finished = True
        finally:
            parts.source.close()
            if parts.records is not None:
                parts.records.close(finished=finished)
                warnings += parts.records.warnings
    return Trained(
        position=end,
        steps=end.step,
        step_ms=times.median_ms,
        rows_a_step=times.median_rows,
        own_batches="batch_size" in parts.source.locked,
        examples_per_second=times.examples_per_second,
        score_before=position.first_score,
        score=score,
        parameters=sum(one.numel() for one in parts.model.parameters()),
        bytes=sum(value.numel() * value.element_size() for value in tensors.values()),
        resumed_from=kept.step if kept else None,
        warnings=(*opened.warnings, *warnings),
    )


def median_step_ms(loaded: Loaded, settings: Settings, processes: Processes) -> float | str:
    """The median time of a step with these settings, loading included, in ms, or why it has none.

    Nothing is kept of it: what the loss, an iterable and the rest of the user's own counted meanwhile is put back. It
    takes so many steps, or those that begin within _TIMED_SECONDS.
    """
    opened = open_workload(loaded, needs=_NEEDS, command="train")
    found: list[float] = []
    with _threads(settings.threads):
        parts = make_parts(opened, settings, Path(), processes, lambda event: None)
        if parts.source.once:
            return "`training` gives the same iterator each time, so that what is timed would be missing from it"
        preparing.compile_model(parts.model, settings)
        try:
            with undone(parts):
                started = began = time.monotonic()
                for window in islice(parts.source.epoch(0, 0), _WARM_STEPS + _TIMED_STEPS):
                    late = float(bool(found) and began - started >= _TIMED_SECONDS)
                    weight, late = processes.sums(sum(one.weight for one in window.micro_batches), late)
                    if late:
                        break
                    stepped = parts.stepper.step(window, weight)
                    if parts.average is not None and not stepped.skipped:
                        parts.average.update()
                    now = time.monotonic()
                    found.append(1000 * (now - began))
                    began = now
        except NotFinite:
            pass  # Training itself tells, should it come to that.
        except WorkloadError as error:
            # Where one process of several goes on alone, the others wait for ever.
            if processes.world > 1 or not any(words in str(error).lower() for words in OUT_OF_MEMORY):
                raise
            return "it does not fit the memory"
        finally:
            parts.source.close()
    return median(found[_WARM_STEPS:] or found) if found else "it gave numbers that are not finite"


def _check(loaded: Loaded, settings: Settings) -> None:
    charts_wanted()
    check_early_stop(loaded.workload, settings)
    if settings.pin and settings.device == "cpu":
        raise InputError("settings: pin=true is for copies to a CUDA device; leave it out on the CPU")
    if settings.keep_memory and settings.device != "cpu":
        raise InputError("settings: keep_memory=true is for tensors on the CPU; leave it out on CUDA")
    if settings.fast_dropout and settings.device != "cpu":
        raise InputError("settings: fast_dropout=true is for masks on the CPU; leave it out on CUDA")


def _kept(folder: Path, warnings: list[str], *, failed: bool) -> checkpoint.Checkpoint | None:
    """The checkpoint to go on from. Without `failed` one before the step that failed, where there is one."""
    at = folder / CHECKPOINTS
    if at.is_symlink() and not at.exists():
        raise OutputError(
            f"--resume: {at} leads nowhere; is the disk that it leads to there? Put it back and try again"
        )
    last, damaged = checkpoint.newest(at)
    found = last
    before = _before_failure(folder, last) if last is not None else None
    if before is not None and not failed:
        found = checkpoint.before_failure(at, before + 1) or last
    warnings += [f"{one.path.name} was passed over: {one.reason}" for one in damaged]
    if last is None:
        if damaged:
            raise OutputError(
                f"--resume: no checkpoint in {at} is whole ({damaged[0].reason}); start over with --force"
            )
        if (folder / WEIGHTS).exists():
            raise OutputError(
                f"--resume: that run ended, and {at} holds no checkpoint of it any more; its {WEIGHTS} stays: start "
                "another in another folder"
            )
        warnings.append("there was no checkpoint to go on from: training began with its first step")
    if last is not None and found is not None and found.step < last.step:
        warnings.append(f"the numbers were not finite after step {before}: this run goes on from step {found.step}")
    return found


def _before_failure(folder: Path, last: checkpoint.Checkpoint) -> int | None:
    """The step after which the run's numbers were not finite; None where it ended otherwise."""
    failed = failed_step(folder)
    if failed is not None:
        return failed - 1
    return last.step if last.state.get("failed") else None


def _restore(parts: Parts, kept: checkpoint.Checkpoint, warnings: list[str]) -> Position:
    state.check_form(kept, parts.checkpoints / f"step-{kept.step:08d}.json")
    position, loader = state.restore(
        kept,
        parts.model,
        parts.optimizer,
        scaler=parts.stepper.scaler,
        average=parts.average,
        examples=parts.source.examples,
        attributes=parts.attributes,
    )
    epochs, begun = parts.settings.epochs, position.epoch + (position.window > 0)
    if begun > epochs:
        raise OutputError(
            f"--resume: that run is in its epoch {begun} already; give epochs={begun} or more, or start over with "
            "--force"
        )
    best = position.best if parts.settings.early_stop is not None else None
    reason = checkpoint.why_no_best(parts.checkpoints, best.step) if best else None
    if best and reason:
        warnings.append(
            f"the best weights so far, of step {best.step}, are lost ({reason}): the best from here on count"
        )
        best = None
    done = position.epoch >= epochs or waited_enough(best, position.epoch - 1, parts.settings)
    position = replace(position, best=best, done=done and not position.window)
    if loader is not None and isinstance(parts.source, BatchesSource):
        parts.source.load_state(loader)
    return position


def _first_score(parts: Parts) -> float | None:
    """The score before the first step, of the process that writes; a sharded model needs all of them."""
    parts.tell({"event": "phase", "phase": "scoring the model as it is"})
    if not parts.processes.writes and parts.settings.sharding != "fsdp2":
        return None
    return validation.score(parts.opened, parts.model, parts.settings, validation.role_of_the_result(parts.settings))


def _not_in_weights(parts: Parts) -> list[str]:
    lost, names = parts.attributes.lost(), parts.attributes.names()
    told = []
    if lost:
        told.append(
            f"training changes {', '.join(lost[:3])}{', ...' if lost[3:] else ''}, which no checkpoint can hold: a run "
            "that goes on begins with it as it was at first; keep it as numbers, texts, tensors or collections of them"
        )
    if not names:
        return told
    return [
        *told,
        f"training changes the model's {', '.join(names[:3])}{', ...' if names[3:] else ''}, which its state_dict does "
        f"not hold: a resumed run goes on with it, {WEIGHTS} is without it; register it as a buffer to keep it there",
    ]


class _Times:
    """Passes events on, and notes how long steps took."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._ms: list[float] = []
        self._rows: list[int] = []

    def __call__(self, event: Json) -> None:
        if event["event"] == "step":
            self._ms.append(event["ms"])
            self._rows.append(event["examples"])
        self._tell(event)

    @property
    def median_ms(self) -> float | None:
        return median(self._ms) if self._ms else None

    @property
    def median_rows(self) -> float | None:
        return median(self._rows) if self._rows else None

    @property
    def examples_per_second(self) -> float | None:
        return 1000 * sum(self._rows) / sum(self._ms) if self._ms else None


@contextmanager
def _threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
