"""Checks before any scoring: shapes, types, NaN, other batch sizes, and whether rows depend on each other."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hotlap.core import TOLERANCE, Array, Candidate, Json, TensorSpec
from hotlap.errors import WrongOutputs
from hotlap.search.work.holding import loaded_session
from hotlap.search.work.opening import opened_workload, original_outputs
from hotlap.workload.examples import BATCH

_CHECKED_BATCHES = (1, 3)


def check(state: dict[str, Any], *, target: str, candidate: Json, built: str, batch: int, threads: int) -> Json:
    """Compare shapes, types, finiteness, other batch sizes and row by row; raises WrongOutputs.

    Gives `seconds_a_call` at the measured batch and `row_dependence`, the largest share of the output's range by
    which a row's result depends on the other rows.
    """
    opened = opened_workload(state, target, threads)
    chosen = Candidate.from_json(candidate)
    session = loaded_session(state, chosen, Path(built), opened.signature)
    tolerance = TOLERANCE[chosen.precision]
    arrays = opened.example_arrays(max(batch, 2))
    together, wanted = session(arrays), original_outputs(opened, arrays)
    check_outputs(together, wanted)
    takes, gives = opened.signature.inputs, opened.signature.outputs
    dependence = max(
        _difference(
            _with_rows(session(cut_rows(arrays, takes, range(rows))), gives),
            _with_rows(cut_rows(together, gives, range(rows)), gives),
        )
        for rows in range(1, 3)
    )
    if dependence > tolerance:
        raise WrongOutputs(
            f"a row's result depends on the other rows of its batch by {dependence:.1%} of the output's range; "
            f"{chosen.precision} is allowed {tolerance:.1%}"
        )
    alone = original_outputs(opened, cut_rows(arrays, takes, range(1)))
    apart = _difference(_with_rows(alone, gives), _with_rows(cut_rows(wanted, gives, range(1)), gives))
    if apart > tolerance:
        raise WrongOutputs(
            f"the model gives a row other numbers when it comes alone, by {apart:.1%} of the output's range, and what "
            "is built from it does not"
        )
    for size in _CHECKED_BATCHES:
        more = opened.example_arrays(size)
        check_outputs(session(more), original_outputs(opened, more))
    measured = opened.example_arrays(batch)
    session(measured)
    began = time.perf_counter()
    session(measured)
    return {"row_dependence": dependence, "seconds_a_call": time.perf_counter() - began}


def cut_rows(arrays: list[Array], specs: Sequence[TensorSpec], rows: Sequence[int]) -> list[Array]:
    """Those rows of each array that has a batch axis, wherever it lies; the others whole."""
    return [
        array.take(rows, spec.shape.index(BATCH)) if BATCH in spec.shape else array
        for array, spec in zip(arrays, specs, strict=True)
    ]


def _with_rows(arrays: list[Array], specs: Sequence[TensorSpec]) -> list[Array]:
    """Without those that have no row of their own for each example: a mean over the batch, say."""
    return [array for array, spec in zip(arrays, specs, strict=True) if BATCH in spec.shape]


def check_outputs(found: list[Array], wanted: list[Array]) -> None:
    if len(found) != len(wanted):
        raise WrongOutputs(f"gives {len(found)} outputs where the model gives {len(wanted)}")
    for index, (got, want) in enumerate(zip(found, wanted, strict=True)):
        if got.shape != want.shape:
            raise WrongOutputs(f"output {index} has shape {list(got.shape)} where the model's has {list(want.shape)}")
        if got.dtype != want.dtype:
            raise WrongOutputs(f"output {index} is {got.dtype} where the model's is {want.dtype}")
        if np.issubdtype(got.dtype, np.floating):
            same = (got == want) | (np.isnan(got) & np.isnan(want))
            if not (same | (np.isfinite(got) & np.isfinite(want))).all():
                raise WrongOutputs(
                    f"output {index} holds NaN or Inf where the model's does not, or the other way round"
                )


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
