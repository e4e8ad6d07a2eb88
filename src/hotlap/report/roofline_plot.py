"""The roofline plot: what each layer reaches against what this machine can do, in px. Pure.

Williams, Waterman, Patterson: Roofline, an insightful visual performance model, CACM 52 (2009); here with
multiply-adds for operations. A roof is the lesser of the peak and the bandwidth times the intensity.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from hotlap.core import Json
from hotlap.report import wording
from hotlap.report.scales import Scale
from hotlap.report.speed_plot import Tick
from hotlap.report.wording import at, number

_LINE = 13.0  # px between two names
_FORMATS = ("fp32", "bf16", "fp16", "int8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Roof:
    """One number format's limit: `path` is the line's points, `x` and `y` where its name stands."""

    text: str
    path: str
    x: float
    y: float
    main: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """A layer; the area of the dot grows with its share of the time."""

    x: float
    y: float
    radius: float
    tip: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RooflinePlot:
    """Everything that the drawing needs; positions in px. `area` is (left, top, right, bottom)."""

    width: float
    height: float
    area: tuple[float, float, float, float]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    roofs: tuple[Roof, ...]
    dots: tuple[Dot, ...]
    description: str


def roofline_plot(result: Json, *, width: float, height: float) -> RooflinePlot | None:
    """The plot at that size, or None where the profile has no points or no limits."""
    profile = result.get("profile")
    points = [point for point in at(profile, "roofline", "points") or [] if _drawable(point)]
    peaks, bandwidth = _peaks(result), number(at(profile, "roofline", "bytes_per_second"))
    if not points or not peaks or not bandwidth:
        return None
    left, right, top, bottom = 46.0, width - 14.0, 30.0, height - 44.0
    ridge = [peak / bandwidth for peak in peaks.values()]
    x = _decades([point["intensity"] for point in points] + ridge, left, right)
    y = _decades([point["achieved"] for point in points] + [2 * max(peaks.values())], bottom, top)
    shares = {layer["name"]: number(layer.get("share")) for layer in at(profile, "layers") or []}
    return RooflinePlot(
        width=width,
        height=height,
        area=(left, top, right, bottom),
        x_ticks=tuple(Tick(at=x(value), text=f"{value:g}") for value in x.ticks(int((right - left) / 70))),
        y_ticks=tuple(Tick(at=y(value), text=_rate(value)) for value in y.ticks(7)),
        roofs=_roofs(peaks, bandwidth, x, y),
        dots=tuple(_dot(point, shares.get(point["name"]), peaks, bandwidth, x, y) for point in points),
        description=_description(points, peaks, bandwidth),
    )


def _drawable(point: Json) -> bool:
    return all((number(point.get(name)) or 0) > 0 for name in ("intensity", "achieved"))


def _peaks(result: Json) -> dict[str, float]:
    """Multiply-adds a second by number format: what the profile was held against, and the other measured limits."""
    limits = result.get("limits") or {}
    found = {name: number(limits.get(f"{name}_multiply_adds_per_second")) for name in _FORMATS}
    held = number(at(result, "profile", "roofline", "peak_multiply_adds_per_second"))
    return {name: peak for name, peak in {**found, "fp32": held or found["fp32"]}.items() if peak and peak > 0}


def _decades(values: Iterable[float], start: float, end: float) -> Scale:
    """A log scale over whole half decades that holds all values."""
    logs = [math.log10(value) for value in values]
    low, high = math.floor(2 * min(logs) - 0.2) / 2, math.ceil(2 * max(logs) + 0.2) / 2
    return Scale(low=10**low, high=10**high, start=start, end=end, log=True)


def _roofs(peaks: dict[str, float], bandwidth: float, x: Scale, y: Scale) -> tuple[Roof, ...]:
    """Each number format's roof, the lowest first, each name above its line and clear of the name before."""
    roofs: list[Roof] = []
    for name, peak in sorted(peaks.items(), key=lambda item: item[1]):
        roof = _roof(name, peak, bandwidth, x, y, main=name == "fp32")
        below = roofs[-1].y if roofs else math.inf
        roofs.append(replace(roof, y=min(roof.y, below - _LINE)))
    return tuple(roofs)


def _roof(name: str, peak: float, bandwidth: float, x: Scale, y: Scale, *, main: bool) -> Roof:
    start = max(x.low, y.low / bandwidth)
    ridge = min(max(peak / bandwidth, start), x.high)
    path = f"{x(start)},{y(min(start * bandwidth, peak))} {x(ridge)},{y(peak)} {x.end},{y(peak)}"
    text = f"{name}: {_rate(peak)}"
    return Roof(text=text, path=path, x=x.end - 4, y=y(peak) - 5, main=main)


def _dot(point: Json, share: float | None, peaks: dict[str, float], bandwidth: float, x: Scale, y: Scale) -> Dot:
    limit = min(next(iter(peaks.values())), point["intensity"] * bandwidth)
    lines = [
        str(point["name"]),
        f"{wording.percent(share)} of the time" if share is not None else "",
        wording.rate(point["achieved"], "multiply-adds"),
        f"{wording.percent(point['achieved'] / limit)} of the limit",
        f"{wording.significant(point['intensity'])} multiply-adds per byte",
    ]
    radius = round(3.0 + 14.0 * math.sqrt(max(0.0, share or 0.0)), 1)
    return Dot(x=x(point["intensity"]), y=y(point["achieved"]), radius=radius, tip="\n".join(filter(None, lines)))


def _rate(value: float) -> str:
    """Multiply-adds a second for an axis that names the unit: `100 G`."""
    power = min(4, max(0, math.floor(math.log10(value) / 3 + 1e-9)))
    return f"{value / 1000**power:.3g} {' kMGT'[power]}".strip()


def _description(points: list[Json], peaks: dict[str, float], bandwidth: float) -> str:
    peak = next(iter(peaks.values()))
    bound = sum(point["intensity"] * bandwidth < peak for point in points)
    return (
        f"{len(points)} layers by multiply-adds per byte and multiply-adds a second, against the measured limits. "
        f"{bound} are limited by memory, {len(points) - bound} by arithmetic. The table of layers has the figures."
    )
