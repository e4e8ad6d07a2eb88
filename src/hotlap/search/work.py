"""What a candidate's own processes do: build, load, check, score. Each function is called by name through a Worker.

`state` lives as long as the process: `opened` (the workload), `session` and `call` (what is timed). Heavy imports
stay inside, so that the process that only loads ONNX Runtime or OpenVINO files and is timed never sees torch.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hotlap import forms, runtimes, techniques
from hotlap.core import TOLERANCE, Array, Candidate, Context, Device, Form, Json, Model, Signature, to_json
from hotlap.errors import WrongOutputs

_DONE = "built.json"
_CHECKED_BATCHES = (1, 3)


def unavailable(state: dict[str, Any], *, runtime: str, device: Device) -> str | None:
    """Why a runtime can't run here, or None."""
    try:
        return runtimes.get(runtime).unavailable(device)
    except ImportError as error:
        return f"{runtime} can't be imported: {error}"


def load_original(state: dict[str, Any], *, target: str, batch: int, threads: int, device: str) -> None:
    """Hold the user's own model, called as the user calls it, ready to be timed."""
    import torch

    from hotlap.workload.inputs import call

    opened = _open(state, target, threads)
    model = opened.model.to(device)
    inputs = torch.utils._pytree.tree_map(lambda tensor: tensor.to(device), opened.example(batch))

    def once() -> None:
        with torch.inference_mode():
            call(model, inputs)
            if device == "cuda":
                torch.cuda.synchronize()

    state["call"] = once


def load(state: dict[str, Any], *, candidate: Json, built: str, signature: Json, arrays: list[Array]) -> Json:
    """Load built files and hold their callable with `arrays` as its inputs, ready to be timed."""
    began = time.perf_counter()
    session = _load(state, Candidate.from_json(candidate), Path(built), Signature.from_json(signature))
    copies = [array.copy() for array in arrays]
    state["call"] = lambda: session(copies)
    state["call"]()
    return {"seconds": time.perf_counter() - began}


def peak_memory(state: dict[str, Any]) -> int:
    """The most resident memory this process has held, in bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def operations(
    state: dict[str, Any], *, candidate: Json, built: str, signature: Json, arrays: list[Array], calls: int
) -> Json:
    """Time by operation of built files, as the runtime itself tells it."""
    chosen = Candidate.from_json(candidate)
    found = runtimes.of(chosen).operations(
        _read(Path(built)),
        Signature.from_json(signature),
        device=chosen.device,
        threads=chosen.threads,
        options=dict(chosen.options),
        arrays=[array.copy() for array in arrays],
        calls=calls,
    )
    return [to_json(operation) for operation in found]


def build(state: dict[str, Any], *, target: str, candidate: Json, work: str, seed: int, threads: int) -> Json:
    """Make the candidate's files, or find them made: gives their folder's name, bytes, and the seconds it took."""
    chosen = Candidate.from_json(candidate)
    folder = Path(work) / "built" / built_key(chosen)

    def make(partial: Path) -> None:
        from hotlap.workload import roles

        began = time.perf_counter()
        opened = _open(state, target, threads)
        example = opened.example_arrays(2)
        calibration, count, _ = roles.calibration_arrays(opened, seed=seed)
        scratch = _emptied(folder.with_suffix(".scratch"))
        context = Context(folder=scratch, example=example, calibration=calibration, seed=seed, threads=threads)
        model = _changed(
            Model(form="module", value=opened.model, signature=opened.signature), chosen, context, work
        )
        files = runtimes.of(chosen).build(model, partial, dict(chosen.options), example)
        size = sum((partial / name).stat().st_size for name in files)
        done = {"files": files, "bytes": size, "seconds": time.perf_counter() - began, "calibration": count}
        (partial / _DONE).write_text(json.dumps(done))
        shutil.rmtree(scratch)

    _made_once(folder, make)
    return {"folder": str(folder), **json.loads((folder / _DONE).read_text())}


def _made_once(folder: Path, make: Callable[[Path], None]) -> None:
    """Have `make` fill a folder that gets its name when it is whole. A process that wants the same one waits."""
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            partial = _emptied(folder.with_suffix(".partial"))
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
    return _in_folder(context, _emptied(context.folder / name))


def _in_folder(context: Context, folder: Path) -> Context:
    return Context(
        folder=folder,
        example=context.example,
        calibration=context.calibration,
        seed=context.seed,
        threads=context.threads,
    )


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def check(state: dict[str, Any], *, target: str, candidate: Json, built: str, batch: int, threads: int) -> Json:
    """Compare shapes, types, finiteness, other batch sizes and row by row; raises WrongOutputs.

    Gives `seconds_a_call` at the measured batch and `row_dependence`, the largest share of the output's range by
    which a row's result depends on the other rows.
    """
    opened = _open(state, target, threads)
    chosen = Candidate.from_json(candidate)
    session = _load(state, chosen, Path(built), opened.signature)
    tolerance = TOLERANCE[chosen.precision]
    arrays = opened.example_arrays(max(batch, 2))
    together = session(arrays)
    _check_outputs(together, _original(opened, arrays))
    dependence = max(
        _difference(session([array[:rows] for array in arrays]), [output[:rows] for output in together])
        for rows in range(1, 3)
    )
    if dependence > tolerance:
        raise WrongOutputs(
            f"a row's result depends on the other rows of its batch by {dependence:.1%} of the output's range; "
            f"{chosen.precision} is allowed {tolerance:.1%}"
        )
    for size in _CHECKED_BATCHES:
        more = opened.example_arrays(size)
        _check_outputs(session(more), _original(opened, more))
    measured = opened.example_arrays(batch)
    session(measured)
    began = time.perf_counter()
    session(measured)
    return {"row_dependence": dependence, "seconds_a_call": time.perf_counter() - began}


def _check_outputs(found: list[Array], wanted: list[Array]) -> None:
    if len(found) != len(wanted):
        raise WrongOutputs(f"gives {len(found)} outputs where the model gives {len(wanted)}")
    for index, (got, want) in enumerate(zip(found, wanted, strict=True)):
        if got.shape != want.shape:
            raise WrongOutputs(
                f"output {index} has shape {list(got.shape)} where the model's has {list(want.shape)}"
            )
        if got.dtype != want.dtype:
            raise WrongOutputs(f"output {index} is {got.dtype} where the model's is {want.dtype}")
        if np.issubdtype(got.dtype, np.floating) and not np.isfinite(got).all() and np.isfinite(want).all():
            raise WrongOutputs(f"output {index} holds NaN or Inf where the model's does not")


def _difference(found: list[Array], wanted: list[Array], scales: list[float] | None = None) -> float:
    """The largest difference over outputs, as a share of each output's largest magnitude (or of `scales`)."""
    worst = 0.0
    for index, (got, want) in enumerate(zip(found, wanted, strict=True)):
        if got.size == 0:
            continue
        if not np.issubdtype(want.dtype, np.floating):
            worst = max(worst, float((got != want).any()))
            continue
        same = (got == want) | (np.isnan(got) & np.isnan(want))
        scale = scales[index] if scales else float(np.abs(want[np.isfinite(want)]).max(initial=0.0))
        with np.errstate(invalid="ignore", divide="ignore"):
            gap = np.where(same, 0.0, np.abs(got.astype(np.float64) - want) / (scale or 1.0))
        worst = max(worst, float(np.inf if np.isnan(gap).any() else gap.max()))
    return worst


def study(
    state: dict[str, Any],
    *,
    target: str,
    work: str,
    seed: int,
    threads: int,
    batch: int,
    most_examples: int,
    seconds: float,
) -> Json:
    """Open the workload, check what it gives, and say what the search has to know about it."""
    from hotlap.workload import roles

    opened = _open(state, target, threads)
    workload = opened.workload
    has_evaluation = workload.evaluation is not None and workload.score is not None
    facts = None
    if has_evaluation:
        facts = roles.check_evaluation(opened, seed=seed, max_examples=most_examples, seconds=seconds)
    _, count, missing = roles.calibration_arrays(opened, seed=seed)
    ranks = tuple(len(spec.shape) for spec in opened.signature.inputs)
    leaves = [type(leaf).__name__ for leaf in opened.model.modules() if not any(True for _ in leaf.children())]
    arrays = opened.example_arrays(batch)
    sizes = {
        name: array.shape[axis]
        for spec, array in zip(opened.signature.inputs, arrays, strict=True)
        for axis, name in enumerate(spec.shape)
        if isinstance(name, str)
    }
    parameters = list(opened.model.parameters())
    return {
        "name": opened.loaded.name,
        "digest": opened.loaded.digest,
        "signature": to_json(opened.signature),
        "arrays": arrays,
        "sizes": sizes,
        "layers": {name: leaves.count(name) for name in sorted(set(leaves))},
        "ranks": list(ranks),
        "calibration": count,
        "calibration_missing": None if count else missing,
        "evaluation": has_evaluation,
        "selection": facts.selection if facts else 0,
        "confirmation": facts.confirmation if facts else 0,
        "metric": workload.metric is not None,
        "sliced": workload.slices is not None,
        "parameters": sum(parameter.numel() for parameter in parameters),
        "bytes": sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        "warnings": list(opened.warnings),
    }


def profile(state: dict[str, Any], *, target: str, batch: int, threads: int, limits: Json) -> Json:
    """Where the original's time goes, against the machine's limits."""
    from hotlap.machine.limits import Limits
    from hotlap.profiling.profile import profile_workload

    opened = _open(state, target, threads)
    return profile_workload(opened, batch=batch, threads=threads, limits=Limits.from_json(limits))


def score_original(state: dict[str, Any], *, target: str, work: str, role: str, seed: int, threads: int) -> Json:
    """Score the original on one role's examples and keep its outputs for `score` to compare with."""
    began = time.perf_counter()
    opened = _open(state, target, threads)
    kept = _emptied(Path(work) / "original" / role)
    scored = _Scored()
    for index, batch, arrays in _batches(opened, role, seed):
        outputs = _original(opened, arrays)
        np.savez(kept / f"{index:06d}.npz", *outputs)
        scored.add(opened, batch, outputs)
    if scored.rows:
        (kept / "rows.json").write_text(json.dumps(scored.rows))
    return {**scored.answer(), "seconds": time.perf_counter() - began}


def score(
    state: dict[str, Any],
    *,
    target: str,
    candidate: Json,
    built: str,
    work: str,
    role: str,
    seed: int,
    threads: int,
) -> Json:
    """Score a candidate on one role's examples; gives scores, slices, differences from the original."""
    opened = _open(state, target, threads)
    chosen = Candidate.from_json(candidate)
    session = _load(state, chosen, Path(built), opened.signature)
    kept = Path(work) / "original" / role
    scored, compared = _Scored(), _Compared(opened.signature)
    for index, batch, arrays in _batches(opened, role, seed):
        outputs = session(arrays)
        with np.load(kept / f"{index:06d}.npz") as stored:
            original = [stored[name] for name in stored.files]
        compared.add(arrays, outputs, original)
        scored.add(opened, batch, outputs)
    return {**scored.answer(), **compared.answer(session)}


class _Scored:
    """Per-example scores (or rows, with a metric) and slices, gathered over batches."""

    def __init__(self) -> None:
        self.scores: list[Array] = []
        self.rows: list[Any] = []
        self.slices: list[str] = []

    def add(self, opened: Any, batch: Any, outputs: list[Array]) -> None:
        from hotlap.workload.inputs import restore_outputs
        from hotlap.workload.scoring import score_batch, slices_batch

        if opened.workload.score is None:
            return
        given = score_batch(opened, restore_outputs(outputs, opened.treespec), batch.targets, rows=batch.rows)
        if opened.workload.metric is not None:
            self.rows += [row.tolist() if hasattr(row, "tolist") else row for row in given]
        else:
            self.scores.append(np.asarray(given, np.float64))
        if opened.workload.slices is not None:
            self.slices += slices_batch(opened, batch.inputs, batch.targets)

    def answer(self) -> dict[str, Any]:
        scores = np.concatenate(self.scores) if self.scores else None
        return {"scores": scores, "rows": self.rows or None, "slices": self.slices or None}


class _Compared:
    """How far outputs are from the original's, and which inputs were hard: kept as golden."""

    _HARDEST, _FIRST = 4, 2

    def __init__(self, signature: Signature) -> None:
        self._names = [spec.name for spec in signature.outputs]
        self._gap = np.zeros(len(self._names))
        self._scale = np.zeros(len(self._names))
        self._examples = 0
        self._same_class = 0
        self._classes = False
        self._hard: list[tuple[float, list[Array]]] = []

    def add(self, arrays: list[Array], outputs: list[Array], original: list[Array]) -> None:
        _check_outputs(outputs, original)
        rows = arrays[0].shape[0]
        self._examples += rows
        worst = np.zeros(rows)
        for index, (got, want) in enumerate(zip(outputs, original, strict=True)):
            gap = np.abs(got.astype(np.float64) - want.astype(np.float64))
            gap[np.isnan(gap)] = 0 if np.isnan(want).any() else np.inf
            self._gap[index] = max(self._gap[index], gap.max(initial=0.0))
            finite = np.abs(want[np.isfinite(want)]) if np.issubdtype(want.dtype, np.floating) else np.abs(want)
            self._scale[index] = max(self._scale[index], finite.max(initial=0.0))
            if gap.ndim and gap.shape[0] == rows and gap.size:
                worst = np.maximum(worst, gap.reshape(rows, -1).max(1) / (self._scale[index] or 1.0))
        first, wanted = outputs[0], original[0]
        if wanted.ndim == 2 and wanted.shape[0] == rows and wanted.shape[1] > 1:
            self._classes = True
            self._same_class += int((first.argmax(1) == wanted.argmax(1)).sum())
        for row in np.argsort(-worst)[: self._HARDEST]:
            self._hard.append((float(worst[row]), [array[row : row + 1] for array in arrays]))
        self._hard = sorted(self._hard, key=lambda item: -item[0])[: self._HARDEST]

    def answer(self, session: Any) -> dict[str, Any]:
        scale = np.where(self._scale > 0, self._scale, 1.0)
        golden = [{"inputs": arrays, "outputs": session(arrays)} for _, arrays in self._hard]
        return {
            "differences": dict(zip(self._names, (self._gap / scale).tolist(), strict=True)),
            "same_class": self._same_class if self._classes else None,
            "compared": self._examples,
            "golden": golden,
        }


def confirm(
    state: dict[str, Any],
    *,
    target: str,
    candidate: Json,
    built: str,
    seed: int,
    threads: int,
    roles: list[str],
    max_drop: float | None,
    confidence: float,
) -> Json:
    """Score original and candidate side by side on data that chose nothing, in this fresh process.

    With the workload's own `metric` the verdict is made here, where the metric is.
    """
    opened = _open(state, target, threads)
    chosen = Candidate.from_json(candidate)
    session = _load(state, chosen, Path(built), opened.signature)
    before, after, compared = _Scored(), _Scored(), _Compared(opened.signature)
    for role in roles:
        for _, batch, arrays in _batches(opened, role, seed):
            original, outputs = _original(opened, arrays), session(arrays)
            compared.add(arrays, outputs, original)
            before.add(opened, batch, original)
            after.add(opened, batch, outputs)
    verdict = None
    if before.rows and max_drop is not None:
        from hotlap.gate import judge_drop

        verdict = to_json(
            judge_drop(
                before.rows,
                after.rows,
                max_drop=max_drop,
                confidence=confidence,
                slices=before.slices or None,
                bounds=None,
                metric=opened.workload.metric,
            )
        )
    return {
        **after.answer(),
        **compared.answer(session),
        "original_scores": before.answer()["scores"],
        "original_rows": before.rows or None,
        "verdict": verdict,
    }


def _batches(opened: Any, role: str, seed: int) -> Iterator[tuple[int, Any, list[Array]]]:
    """Batches of one role with their flat arrays. Without evaluation data: calibration or example inputs."""
    from types import SimpleNamespace

    from hotlap.workload import roles
    from hotlap.workload.inputs import flatten_inputs, to_arrays

    names = [spec.name for spec in opened.signature.inputs]
    if opened.workload.evaluation is not None and opened.workload.score is not None:
        for index, batch in enumerate(roles.evaluation_rows(opened, role, seed=seed)):
            yield index, batch, to_arrays(flatten_inputs(batch.inputs, names))
        return
    calibration, _, _ = roles.calibration_arrays(opened, seed=seed)
    batches = calibration() if calibration else (opened.example_arrays(size) for size in (2, 3, 5, 8))
    for index, arrays in enumerate(batches):
        yield index, SimpleNamespace(inputs=None, targets=None, rows=range(len(arrays[0]))), arrays


def _open(state: dict[str, Any], target: str, threads: int) -> Any:
    """The workload, opened once a process."""
    if "opened" not in state:
        import torch

        from hotlap.workload.opened import open_workload
        from hotlap.workload.target import load_target

        torch.set_num_threads(threads)
        state["opened"] = open_workload(load_target(target))
    return state["opened"]


def _original(opened: Any, arrays: list[Array]) -> list[Array]:
    """The original's outputs for flat inputs, as arrays."""
    import torch

    from hotlap.workload.inputs import call, flatten_outputs, restore_inputs, to_arrays

    with torch.inference_mode():
        tensors = [torch.from_numpy(array.copy()) for array in arrays]
        return to_arrays(flatten_outputs(call(opened.model, restore_inputs(tensors, opened.signature))))


def _load(state: dict[str, Any], candidate: Candidate, built: Path, signature: Signature) -> Any:
    """The built files' callable, loaded once a process."""
    if "session" not in state:
        state["session"] = runtimes.of(candidate).load(
            _read(built),
            signature,
            device=candidate.device,
            threads=candidate.threads,
            options=dict(candidate.options),
        )
    return state["session"]


def _read(built: Path) -> Mapping[str, bytes]:
    names = json.loads((built / _DONE).read_text())["files"]
    return {name: (built / name).read_bytes() for name in names}
