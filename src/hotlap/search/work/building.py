"""Building a candidate's files: the chain of techniques, then the form that its runtime takes."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from hotlap import forms, runtimes, techniques
from hotlap.core import Array, Candidate, Context, Form, Json, Model, to_json
from hotlap.errors import Unsupported
from hotlap.search.work import calibration
from hotlap.search.work.holding import DONE
from hotlap.search.work.opening import opened_workload


def build(state: dict[str, Any], *, target: str, candidate: Json, work: str, seed: int, threads: int) -> Json:
    """Make the candidate's files, or find them made: gives their folder's name, bytes, and the seconds it took."""
    chosen = Candidate.from_json(candidate)
    folder = Path(work) / "built" / built_key(chosen)

    def make(partial: Path) -> None:
        began = time.perf_counter()
        opened = opened_workload(state, target, threads)
        example = opened.example_arrays(2)

        def batches() -> Iterable[list[Array]]:
            found, reason = calibration.kept(opened, Path(work), seed=seed)
            if found is None:
                raise Unsupported(reason or "there is no calibration data")
            return found()

        scratch = emptied(folder.with_suffix(".scratch"))
        context = Context(folder=scratch, example=example, calibration=batches, seed=seed, threads=threads)
        model = _changed(Model(form="module", value=opened.model, signature=opened.signature), chosen, context, work)
        files = runtimes.of(chosen).build(model, partial, dict(chosen.options), example)
        size = sum((partial / name).stat().st_size for name in files)
        done = {"files": files, "bytes": size, "seconds": time.perf_counter() - began}
        (partial / DONE).write_text(json.dumps(done))
        shutil.rmtree(scratch)

    _made_once(folder, make)
    return {"folder": str(folder), **json.loads((folder / DONE).read_text())}


def _made_once(folder: Path, make: Callable[[Path], None]) -> None:
    """Have `make` fill a folder that gets its name when it is whole. A process that wants the same one waits."""
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            partial = emptied(folder.with_suffix(".partial"))
            make(partial)
            partial.replace(folder)


def built_key(candidate: Candidate) -> str:
    """The same for candidates that load the same files and differ in how they are run."""
    kept = runtimes.of(candidate).BUILD_OPTIONS
    options = [(name, value) for name, value in candidate.options if name in kept]
    what = [[to_json(step) for step in candidate.steps], candidate.runtime, candidate.device, options]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def _changed(model: Model, candidate: Candidate, context: Context, work: str) -> Model:
    """Pass the model through the chain, and on to the form that the runtime takes."""
    wanted = runtimes.of(candidate).TAKES
    applied: list[Json] = []
    for step in candidate.steps:
        technique = techniques.get(step.technique)
        takes = _form_for(technique, wanted)
        model = _lowered(model, takes, context, work, applied)
        model = technique.apply(model, dict(step.options), _with_folder(context, step.technique))
        applied.append(to_json(step))
    return _lowered(model, wanted, context, work, applied)


def _form_for(technique: techniques.Technique, wanted: Form) -> Form:
    """The form to hand to a technique so that the form wanted comes out, or can be made of what comes out."""
    changes = technique.CHANGES
    direct = [takes for takes, gives in changes.items() if gives == wanted]
    return direct[0] if direct else next(iter(changes))


def _lowered(model: Model, form: Form, context: Context, work: str, applied: list[Json]) -> Model:
    """Lower the model, and keep what is a file: other candidates of this search start from the same one."""
    if form == model.form:
        return model
    if form not in ("onnx", "openvino"):
        return forms.lower(model, form, context)
    key = hashlib.sha256(json.dumps(applied).encode()).hexdigest()[:12]
    kept = Path(work) / "forms" / f"{form}-{key}"
    name = {"onnx": "model.onnx", "openvino": "model.xml"}[form]
    _made_once(kept, lambda partial: _lower_into(partial, model, form, context))
    return Model(form=form, value=kept / name, signature=model.signature)


def _lower_into(folder: Path, model: Model, form: Form, context: Context) -> None:
    forms.lower(model, form, _in_folder(context, folder))


def _with_folder(context: Context, name: str) -> Context:
    return _in_folder(context, emptied(context.folder / name))


def _in_folder(context: Context, folder: Path) -> Context:
    return Context(
        folder=folder,
        example=context.example,
        calibration=context.calibration,
        seed=context.seed,
        threads=context.threads,
    )


def emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
