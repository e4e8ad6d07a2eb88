"""Which quantizers lose the most, and a model without the worst of them: what fed on their output stays wide.

Each quantizer of activations is switched on alone, all others off, and what the outputs then differ by from those
with none is its loss, on a few calibration examples. Quantizers whose losses are measured one by one and of which the
worst are taken back are the idea of NNCF's quantization with accuracy control and of NVIDIA Model Optimizer's
auto_quantize; here one compiled model does for all of them, since each quantizer gets a switch among the inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from hotlap.core import Array, Json, TensorSpec

OPTION = "without_worst"
"""The option that says which share."""
SHARES = (0.1, 0.3)
"""What share of the quantizers a variant goes without."""
_BATCH = "batch"
MOST_ROWS = 8
"""Calibration examples that losses are measured on: their order hardly depends on more."""

Run = Callable[[Sequence[bool]], Sequence[Array]]
"""Outputs with those quantizers switched on."""


def losses(run: Run, count: int) -> list[float]:
    """What each of `count` quantizers loses alone: squared difference of the outputs, as a share of their size."""
    wide = run([False] * count)
    return [_difference(run([index == one for index in range(count)]), wide) for one in range(count)]


def worst(found: Sequence[float], share: float) -> list[int]:
    """The places of the `share` that lose the most, one at least, worst first."""
    order = sorted(range(len(found)), key=lambda index: -found[index])
    return order[: max(1, math.ceil(share * len(found)))]


def variants(label: str, options: dict[str, Json]) -> list[tuple[str, dict[str, Json]]]:
    """What to try where a way of quantizing loses too much: the same without its worst quantizers."""
    return [
        (", ".join(filter(None, (label, f"without the worst {share:.0%}"))), {**options, OPTION: share})
        for share in SHARES
    ]


def few_rows(arrays: Sequence[Array], specs: Sequence[TensorSpec]) -> list[Array]:
    """The first rows of a calibration batch."""
    return [
        array.take(range(min(MOST_ROWS, array.shape[axis])), axis) if axis is not None else array
        for array, axis in zip(arrays, map(_batch_axis, specs), strict=True)
    ]


def _batch_axis(spec: TensorSpec) -> int | None:
    return spec.shape.index(_BATCH) if _BATCH in spec.shape else None


def _difference(outputs: Sequence[Array], wide: Sequence[Array]) -> float:
    lost = 0.0
    for got, want in zip(outputs, wide, strict=True):
        if np.issubdtype(want.dtype, np.floating):
            finite = np.isfinite(got) & np.isfinite(want)
            size = float((np.where(finite, want, 0.0).astype(np.float64) ** 2).sum())
            gap = np.where(finite, got.astype(np.float64) - want, 0.0)
            lost += float((gap**2).sum()) / (size or 1.0)
    return lost
