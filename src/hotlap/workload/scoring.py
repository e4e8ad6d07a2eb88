"""Scores: calls the workload's `score`, `metric` and `slices`, and checks what they give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from hotlap.core import Array
from hotlap.errors import WorkloadError
from hotlap.workload.examples import BATCH
from hotlap.workload.inputs import flatten_outputs
from hotlap.workload.opened import Opened
from hotlap.workload.rows import read_inputs
from hotlap.workload.user_code import running
from hotlap.workload.workload import Inputs, Outputs


def score_batch(
    opened: Opened, outputs: Outputs, targets: Any, *, rows: Sequence[int] | Array | None = None
) -> Array | list[Any]:
    """One score an example, float64 [batch]; with `metric` a list with one row an example.

    A row that came as a tensor is a number or a tuple of numbers. `outputs` nest as the model's do. `rows` are the
    examples' places in the evaluation data, for messages. Raises WorkloadError where `score` raises or gives the
    wrong shape, NaN or Inf.
    """
    import torch

    assert opened.workload.score is not None
    with torch.no_grad(), running("score"):
        scores = opened.workload.score(outputs, targets)
    count = _count(opened, outputs)
    if opened.workload.metric is not None and not isinstance(scores, torch.Tensor | np.ndarray):
        return _objects(scores, count)
    if not isinstance(scores, torch.Tensor | np.ndarray):
        raise WorkloadError(
            f"the workload's `score` must give a Tensor with one number an example; it gave a {type(scores).__name__}"
        )
    array = scores.detach().cpu().double().numpy() if isinstance(scores, torch.Tensor) else np.asarray(scores)
    if opened.workload.metric is None:
        if count is None and array.ndim == 1:
            count = len(array)
        if array.shape != (count,):
            raise WorkloadError(_wrong_shape(array.shape, count))
    elif array.ndim == 0 or (count is not None and len(array) != count):
        raise WorkloadError(_wrong_shape(array.shape, count))
    if array.dtype.kind not in "biuf":
        raise WorkloadError(f"the workload's `score` must give numbers; it gave {array.dtype}")
    _check_finite(array, rows)
    if opened.workload.metric is None:
        return array.astype(np.float64)
    return [tuple(row) if isinstance(row, list) else row for row in scores.tolist()]


def metric_value(opened: Opened, rows: list[Any]) -> float:
    """The workload's `metric` of rows that score_batch gave; without one the mean. Raises WorkloadError."""
    if opened.workload.metric is None:
        return float(np.mean(rows))
    with running("metric"):
        value = opened.workload.metric(rows)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise WorkloadError(f"the workload's `metric` must give one number; it gave a {type(value).__name__}") from None
    if not math.isfinite(number):
        raise WorkloadError(f"the workload's `metric` gave {number} for {len(rows)} rows; it must give a finite number")
    return number


def slices_batch(opened: Opened, inputs: Inputs, targets: Any) -> list[str]:
    """One label an example. Raises WorkloadError where `slices` raises or gives something else."""
    assert opened.workload.slices is not None
    _, count = read_inputs(inputs, opened.signature, "evaluation")
    with running("slices"):
        labels = opened.workload.slices(inputs, targets)
    if isinstance(labels, str) or not hasattr(labels, "__len__"):
        raise WorkloadError(
            f"the workload's `slices` must give a list with one label an example; it gave a {type(labels).__name__}"
        )
    if len(labels) != count:
        raise WorkloadError(f"the workload's `slices` gave {len(labels)} labels for {count} examples")
    for label in labels:
        if not isinstance(label, str):
            raise WorkloadError(f"the workload's `slices` must give strings; it gave a {type(label).__name__}")
    return list(labels)


def _count(opened: Opened, outputs: Outputs) -> int | None:
    """The batch's rows, as the outputs show them; None where no output has a batch axis."""
    for spec, tensor in zip(opened.signature.outputs, flatten_outputs(outputs), strict=True):
        if BATCH in spec.shape:
            return int(tensor.shape[spec.shape.index(BATCH)])
    return None


def _objects(scores: Any, count: int | None) -> list[Any]:
    if isinstance(scores, str) or not isinstance(scores, Sequence):
        raise WorkloadError(
            f"the workload's `score` must give one row an example (a Tensor or a list); it gave a "
            f"{type(scores).__name__}"
        )
    if count is not None and len(scores) != count:
        raise WorkloadError(f"the workload's `score` gave {len(scores)} rows for {count} examples")
    return list(scores)


def _wrong_shape(shape: tuple[int, ...], count: int | None) -> str:
    wanted = "[batch]" if count is None else f"[{count}]"
    hint = "; leave the mean or sum over the batch out" if not shape else ""
    return f"the workload's `score` gave shape {list(shape)}; wanted is {wanted}, one number an example{hint}"


def _check_finite(array: Array, rows: Sequence[int] | Array | None) -> None:
    bad = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
    if bad.any():
        index = int(np.argmax(bad))
        what = "NaN" if np.isnan(array[index]).any() else "Inf"
        example = f"example {rows[index]}" if rows is not None else f"example {index} of a batch"
        raise WorkloadError(f"the workload's `score` gave {what} for {example}; it must give a finite number")
