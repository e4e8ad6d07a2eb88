"""`train`: trains the target's model, and ends with weights that `optimize` takes as FILE.py@FOLDER."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from hotlap.actions.stored import stored_features
from hotlap.core import Device, Json
from hotlap.errors import HotlapError, InputError, OutputError, TrainingStopped, WorkloadError
from hotlap.machine.facts import Machine, facts
from hotlap.report.schema import read_result, write_result
from hotlap.search.folder import RunFolder, check_keeps, read_plain
from hotlap.training.processes import Processes, share_of
from hotlap.training.settings import Settings, own_settings, read_settings, settings_for, write_settings
from hotlap.training.stopping import Stop
from hotlap.workload.features import to_ask
from hotlap.workload.target import Loaded, load_target, target_of
from hotlap.workload.workload import Workload

if TYPE_CHECKING:
    from hotlap.training.state import Position

_SETTINGS, _RESULT = "settings.json", "result.json"
_PLACES = ("batch_size", "accumulation", "seed")
"""What a position in the data depends on: a resumed run can't change it."""
_NOT_LEARNT = {"epochs", "early_stop", "workers", "prefetch", "pin", "keep_memory", "threads", "checkpoint_seconds"}
"""What decides nothing of a step's result."""
_SPEED = (
    "precision", "layout", "compile", "trim", "length_buckets", "attention", "fast_dropout", "at_once", "keep_memory",
    "fused", "foreach", "workers", "prefetch", "pin",
)  # fmt: skip
"""What makes a step faster or slower, and is not there because of the memory."""


def train(
    target: str | Path | Workload,
    *,
    out: str | Path,
    settings: str | Path | Mapping[str, Json] | None = None,
    threads: int | None = None,
    seed: int | None = None,
    device: Device | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Callable[[Json], None] | None = None,
) -> Json:
    """Train the target's model; give the content of `result.json`.

    target: a Workload, FILE.py, FILE.py:NAME or package.module:NAME; with @FOLDER from that run's weights on. out:
    the folder for all that is written. settings: a `settings.json`, or fields of training.settings.Settings by name;
    default: what the workload trains with today. resume: go on from the newest whole checkpoint, bit for bit as if
    the run had never stopped, unless settings are changed. progress: called with events for a display.

    Under torchrun every process calls it alike; they share each batch. Raises InputError for what the user can mend,
    TrainingStopped where the loss or the gradients are not finite, KeyboardInterrupt after Ctrl-C with all saved.
    """
    from hotlap.training.loop import Interrupted

    began = time.monotonic()
    machine = facts()
    loaded = load_target(target_of(target))
    named = settings if isinstance(settings, Mapping) else read_settings(Path(settings)) if settings else {}
    changes = _changes(named, machine, threads=threads, seed=seed, device=device)
    wanted = settings_for(loaded.workload, changes)
    processes = Processes(wanted.device)
    tell = progress if progress is not None and processes.writes else _nobody
    folder, stop, ready = Path(out), Stop(), False

    def note(begun: _Begun) -> None:
        nonlocal ready
        ready = True
        begun.note()

    with stop.heeded():
        if force:
            check_keeps(folder, loaded.weights)
        lock = None
        if processes.writes:
            lock = RunFolder(folder, resume=resume, force=force, begun=_SETTINGS, keeps_work=False)
        try:
            with processes.together():
                processes.wait()
                given = set(_given(named, threads, seed, device))
                begun = _begin(folder, loaded, wanted, given, resume, processes)
                if resume and not begun.changed and (folder / _RESULT).exists():
                    return read_result(folder / _RESULT)
                return _train(
                    loaded, begun, folder, processes, machine, stop,
                    resume=resume, began=began, tell=tell, ready=partial(note, begun),
                )  # fmt: skip
        except Interrupted:
            tell({"event": "interrupted", "out": str(folder)})
            raise KeyboardInterrupt from None
        except (HotlapError, KeyboardInterrupt) as error:
            # Nothing was begun: the same command, mended, is not refused for want of --force. Where there was no room,
            # or another process went, --resume goes on.
            of_the_machine = isinstance(error, OutputError | TrainingStopped)
            if lock is not None and not (resume or ready or of_the_machine):
                (folder / _SETTINGS).unlink(missing_ok=True)
            raise
        finally:
            try:
                processes.close()
            finally:
                stop.over()
                if lock is not None:
                    lock.close()


def _train(
    loaded: Loaded,
    begun: _Begun,
    folder: Path,
    processes: Any,
    machine: Machine,
    stop: Stop,
    *,
    resume: bool,
    began: float,
    tell: Callable[[Json], None],
    ready: Callable[[], None],
) -> Json:
    from hotlap.training.run import median_step_ms, train_model

    settings, warnings = begun.settings, [*machine.not_used(begun.settings.device), *begun.told]
    usual = replace(settings, **{name: getattr(Settings(), name) for name in _SPEED})
    baseline_ms = None
    if usual != settings:
        tell({"event": "phase", "phase": "timing the workload's own set-up"})
        try:
            timed = median_step_ms(loaded, usual, processes)
        except WorkloadError:
            raise
        except InputError as error:
            timed = str(error)  # What the settings ask for and can't have, the training tells in full.
        if isinstance(timed, str):
            warnings.append(f"the workload's own set-up was not timed: {timed}")
        else:
            baseline_ms = timed
    features = stored_features(to_ask(loaded.workload, loaded.file)) if processes.writes else None
    trained = train_model(
        loaded, settings, folder, processes, resume=resume, tell=tell, stop=stop, ready=ready, other=begun.other
    )
    step_ms, rows = trained.step_ms, trained.rows_a_step
    if step_ms is None:
        step_ms, rows = _recorded(folder / "metrics.jsonl", trained.position)
    elif trained.own_batches and trained.resumed_from is not None and processes.writes:
        _, rows = _recorded(folder / "metrics.jsonl", trained.position)  # The last steps of an epoch may be short.
    # A DataLoader of the user's has a batch size of its own.
    batch = round(rows or 0) if trained.own_batches else settings.batch_size
    figures = {"threads": settings.threads, "parameters": trained.parameters, "bytes": trained.bytes}
    best = trained.position.best
    result = {
        "schema": 1,
        "kind": "train",
        "workload": loaded.name,
        "device": settings.device,
        **({"batch": batch} if batch else {}),
        "machine": machine.to_json(),
        "baseline": {"name": describe(usual), "precision": "fp32", "median_ms": baseline_ms or step_ms, **figures},
        "best": {
            "name": describe(settings),
            "precision": settings.precision,
            "median_ms": step_ms,
            "score": trained.score,
            **figures,
        },
        "settings": settings.to_json(),
        "training": {
            "steps": trained.steps,
            "epochs": trained.position.epoch,
            "skipped_steps": trained.position.skipped,
            "examples_per_second": trained.examples_per_second,
            "score_before": trained.score_before,
            "best_epoch": best.epoch + 1 if best else None,
            "stopped_early": trained.position.epoch < settings.epochs,
            "training_seconds": trained.position.seconds,
            "processes": processes.world,
            "resumed_from_step": trained.resumed_from,
        },
        **({} if features is None else {"features": features}),
        "warnings": [*warnings, *trained.warnings],
        "seconds": time.monotonic() - began,
    }
    if processes.writes:
        write_result(folder / _RESULT, result)
    tell({"event": "end"})
    return result


def describe(settings: Settings, *, beside: Settings | None = None) -> str:
    """The set-up in a few words: `bf16, channels_last, fused`. `beside`: what it is shown with, whose batch size may be
    another.
    """
    words: list[str] = [settings.precision]
    words += [settings.layout] if settings.layout != "contiguous" else []
    words += ["trimmed padding"] if settings.trim else []
    words += [f"in up to {settings.length_buckets} passes by length"] if settings.length_buckets > 1 else []
    words += ["attention as plain products"] if settings.attention == "math" else []
    words += ["fast dropout"] if settings.fast_dropout else []
    words += ["batches read at once"] if settings.at_once else []
    words += [name for name in ("compile", "fused", "foreach", "checkpointing") if getattr(settings, name)]
    words += ["kept memory"] if settings.keep_memory else []
    if settings.examples_a_pass < settings.batch_size:
        words.append(f"micro-batches of {settings.examples_a_pass}")
    words += [f"{settings.workers} loader process{'es' if settings.workers > 1 else ''}"] if settings.workers else []
    words += ["pinned memory"] if settings.pin else []
    other_batch = beside is not None and beside.batch_size != settings.batch_size
    words += [f"batches of {settings.batch_size}"] if other_batch else []
    return ", ".join(words)


def _changes(
    settings: Mapping[str, Json],
    machine: Machine,
    *,
    threads: int | None,
    seed: int | None,
    device: Device | None,
) -> dict[str, Json]:
    found = dict(settings)
    found["device"] = machine.device(device or found.get("device"))
    if seed is not None:
        found["seed"] = seed
    if threads is not None:
        found["threads"] = threads
    found.setdefault("threads", share_of(machine.cores))
    return found


def _given(settings: Mapping[str, Json], threads: int | None, seed: int | None, device: str | None) -> list[str]:
    """The fields that the user named, as opposed to those that the machine or the workload gave."""
    others = {"threads": threads, "seed": seed, "device": device}
    return [*settings, *(name for name, value in others.items() if value is not None)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Begun:
    """What a run trains with. `told`: what was changed on its way, now (`changed`) or when it was resumed before;
    `other`: what was changed now decides what is learnt.

    `noted` is what settings.json is to hold besides once the run is sure to go on; None where it stays as it is.
    """

    folder: Path
    settings: Settings
    told: tuple[str, ...] = ()
    changed: bool = False
    other: bool = False
    noted: Json = None

    def note(self) -> None:
        """Write settings.json. Of a run whose settings say that it goes on there is no result yet."""
        if self.changed:
            (self.folder / _RESULT).unlink(missing_ok=True)
        if self.noted is not None:
            write_settings(self.folder / _SETTINGS, self.settings, **self.noted)


def _begin(
    folder: Path, loaded: Loaded, wanted: Settings, given: set[str], resume: bool, processes: Processes
) -> _Begun:
    """What this run is. A resumed one has the settings it had, but for those named anew; where other numbers of
    processes share the cores, their threads are not kept unless somebody chose them.

    The settings of a new run are noted at once, since they tell it from an empty folder.
    """

    def noted(threads_chosen: bool, changes: Sequence[str]) -> Json:
        return {
            "target": loaded.target,
            "digest": loaded.digest,
            "own": own_settings(loaded.workload),
            "threads_chosen": threads_chosen,
            "processes": processes.world,
            **({"changes": list(changes)} if changes else {}),
        }

    if not resume:
        begun = _Begun(folder=folder, settings=wanted, noted=noted("threads" in given, ()))
        if processes.writes:
            begun.note()
        return replace(begun, noted=None)
    kept = _noted_settings(folder / _SETTINGS)
    if "snippets" in kept:
        raise OutputError(
            f"--resume: {folder} holds what hotlap tune found, not a training; train with it: --settings "
            f"{folder / _SETTINGS} --out another folder"
        )
    if kept.get("workload_digest") != loaded.digest:
        raise OutputError("--resume: the workload has changed since that run; start over with --force")
    before = settings_for(loaded.workload, kept["settings"])
    changed = {name: getattr(wanted, name) for name in sorted(given) if getattr(wanted, name) != getattr(before, name)}
    for name in changed:
        if name in _PLACES:
            raise OutputError(
                f"--resume: that run had {name} {getattr(before, name)}, this one {changed[name]}, and its place in "
                "the data depends on it; give the same, or start over with --force"
            )
    chosen = replace(before, **changed)
    if (folder / _RESULT).exists() and changed:
        if others := ", ".join(name for name in changed if name != "epochs"):
            raise OutputError(
                f"--resume: that run has come to its end, and only more epochs can be added to it, not {others}; start "
                "another in another folder"
            )
        if chosen.epochs < before.epochs:
            raise OutputError(
                f"--resume: that run has ended, and was to have {before.epochs} epochs; give more than that, or start "
                "another in another folder"
            )
    threads_chosen = "threads" in given or kept.get("threads_chosen", True)
    shared_otherwise = kept.get("processes", processes.world) != processes.world
    if shared_otherwise and not threads_chosen:
        chosen = replace(chosen, threads=wanted.threads)
    told = [*kept.get("changes", []), *([_changed(before, chosen, changed)] if changed else [])]
    writes = (changed or shared_otherwise) and processes.writes
    return _Begun(
        folder=folder,
        settings=chosen,
        told=tuple(told),
        changed=bool(changed),
        other=bool(set(changed) - _NOT_LEARNT),
        noted=noted(threads_chosen, told) if writes else None,
    )


def _noted_settings(path: Path) -> dict[str, Any]:
    """What a run's settings.json holds. Raises OutputError where it is damaged."""
    try:
        kept = json.loads(read_plain(path))
        if isinstance(kept["settings"], dict):
            return dict(kept)
        reason = "it holds no settings"
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"--resume: {path} can't be read ({reason}); mend that and try again") from error
    except (ValueError, LookupError, TypeError, RecursionError):
        reason = "it is no JSON of settings"
    raise OutputError(f"--resume: {path} is damaged ({reason}); put it back, or start over with --force")


def _changed(before: Settings, chosen: Settings, changed: Mapping[str, Json]) -> str:
    if set(changed) == {"epochs"} and chosen.schedule == "constant":
        return f"this run was to have {before.epochs} epochs at first, and {chosen.epochs} later"
    told = ", ".join(f"{name} {getattr(before, name)} -> {value}" for name, value in changed.items())
    return f"resumed with other settings ({told}): the weights are not those of one run"


def _recorded(path: Path, position: Position) -> tuple[float, float | None]:
    """The median time of a step and the median of its examples, of the lines that earlier processes of this run wrote;
    without them the mean time, and no examples.
    """
    found: list[tuple[float, float]] = []
    with suppress(OSError, ValueError, RecursionError):  # Damaged since: the run itself does not hang on it.
        for line in map(json.loads, read_plain(path).splitlines()):
            ms, examples = (line.get(name) if isinstance(line, dict) else None for name in ("ms", "examples"))
            if isinstance(ms, int | float) and isinstance(examples, int | float):
                found.append((ms, examples))
    if not found:
        return 1000 * position.seconds / max(1, position.step), None
    return float(median(ms for ms, _ in found)), float(median(examples for _, examples in found))


def _nobody(event: Json) -> None:
    """Nobody watches."""
