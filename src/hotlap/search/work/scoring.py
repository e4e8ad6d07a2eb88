"""Scoring original and candidate on one role's examples, and how far apart their outputs are."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from hotlap.core import Array, Candidate, Json, Signature, to_json
from hotlap.search.work import calibration, originals
from hotlap.search.work.checking import check_outputs, cut_rows
from hotlap.search.work.holding import loaded_session
from hotlap.search.work.opening import opened_workload
from hotlap.workload.examples import BATCH

_LEAST_EXAMPLES = 300
"""With so many of which none is lost, one is likely to be confirmed by 1,400 that allow a drop of 0.01."""


def score_original(
    state: dict[str, Any],
    *,
    target: str,
    work: str,
    role: str,
    seed: int,
    threads: int,
    seconds: float,
    most_seconds: float = math.inf,
    batches: int | None = None,
) -> Json:
    """Score the original on one role's examples and keep its outputs for `score` to compare with.

    Where it is slow it ends after `seconds`, but not before it has seen enough to tell candidates apart, unless that
    takes longer than `most_seconds`. `batches` and `examples` say how far it came: candidates are scored on the same.
    `metric` is the workload's own of these rows, where it has one.
    Given `batches`, as a run that is taken up has them, it sees so many whatever time they take.
    """
    began = time.perf_counter()
    opened = opened_workload(state, target, threads)
    least = _LEAST_EXAMPLES if opened.workload.evaluation is not None else math.inf
    scored, seen, examples = _Scored(), 0, 0
    for batch, outputs in originals.keep(opened, _kept(work, role), _batches(opened, work, role, seed)):
        scored.add(opened, batch, outputs)
        seen, examples = seen + 1, examples + len(batch.rows)
        took = time.perf_counter() - began
        if (took >= most_seconds or (examples >= least and took >= seconds)) if batches is None else seen == batches:
            break
    return {
        **scored.answer(),
        "metric": scored.metric(opened),
        "batches": seen,
        "examples": examples,
        "seconds": time.perf_counter() - began,
    }


def score(
    state: dict[str, Any],
    *,
    target: str,
    candidate: Json,
    built: str,
    work: str,
    role: str,
    batches: int,
    seed: int,
    threads: int,
) -> Json:
    """Score a candidate on the first batches of a role; gives scores, slices, differences from the original."""
    opened = opened_workload(state, target, threads)
    chosen = Candidate.from_json(candidate)
    session = loaded_session(state, chosen, Path(built), opened.signature)
    scored, compared = _Scored(), _Compared(opened.signature)
    for index, batch, arrays in islice(_batches(opened, work, role, seed), batches):
        outputs = session(arrays)
        compared.add(arrays, outputs, originals.outputs(opened, _kept(work, role), index, arrays))
        scored.add(opened, batch, outputs)
    return {**scored.answer(), **compared.answer(session, _measured(opened, chosen))}


def confirm(
    state: dict[str, Any],
    *,
    target: str,
    candidate: Json,
    built: str,
    work: str,
    seed: int,
    threads: int,
    roles: list[str],
    max_drop: float | None,
    confidence: float,
    examples: dict[str, int] | None = None,
) -> Json:
    """Score original and candidate on data that chose nothing, in this fresh process.

    The original's outputs come first, all of them: threads of two runtimes that wait side by side slow each other.
    With the workload's own `metric` the verdict is made here, where the metric is. `examples`: about how many of each
    role where the original is too slow for all; all of them unless given.
    """
    opened = opened_workload(state, target, threads)
    chosen = Candidate.from_json(candidate)
    for role in roles:
        if not originals.are_kept(_kept(work, role)):
            for _ in originals.keep(
                opened, _kept(work, role), _some(_batches(opened, work, role, seed), examples, role)
            ):
                pass
    session = loaded_session(state, chosen, Path(built), opened.signature)
    before, after, compared = _Scored(), _Scored(), _Compared(opened.signature)
    for role in roles:
        for index, batch, arrays in _some(_batches(opened, work, role, seed), examples, role):
            original, outputs = originals.outputs(opened, _kept(work, role), index, arrays), session(arrays)
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
        **compared.answer(session, _measured(opened, chosen)),
        "original_scores": before.answer()["scores"],
        "original_rows": before.rows or None,
        "verdict": verdict,
    }


def _some(
    batches: Iterator[tuple[int, Any, list[Array]]], examples: dict[str, int] | None, role: str
) -> Iterator[tuple[int, Any, list[Array]]]:
    """The first batches, until they hold so many examples of the role."""
    left = math.inf if examples is None else examples[role]
    for index, batch, arrays in batches:
        yield index, batch, arrays
        left -= len(batch.rows)
        if left <= 0:
            return


def _kept(work: str, role: str) -> Path:
    return Path(work) / "original" / role


def _measured(opened: Any, candidate: Candidate) -> list[Array]:
    """Example inputs of the shapes that a candidate fixes, or two rows of them."""
    fixed = dict(dict(candidate.options).get("fixed_axes", {}))
    arrays: list[Array] = opened.example_arrays(fixed.get("batch", 2))
    return arrays


def _batches(opened: Any, work: str, role: Any, seed: int) -> Iterator[tuple[int, Any, list[Array]]]:
    """Batches of one role with their flat arrays. Without evaluation data: calibration or example inputs."""
    from types import SimpleNamespace

    from hotlap.workload import roles
    from hotlap.workload.inputs import flatten_inputs, to_arrays

    names = [spec.name for spec in opened.signature.inputs]
    if opened.workload.evaluation is not None and opened.workload.score is not None:
        for index, batch in enumerate(roles.evaluation_rows(opened, role, seed=seed)):
            yield index, batch, to_arrays(flatten_inputs(batch.inputs, names))
        return
    found, _ = calibration.kept(opened, Path(work), seed=seed)
    batches = found() if found else (opened.example_arrays(size) for size in (2, 3, 5, 8))
    for index, arrays in enumerate(batches):
        yield index, SimpleNamespace(inputs=None, targets=None, rows=range(len(arrays[0]))), arrays


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

    def metric(self, opened: Any) -> float | None:
        """The workload's own metric of the rows; None where it has none. Raises WorkloadError."""
        from hotlap.workload.scoring import metric_value

        return metric_value(opened, self.rows) if opened.workload.metric is not None and self.rows else None

    def answer(self) -> dict[str, Any]:
        scores = np.concatenate(self.scores) if self.scores else None
        return {"scores": scores, "rows": self.rows or None, "slices": self.slices or None}


class _Compared:
    """How far outputs are from the original's, and which inputs were hard: kept as golden."""

    _HARDEST, _FIRST = 4, 2

    def __init__(self, signature: Signature) -> None:
        self._takes, self._gives = signature.inputs, signature.outputs
        self._names = [spec.name for spec in signature.outputs]
        self._gap = np.zeros(len(self._names))
        self._scale = np.zeros(len(self._names))
        self._examples = 0
        self._same_class = 0
        self._classes = False
        self._hard: list[tuple[float, list[Array]]] = []

    def add(self, arrays: list[Array], outputs: list[Array], original: list[Array]) -> None:
        check_outputs(outputs, original)
        rows = next(
            array.shape[spec.shape.index(BATCH)]
            for array, spec in zip(arrays, self._takes, strict=True)
            if BATCH in spec.shape
        )
        self._examples += rows
        worst = np.zeros(rows)
        for index, (got, want) in enumerate(zip(outputs, original, strict=True)):
            with np.errstate(invalid="ignore"):
                gap = np.asarray(np.abs(got.astype(np.float64) - want.astype(np.float64)))
            # Infinities that agree (a masked logit) and NaNs that the original has too are no difference.
            gap[(got == want) | (np.isnan(got) & np.isnan(want))] = 0.0
            gap[np.isnan(gap)] = np.inf
            self._gap[index] = max(self._gap[index], gap.max(initial=0.0))
            finite = np.abs(want[np.isfinite(want)]) if np.issubdtype(want.dtype, np.floating) else np.abs(want)
            self._scale[index] = max(self._scale[index], finite.max(initial=0.0))
            axes = self._gives[index].shape
            if BATCH in axes and gap.size:
                by_row = np.moveaxis(gap, axes.index(BATCH), 0).reshape(rows, -1)
                worst = np.maximum(worst, by_row.max(1) / (self._scale[index] or 1.0))
        first, wanted = outputs[0], original[0]
        if wanted.ndim == 2 and wanted.shape[0] == rows and wanted.shape[1] > 1:
            self._classes = True
            self._same_class += int((first.argmax(1) == wanted.argmax(1)).sum())
        for row in np.argsort(-worst)[: self._HARDEST]:
            self._hard.append((float(worst[row]), cut_rows(arrays, self._takes, [int(row)])))
        self._hard = sorted(self._hard, key=lambda item: -item[0])[: self._HARDEST]

    def answer(self, session: Any, measured: list[Array]) -> dict[str, Any]:
        """`measured`: inputs of the shapes that a candidate with fixed shapes was built for, golden too."""
        scale = np.where(self._scale > 0, self._scale, 1.0)
        cases = [*(arrays for _, arrays in self._hard), measured]
        golden = [{"inputs": arrays, "outputs": session(arrays)} for arrays in cases]
        return {
            "differences": dict(zip(self._names, (self._gap / scale).tolist(), strict=True)),
            "same_class": self._same_class if self._classes else None,
            "compared": self._examples,
            "golden": golden,
        }
