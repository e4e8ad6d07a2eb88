"""The loss curves of a proof: mean over seeds with its interval, of the own set-up and the tuned one, in px. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from hotlap.core import Json
from hotlap.report import wording
from hotlap.report.scales import Scale
from hotlap.report.speed_plot import Tick
from hotlap.report.wording import at

_T_95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26, 10: 2.23, 11: 2.20}
"""Student's t, two-sided 95%, by degrees of freedom; the page must not load scipy."""
_LOG_FROM = 20.0
"""Losses whose largest is so many times the least are drawn on a log scale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One side: `line` are its points, `band` the outline of the interval; as SVG takes them."""

    look: str
    line: str
    band: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvesPlot:
    """Everything that the drawing needs; positions in px. `tail` is where the part begins that was judged, or None."""

    width: float
    height: float
    area: tuple[float, float, float, float]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    curves: tuple[Curve, ...]
    tail: float | None
    log: bool
    description: str


def curves_plot(result: Json, *, width: float, height: float) -> CurvesPlot | None:
    """The plot at that size, or None where the result holds no curves of two seeds or more."""
    proof = result.get("proof_details")
    found, trials = at(proof, "curves"), at(proof, "trials")
    if not found or not trials or len(found["own"]) < 2 or len(found["tuned"]) < 2:
        return None
    sides = [("own", str(proof["own"])), ("tuned", str(trials[-1]["name"]))]
    bands = {look: [_interval(values) for values in zip(*found[look], strict=True)] for look, _ in sides}
    ends = [end for points in bands.values() for point in points if point for end in (point[0], point[2])]
    if not ends:
        return None
    left, right, top, bottom = 54.0, width - 26.0, 30.0, height - 44.0
    log = min(ends) > 0 and max(ends) > _LOG_FROM * min(ends)
    low, high = _room(min(ends), max(ends), log)
    first, last = 0.0, float(found["examples"][-1] + found["examples"][0])
    x = Scale(low=first, high=last, start=left, end=right)
    y = Scale(low=low, high=high, start=bottom, end=top, log=log)
    return CurvesPlot(
        width=width,
        height=height,
        area=(left, top, right, bottom),
        x_ticks=tuple(Tick(at=x(value), text=wording.count(value)) for value in x.ticks(int((right - left) / 80))),
        y_ticks=tuple(Tick(at=y(value), text=f"{value:.3g}") for value in y.ticks(7)),
        curves=tuple(_curve(look, name, found["examples"], bands[look], x, y) for look, name in sides),
        tail=x(found["tail_from"]) if proof["kind"] == "short" else None,
        log=log,
        description=f"Training loss by examples seen, the mean of {len(found['own'])} seeds with its 95% interval.",
    )


def _interval(values: Sequence[float | None]) -> tuple[float, float, float] | None:
    """(low, mean, high) over seeds; None where a run had no finite loss there."""
    known = [value for value in values if value is not None]
    if len(known) < len(values) or len(known) < 2:
        return None
    half = _T_95[min(len(known) - 1, 11)] * stdev(known) / math.sqrt(len(known))
    return fmean(known) - half, fmean(known), fmean(known) + half


def _room(low: float, high: float, log: bool) -> tuple[float, float]:
    if log:
        return low / 1.1, high * 1.1
    space = 0.05 * ((high - low) or abs(high) or 1.0)
    return low - space, high + space


def _curve(
    look: str,
    name: str,
    examples: Sequence[float],
    points: Sequence[tuple[float, float, float] | None],
    x: Scale,
    y: Scale,
) -> Curve:
    drawn = [(x(place), *point) for place, point in zip(examples, points, strict=True) if point]
    line = " ".join(f"{px},{y(mean)}" for px, _, mean, _ in drawn)
    there = [f"{px},{y.within(high)}" for px, _, _, high in drawn]
    back = [f"{px},{y.within(low)}" for px, low, _, _ in reversed(drawn)]
    return Curve(look=look, line=line, band=" ".join([*there, *back]), name=name)
