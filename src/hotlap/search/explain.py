"""Why a candidate is not faster than one would think: sentences from its own times by operation. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from hotlap.core import Json

_WORTH_SAYING = 0.05
"""A share of the time below this is not worth a sentence."""
_NARROW = ("int8", "bf16", "fp16")


def role_times(operations: Sequence[Json]) -> dict[str, float]:
    """ms a call by role: compute, quantize, layout, other."""
    times: dict[str, float] = {"compute": 0.0, "quantize": 0.0, "layout": 0.0, "other": 0.0}
    for operation in operations:
        times[operation["role"]] += operation["ms"]
    return times


def sentences(record: Mapping[str, Any], operations: Sequence[Json], *, limit_ms: float | None) -> list[str]:
    """What holds a candidate back, the largest share first."""
    whole = sum(operation["ms"] for operation in operations)
    if not whole:
        return ["its runtime gives no times by operation"]
    times = role_times(operations)
    precision = record["candidate"]["precision"]
    found = []
    if times["quantize"] / whole >= _WORTH_SAYING:
        found.append(
            (times["quantize"], f"{times['quantize'] / whole:.0%} of its time goes into quantize and dequantize")
        )
    if times["layout"] / whole >= _WORTH_SAYING:
        kinds = _longest_kinds(operations, "layout")
        found.append((times["layout"], f"{times['layout'] / whole:.0%} of its time goes into moving data ({kinds})"))
    if precision in _NARROW:
        found += _fallen_back(operations, precision, whole)
    median = record.get("median_ms")
    if median and whole < median * (1 - _WORTH_SAYING):
        found.append(
            (median - whole, f"{1 - whole / median:.0%} of a call passes outside its operations (calls, threads)")
        )
    found.sort(key=lambda item: -item[0])
    answer = [sentence for _, sentence in found]
    if limit_ms and median:
        answer.append(f"it reaches {limit_ms / median:.0%} of what the machine's measured limit allows in {precision}")
    return answer


def _fallen_back(operations: Sequence[Json], precision: str, whole: float) -> list[tuple[float, str]]:
    """Kinds of operation of which some ran in the narrow format, and those in which others ran instead."""
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    times: dict[str, float] = defaultdict(float)
    for operation in operations:
        if operation["role"] == "compute" and operation["precision"]:
            counts[operation["kind"]][operation["precision"]] += 1
            if operation["precision"] != precision:
                times[operation["kind"]] += operation["ms"]
    found = []
    for kind, ms in times.items():
        if ms / whole < _WORTH_SAYING:
            continue
        narrow, every = counts[kind][precision], sum(counts[kind].values())
        wide = ", ".join(sorted(name for name in counts[kind] if name != precision))
        share = f"{ms / whole:.0%} of its time"
        found.append((ms, f"{every - narrow} of {every} {kind} ran in {wide}, not in {precision}: {share}"))
    return found


def _longest_kinds(operations: Sequence[Json], role: str) -> str:
    times: dict[str, float] = defaultdict(float)
    for operation in operations:
        if operation["role"] == role:
            times[operation["kind"]] += operation["ms"]
    return ", ".join(sorted(times, key=lambda kind: -times[kind])[:3])
