"""Holds a model's times against what the machine can do. Pure: measured figures in, a profile out.

The roofline of Williams, Waterman and Patterson (CACM 52, 2009), with multiply-adds for operations: a piece of work
takes at least as long as its multiply-adds need at the machine's best rate, and as long as its bytes need to move.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hotlap.core import Json
from hotlap.machine.limits import Limits
from hotlap.profiling.count import Counted, Work
from hotlap.profiling.kinds import LAUNCH, LAYOUT, OTHER, WAITING
from hotlap.profiling.modules import ModuleName
from hotlap.profiling.suggestions import suggestions
from hotlap.profiling.trace import Traced

PRECISIONS = ("fp32", "bf16", "int8")
_WIDTH = {"fp32": 1.0, "bf16": 0.5, "int8": 0.25}
"""Bytes of a value against fp32's."""
_IN_ONEDNN = ("convolution", "recurrent")
"""Kinds that oneDNN computes in eager PyTorch on the CPU, reordering on the way in and out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All that was measured of one model at one batch size. reorder_share: of oneDNN's time.

    peak_bytes: the most memory the process (on CUDA: the device) held while the model ran.
    """

    modules: Sequence[ModuleName]
    traced: Traced
    counted: Counted
    reorder_share: float
    threads: int
    peak_bytes: int


def profile_of(measured: Measured, limits: Limits) -> Json:
    """The profile that results keep and reports show (times in ms a call)."""
    traced, counted = measured.traced, measured.counted
    total = traced.total_ms
    kinds = _with_reorders(traced.kinds, measured.reorder_share)
    layers = _layers(measured, limits)
    bounds = bounds_ms(counted, limits)
    overhead = {
        "launch_share": kinds.get(LAUNCH, 0.0) / total,
        "layout_share": kinds.get(LAYOUT, 0.0) / total,
        "waiting_share": _waiting_share(measured),
    }
    return {
        "total_ms": total,
        "layers": layers,
        "kinds": _longest_first(
            {"kind": kind, "ms": ms, "share": ms / total} for kind, ms in kinds.items() if kind != OTHER
        ),
        "other_share": kinds.get(OTHER, 0.0) / total,
        "overhead": overhead,
        "memory": {
            "weights_bytes": counted.weight_bytes,
            "activations_bytes": counted.peak_activation_bytes,
            "peak_bytes": measured.peak_bytes,
        },
        "roofline": {
            "points": [_point(layer) for layer in layers if layer["multiply_adds"] and layer["ms"]],
            "peak_multiply_adds_per_second": limits.fp32_multiply_adds_per_second,
            "bytes_per_second": limits.bytes_per_second,
        },
        "multiply_adds": sum(work.multiply_adds for work in counted.work),
        "bytes": sum(_bytes(work) for work in counted.work),
        "bounds_ms": bounds,
        "share_of_limit": bounds["fp32"] / total,
        "operators": traced.operators,
        "suggestions": suggestions(total, kinds, overhead, bounds, limits),
        "warnings": _warnings(traced),
    }


def bound_ms(profile: Mapping[str, Any], precision: str) -> float:
    """The least time that the limits allow a call in `precision` (fp32, bf16, fp16, int8).

    It counts products alone, each at the machine's best rate for that format or a wider one: everything else may be
    fused away. Still no hard ceiling: Winograd needs fewer multiplies, and a cache may hold more than was thought.
    """
    bound: float = profile["bounds_ms"]["bf16" if precision == "fp16" else precision]
    return bound


def bounds_ms(counted: Counted, limits: Limits) -> dict[str, float]:
    """The same for every format, from the counted work.

    Shortened by what others took while the limits were measured: no candidate shall be skipped for a limit that was
    held down.
    """
    products = [work for work in counted.work if work.multiply_adds]
    return {
        precision: 1000 * least_seconds(products, precision, counted, limits) / limits.undisturbed_factor(precision)
        for precision in PRECISIONS
    }


def least_seconds(work: Iterable[Work], precision: str, counted: Counted, limits: Limits) -> float:
    """The least time for some of a model's work: for each operator what takes longer, multiplying or moving.

    Weights come from where the whole model's working set fits, activations from where the operator's own do.
    """
    rate = limits.multiply_adds_per_second(precision)
    width = _WIDTH[precision]
    weights_rate = limits.bytes_per_second_at(width * (counted.weight_bytes + counted.peak_activation_bytes))
    seconds = 0.0
    for one in work:
        activations = width * one.activation_bytes
        moving = width * one.weight_bytes / weights_rate + activations / limits.bytes_per_second_at(activations)
        seconds += max(one.multiply_adds / rate, moving)
    return seconds


def _layers(measured: Measured, limits: Limits) -> list[Json]:
    by_module: dict[int, list[Work]] = {}
    for work in measured.counted.work:
        by_module.setdefault(work.module, []).append(work)
    total = measured.traced.total_ms
    return _longest_first(
        _layer(measured, limits, index, by_module.get(index, []), measured.traced.modules.get(index, 0.0), total)
        for index in sorted({*by_module, *measured.traced.modules})
    )


def _layer(
    measured: Measured, limits: Limits, index: int, work: Sequence[Work], ms: float, total: float
) -> dict[str, Any]:
    least = 1000 * least_seconds(work, "fp32", measured.counted, limits)
    return {
        "name": measured.modules[index].name,
        "type": measured.modules[index].type,
        "ms": ms,
        "share": ms / total,
        "multiply_adds": sum(one.multiply_adds for one in work),
        "bytes": sum(_bytes(one) for one in work),
        "share_of_limit": least / ms if ms and work else None,
    }


def _point(layer: Mapping[str, Any]) -> Json:
    return {
        "name": layer["name"],
        "intensity": layer["multiply_adds"] / layer["bytes"],
        "achieved": 1000 * layer["multiply_adds"] / layer["ms"],
    }


def _bytes(work: Work) -> int:
    return work.weight_bytes + work.activation_bytes


def _longest_first(rows: Iterable[Json]) -> list[Json]:
    return sorted(rows, key=lambda row: -row["ms"])


def _with_reorders(kinds: Mapping[str, float], share: float) -> dict[str, float]:
    """Move what oneDNN spends on reorders from what it computes to `layout`."""
    moved = {kind: share * ms for kind, ms in kinds.items() if kind in _IN_ONEDNN}
    found = {kind: ms - moved.get(kind, 0.0) for kind, ms in kinds.items()}
    found[LAYOUT] = found.get(LAYOUT, 0.0) + sum(moved.values())
    return {kind: ms for kind, ms in found.items() if ms > 0}


def _waiting_share(measured: Measured) -> float:
    """The share of the cores' time in which they do none of the work.

    On a GPU what it idles. On a CPU what `threads` cores had to give less what one needs for all of it: waiting for
    each other, for memory, for parts that only one can do.
    """
    traced = measured.traced
    if WAITING in traced.kinds:
        return traced.kinds[WAITING] / traced.total_ms
    return max(0.0, 1 - traced.one_thread_ms / (measured.threads * traced.total_ms))


def _warnings(traced: Traced) -> list[str]:
    if traced.sure:
        return []
    return [
        f"the profiled calls took {1 / traced.watching_factor:.2f} times as long as those left alone, so the "
        "shares are less sure; something else may have kept the machine busy: profile again when it is quiet"
    ]
