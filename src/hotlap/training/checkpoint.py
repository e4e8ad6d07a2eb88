"""Checkpoints: written aside, flushed, renamed, digested; the newest that is whole is the one that is taken up.

`step-00000042.safetensors` holds all tensors, `step-00000042.json` everything else and the digests. The JSON file
gets its name last, so a checkpoint that has one was written to its end. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hotlap.core import Json
from hotlap.errors import OutputError, WorkloadError
from hotlap.search.folder import plain_file, read_plain, write_whole, written_whole
from hotlap.training.processes import put
from hotlap.workload.opened import fill_empty_buffers

if TYPE_CHECKING:
    import torch

_NAME = re.compile(r"(step|best)-(\d{8,})\.json")
_KEPT = 2
"""So many of the newest stay: when the last one is damaged, the one before it is good. Where none of them is sound, as
the loss has risen above that of the first step, the newest that was stays too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """All that a run needs to go on as if it had never stopped: tensors by name, and the rest as JSON."""

    step: int
    tensors: Mapping[str, torch.Tensor]
    state: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Damaged:
    """A checkpoint that is not whole, and why."""

    path: Path
    reason: str


def save(folder: Path, checkpoint: Checkpoint, *, kind: str = "step", keep_best: int | None = None) -> Path:
    """Write a checkpoint, then remove those that no run would take up any more; gives its path.

    `keep_best` is the step of the `best` checkpoint that still counts. Raises OutputError where the disk is full.
    """
    try:
        folder.mkdir(exist_ok=True)
    except FileExistsError as error:
        what = "leads nowhere" if folder.is_symlink() else "is a file"
        raise OutputError(f"{folder} {what}, where checkpoints are to go; move it away") from error
    except OSError as error:
        raise OutputError(f"{folder}: can't be made ({error.strerror}); has --out been removed meanwhile?") from error
    path = folder / f"{kind}-{checkpoint.step:08d}.safetensors"
    with _written(path, checkpoint.tensors) as temporary, temporary.open("rb") as file:
        digest, size = hashlib.file_digest(file, "sha256").hexdigest(), temporary.stat().st_size
    body = {"step": checkpoint.step, "state": checkpoint.state, "bytes": size, "sha256": digest}
    # The keys stay in their order, which dicts of the user's own have too.
    text = json.dumps(body)
    outer = json.dumps({"sha256": _digest(text.encode()), "checkpoint": body})
    write_whole(path.with_suffix(".json"), outer.encode())
    if kind == "step":
        _prune(folder, checkpoint.step, keep_best)
    return path


def write_weights(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors as a safetensors file, whole or not at all. Raises OutputError where the disk is full."""
    with _written(path, tensors):
        pass


@contextmanager
def _written(path: Path, tensors: Mapping[str, torch.Tensor]) -> Iterator[Path]:
    """Tensors in a file that gets its name after the block, which has it under another."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with written_whole(path) as temporary:
        try:
            save_file(_apart(tensors), temporary)
        except SafetensorError as error:
            raise OutputError(f"{path}: can't be written ({error}); make room and go on with --resume") from error
        yield temporary


def newest(folder: Path) -> tuple[Checkpoint | None, list[Damaged]]:
    """The newest checkpoint that is whole, and the newer ones that are damaged; None where there is none."""
    damaged: list[Damaged] = []
    for path in reversed(_paths(folder, "step")):
        found = load(path)
        if isinstance(found, Checkpoint):
            return found, damaged
        damaged.append(found)
    return None, damaged


def before_failure(folder: Path, step: int) -> Checkpoint | None:
    """The newest whole checkpoint of before `step`, which failed, from which other settings may help: a sound one,
    where there is one, else the newest whose next step did not fail; None where there is none.
    """
    states = {path: _state_of(path) for path in reversed(_paths(folder, "step")) if _step_of(path) < step}
    others = [path for path, state in states.items() if not state.get("failed")]
    sound = [path for path in others if states[path].get("sound", True)]
    # One at a time: each is as large as the model and its optimizer together.
    return next((found for path in [*sound, *others] if isinstance(found := load(path), Checkpoint)), None)


def remove_later(folder: Path, step: int) -> None:
    """Remove the checkpoints of later steps: a run that goes on from this one goes another way, or they are damaged."""
    for path in _paths(folder, "step"):
        if _step_of(path) > step:
            _remove(path, path.with_suffix(".safetensors"))


def check_kinds(model: torch.nn.Module) -> None:
    """Raise WorkloadError where the model has tensors of a type that a checkpoint can't hold."""
    import torch
    from safetensors.torch import save

    for name, value in model_tensors(model).items():
        try:
            save({name: torch.empty(0, dtype=value.dtype)})
        except KeyError as error:
            kind = str(value.dtype).removeprefix("torch.")
            raise WorkloadError(
                f"the workload's `model` has {name!r} in {kind}, which a safetensors file can't hold; give it another "
                "type, such as complex64"
            ) from error


def load(path: Path) -> Checkpoint | Damaged:
    """The checkpoint whose JSON file is `path`; every byte is checked before any is used."""
    from safetensors import SafetensorError
    from safetensors.torch import load as deserialized

    beside = path.with_suffix(".safetensors")
    try:
        outer = json.loads(read_plain(path))
        body = outer["checkpoint"]
        if _digest(json.dumps(body).encode()) != outer["sha256"]:
            return Damaged(path=path, reason="its digest is another than when it was written")
        step, size, digest, state = (body[name] for name in ("step", "bytes", "sha256", "state"))
        if not isinstance(state, dict):
            return Damaged(path=path, reason="it holds no state")
        if step != _step_of(path):
            return Damaged(path=path, reason="it is of another step than its name says")
        with plain_file(beside) as file:
            data = file.read() if os.fstat(file.fileno()).st_size == size else b""
        if len(data) != size or _digest(data) != digest:
            return Damaged(path=beside, reason="its digest is another than when it was written")
        return Checkpoint(step=step, tensors=deserialized(data), state=state)
    except OSError as error:
        return Damaged(path=path, reason=f"{error.filename}: {error.strerror}")
    except SafetensorError as error:
        return Damaged(path=beside, reason=f"it holds no tensors ({error})")
    except (ValueError, LookupError, TypeError, RecursionError):
        return Damaged(path=path, reason="it is no JSON of a checkpoint")


def _remove(*paths: Path) -> None:
    """Remove files; what somebody made a folder in the place of one stays."""
    for path in paths:
        with suppress(FileNotFoundError, IsADirectoryError):
            path.unlink()


def why_no_best(folder: Path, step: int) -> str | None:
    """What is wrong with the checkpoint of the best score, of that step; None where it is whole."""
    found = load(folder / f"best-{step:08d}.json")
    return found.reason if isinstance(found, Damaged) else None


def load_best(folder: Path, step: int) -> Checkpoint:
    """The checkpoint of the best score, of that step. Raises OutputError where it is damaged."""
    found = load(folder / f"best-{step:08d}.json")
    if isinstance(found, Damaged):
        raise OutputError(f"{found.path}: {found.reason}; the best weights are lost, start over with --force")
    return found


def model_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The model's parameters and kept buffers by name; one that has several names comes once."""
    own = {name for name, _ in [*model.named_parameters(), *model.named_buffers()]}
    return {name: value for name, value in model.state_dict().items() if name in own}


def load_model(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Bring back what `model_tensors` gave, in place. Raises OutputError where it does not fit this model."""
    fill_empty_buffers(model, tensors)
    own = model_tensors(model)
    wrong = set(own) ^ set(tensors) or {name for name, value in own.items() if value.shape != tensors[name].shape}
    if wrong:
        raise OutputError(
            f"--resume: the checkpoint does not fit the model ({', '.join(sorted(wrong)[:3])}); has it changed? "
            "Start over with --force"
        )
    import torch

    with torch.no_grad():
        for name, value in own.items():
            put(value, tensors[name])


def _prune(folder: Path, newest: int, keep_best: int | None) -> None:
    # Those of later steps than the one just written were passed over as damaged.
    steps = [path for path in _paths(folder, "step") if path.is_file()]
    later = [path for path in steps if _step_of(path) > newest]
    steps = steps[: len(steps) - len(later)]
    kept = set(steps[-_KEPT:])
    states = {path: _state_of(path) for path in steps}
    sound = [path for path in steps if states[path].get("sound")]
    kept |= set(sound[-1:]) if not kept & set(sound) else set()
    kept_best = {f"best-{keep_best:08d}.json"} if keep_best is not None else set()
    # A best that an older kept checkpoint counts on stays as well: it says so itself.
    for path in kept:
        best = states[path].get("best")
        kept_best |= {f"best-{best['step']:08d}.json"} if _is_best(best) else set()
    gone = [path for path in steps if path not in kept]
    _remove(*later, *gone, *(path for path in _paths(folder, "best") if path.name not in kept_best))
    # What a kill left: tensors whose JSON was never written or is gone, and files still without their name.
    for path in [*folder.glob("*.safetensors"), *folder.glob(".*")]:
        if not path.with_suffix(".json").exists():
            _remove(path)


def _state_of(path: Path) -> Json:
    """The state that a checkpoint's JSON file holds; nothing where that is damaged."""
    try:
        state = json.loads(read_plain(path))["checkpoint"]["state"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}
    return state if isinstance(state, dict) else {}


def _is_best(found: Json) -> bool:
    return isinstance(found, dict) and isinstance(found.get("step"), int)


def _paths(folder: Path, kind: str) -> list[Path]:
    """The JSON files of a kind, oldest first."""

    def found() -> Iterator[tuple[int, Path]]:
        for path in folder.glob("*.json"):
            match = _NAME.fullmatch(path.name)
            if match and match[1] == kind:
                yield int(match[2]), path

    return [path for _, path in sorted(found())]


def _step_of(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])


def _apart(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors on the CPU, each with memory of its own: one that is kept under two names is written twice."""
    found, seen = {}, set()
    for name, value in tensors.items():
        plain = value.detach().cpu().contiguous()
        place = plain.untyped_storage().data_ptr()
        found[name] = plain.clone() if place in seen else plain
        seen.add(place)
    return found


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
