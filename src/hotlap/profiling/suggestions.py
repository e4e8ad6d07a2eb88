"""What to try, with the most that each could bring (Amdahl's law on measured times). Pure.

Each suggestion is something that can be done, and its figure an upper end: what may go away is taken as gone, and
what may get faster as running at the machine's limit.
"""

from __future__ import annotations

from collections.abc import Mapping

from hotlap.core import Json
from hotlap.machine.limits import Limits
from hotlap.profiling.kinds import LAUNCH, LAYOUT

_PRODUCTS = {
    "convolution": "convolutions",
    "matrix product": "matrix products",
    "attention": "attention products",
    "recurrent": "recurrent layers",
}
_FUSIBLE = ("normalization", "activation", "elementwise")
_WORTH = 1.05
"""What could bring less than this is left out."""
_WORTH_SAYING = 0.005


def suggestions(
    total: float,
    kinds: Mapping[str, float],
    overhead: Mapping[str, float],
    bounds: Mapping[str, float],
    limits: Limits,
) -> list[Json]:
    """What to try, the most promising first: what, why, at_most_speedup. Times in ms."""
    fusible = sum(kinds.get(kind, 0.0) for kind in _FUSIBLE)
    launch, layout = kinds.get(LAUNCH, 0.0), kinds.get(LAYOUT, 0.0)
    waiting = overhead["waiting_share"] * total
    # No runtime is called in less than its call of an empty model takes.
    least_call = min(limits.call_ms.values(), default=limits.launch_ms or 0.0)
    found = [
        _suggestion(total, bounds["fp32"] + least_call, _same_numbers(limits), _why(total, kinds, bounds, fusible)),
        *_narrower(total, kinds, bounds, least_call, limits),
        _suggestion(
            total,
            total - launch - fusible,
            "a compiler that fuses operations (torch.compile, AOTInductor)",
            f"{launch / total:.0%} of the time is launch overhead and {fusible / total:.0%} goes into "
            "normalization, activations and other elementwise operations, which can be fused",
        ),
        _suggestion(
            total,
            total - layout,
            "another memory layout (channels_last)",
            f"{layout / total:.0%} of the time goes into copies and changes of layout",
        ),
        _suggestion(
            total,
            total - waiting,
            "another number of threads, or a larger batch",
            f"{overhead['waiting_share']:.0%} of the cores' time does none of the work",
        ),
    ]
    worth = [one for one in found if one["at_most_speedup"] >= _WORTH]
    return sorted(worth, key=lambda one: -one["at_most_speedup"])


def _suggestion(total: float, left: float, what: str, why: str) -> Json:
    return {"what": what, "why": why, "at_most_speedup": total / max(left, 1e-9 * total)}


def _same_numbers(limits: Limits) -> str:
    return "the same numbers in " + _where(limits)


def _where(limits: Limits) -> str:
    return "ONNX Runtime or OpenVINO" if limits.device == "cpu" else "a compiled runtime"


def _why(total: float, kinds: Mapping[str, float], bounds: Mapping[str, float], fusible: float) -> str:
    spent = sum(kinds.get(kind, 0.0) for kind in _PRODUCTS)
    reached = f", at {bounds['fp32'] / spent:.0%} of the fp32 limit" if spent else ""
    rest = {
        "launch overhead": kinds.get(LAUNCH, 0.0),
        "layout changes": kinds.get(LAYOUT, 0.0),
        "what can be fused": fusible,
    }
    said = [f"{name} {ms / total:.0%}" for name, ms in rest.items() if ms / total >= _WORTH_SAYING]
    return "; ".join(filter(None, (_products(total, kinds) + reached, ", ".join(said))))


def _narrower(
    total: float, kinds: Mapping[str, float], bounds: Mapping[str, float], least_call: float, limits: Limits
) -> list[Json]:
    """The narrower formats, as far as each could bring more than the wider ones."""
    found, wider = [], bounds["fp32"] + least_call
    for precision in ("bf16", "int8"):
        left = bounds[precision] + least_call
        if left * _WORTH > wider:
            continue
        wider = left
        ratio = limits.multiply_adds_per_second(precision) / limits.multiply_adds_per_second("fp32")
        times = f"{ratio:.1f} times as many multiply-adds a second in {precision} as in fp32"
        why = f"{_products(total, kinds)}; this machine makes {times}"
        found.append(_suggestion(total, left, f"{precision} in {_where(limits)}", why))
    return found


def _products(total: float, kinds: Mapping[str, float]) -> str:
    shares = sorted(((kinds.get(kind, 0.0) / total, name) for kind, name in _PRODUCTS.items()), reverse=True)
    said = [f"{name} take {share:.0%}" for share, name in shares if share >= _WORTH_SAYING]
    return f"{', '.join(said)} of the time" if said else "products take next to none of the time"
