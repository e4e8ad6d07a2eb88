"""The plot of speed against accuracy: where each candidate stands, in px. Pure; `plots.html` draws it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from hotlap.core import Json
from hotlap.report import wording
from hotlap.report.scales import Scale
from hotlap.report.wording import at, number

_TOP = 30.0  # room for the title of the accuracy axis
_LETTER = 6.9  # px a letter of a label takes at its size, a little more than it does
_STRIP_TITLE = 18.0
_LABELS = 9  # more than that is read in the table
_LONGEST_LABEL = 36
_NARROW = 500.0  # below it, only the baseline and the winner are named
_CUT = 3.0
"""Intervals are drawn to so many times beyond the fastest and the slowest candidate."""
_Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom, in px


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    x: float
    y: float
    anchor: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One candidate: its point, the ends of its intervals (None: not known), its look and the text of its tooltip.

    `look` is baseline, confirmed, chosen, passed, rejected or dropped. `beyond`: it lost more than the plot shows.
    """

    x: float
    y: float
    left: float | None
    right: float | None
    bottom: float | None
    look: str
    pareto: bool
    beyond: bool
    tip: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedPlot:
    """Everything that the drawing needs; positions in px within `width` x `height`.

    `area` is (left, top, right, bottom) of the part with an accuracy axis, or None where no candidate's accuracy is
    known; `strip` that of the part below it, for candidates of known speed only. `gate` is where the gate is.
    """

    width: float
    height: float
    area: _Box | None
    strip: _Box | None
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    gate: float | None
    gate_text: str
    unit: float
    marks: tuple[Mark, ...]
    strip_marks: tuple[Mark, ...]
    labels: tuple[Label, ...]
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A candidate with figures, before there is a scale: speed-up with interval, drop with upper end."""

    name: str
    speed: tuple[float, float, float]
    drop: float | None
    high: float | None
    look: str
    pareto: bool
    tip: str


def speed_plot(result: Json, *, width: float, height: float) -> SpeedPlot | None:
    """The plot at that size, or None where no candidate has a speed-up."""
    places = _places(result)
    if len(places) < 2:
        return None
    judged = [place for place in places if place.drop is not None]
    unjudged = [place for place in places if place.drop is None]
    has_area = len(judged) > 1  # the baseline's drop of 0 alone makes no axis
    left, right = 46.0, width - 14.0
    x = _speed_scale(places, left, right)
    lanes, strip_height = _lanes(unjudged if has_area else places, x)
    bottom = height - 44.0 if has_area else 20.0 + strip_height
    strip = None
    if lanes:
        top = bottom - strip_height if has_area else 8.0
        strip = (left, top, right, bottom)
    area = (left, _TOP, right, (strip[1] - 12.0 if strip else bottom)) if has_area else None
    max_drop = number(result.get("max_drop"))
    y = _drop_scale(judged, max_drop, area[1], area[3]) if area else None
    marks = tuple(_mark(place, x, y) for place in judged) if y else ()
    strip_marks = tuple(_strip_mark(place, x, strip, lanes) for place in lanes) if strip else ()
    gate = y(max_drop) if y and max_drop is not None and max_drop <= y.high else None
    return SpeedPlot(
        width=width,
        height=bottom + 44.0,
        area=area,
        strip=strip,
        x_ticks=tuple(Tick(at=x(value), text=f"{value:g}×") for value in x.ticks(int((right - left) / 56))),
        y_ticks=tuple(Tick(at=y(value), text=f"{value:.6g}") for value in y.ticks(7)) if y else (),
        gate=gate,
        gate_text=f"gate: at most {wording.allowed(max_drop)} lost",
        unit=x(1.0),
        marks=marks,
        strip_marks=strip_marks,
        labels=_labels(judged, marks, area) if area else (),
        description=_description(places, max_drop),
    )


def _places(result: Json) -> list[_Place]:
    """Baseline, candidates, and the winner once more as it was confirmed; what was never timed is left out."""
    pareto, max_drop = set(result.get("pareto") or []), result.get("max_drop")
    baseline, best = result["baseline"], result["best"]
    one = {"estimate": 1.0, "low": 1.0, "high": 1.0}
    found = [_place({**baseline, "speedup": one, "drop": {"estimate": 0.0}}, "baseline", False, max_drop)]
    for candidate in result.get("candidates") or []:
        if candidate["name"] != baseline["name"]:
            look = {"failed": "dropped", "skipped": "dropped"}.get(candidate["status"], candidate["status"])
            found.append(_place(candidate, look, candidate["name"] in pareto, max_drop))
    if result.get("confirmed") and best["name"] != baseline["name"]:
        found.append(_place(best, "confirmed", best["name"] in pareto, max_drop))
    return [place for place in found if place]


def _place(figures: Json, look: str, pareto: bool, max_drop: Json) -> _Place | None:
    estimate = number(at(figures, "speedup", "estimate"))
    if estimate is None or estimate <= 0:
        return None
    low, high = (number(at(figures, "speedup", end)) for end in ("low", "high"))
    drop, drop_high = (number(at(figures, "drop", end)) for end in ("estimate", "high"))
    if drop is None and figures.get("gate") == "equivalence":
        drop = 0.0
    return _Place(
        name=figures["name"],
        speed=(estimate, low if low and low > 0 else estimate, high if high and high > 0 else estimate),
        drop=drop,
        high=drop_high,
        look=look,
        pareto=pareto,
        tip=_tip(figures, look, max_drop),
    )


def _tip(figures: Json, look: str, max_drop: Json) -> str:
    name = f"{figures['name']} ({look})"
    ratio, loss = wording.ratio(figures.get("speedup")), wording.loss(figures.get("drop"), max_drop)
    speed = f"{ratio.estimate}×{f' ({ratio.interval})' if ratio.interval else ''}" if ratio else ""
    lost = f"lost {loss.estimate}{f', at most {loss.high}' if loss.high else ''}" if loss.estimate else ""
    if not loss.estimate:
        lost = "same numbers" if figures.get("gate") == "equivalence" else "accuracy not judged"
    return "\n".join(text for text in (name, wording.milliseconds(figures.get("median_ms")), speed, lost) if text)


def _speed_scale(places: Sequence[_Place], left: float, right: float) -> Scale:
    """Room for the intervals; one that goes far beyond all that was measured is cut off at the edge."""
    low = max(min(place.speed[1] for place in places), min(place.speed[0] for place in places) / _CUT)
    high = min(max(place.speed[2] for place in places), max(place.speed[0] for place in places) * _CUT)
    return Scale(low=min(low / 1.12, 0.9), high=max(high * 1.18, 1.15), start=left, end=right, log=True)


def _drop_scale(judged: Sequence[_Place], max_drop: float | None, top: float, bottom: float) -> Scale:
    """Room for all that passed and for the gate; what lost far more is drawn at the edge."""
    drops = [place.drop or 0.0 for place in judged]
    near = [place.high or place.drop or 0.0 for place in judged if place.look not in ("rejected", "dropped")]
    ends = [place.high or place.drop or 0.0 for place in judged]
    span = max([*near, 2.5 * (max_drop or 0.0)])
    high = min(max(ends), 1.15 * span) if span > 0 else max(ends)
    high = max(high, 1.15 * (max_drop or 0.0), 1e-6)
    low = min(0.0, *drops)
    return Scale(low=max(low, -high) - 0.14 * high, high=high, start=top, end=bottom)


def _mark(place: _Place, x: Scale, y: Scale) -> Mark:
    drop = place.drop or 0.0
    beyond = drop > y.high
    return Mark(
        x=x(place.speed[0]),
        y=y.within(drop),
        left=x.within(place.speed[1]) if place.look != "baseline" else None,
        right=x.within(place.speed[2]) if place.look != "baseline" else None,
        bottom=y.within(place.high) if place.high is not None and not beyond else None,
        look=place.look,
        pareto=place.pareto,
        beyond=beyond,
        tip=place.tip,
    )


def _lanes(places: Sequence[_Place], x: Scale) -> tuple[dict[_Place, int], float]:
    """Rows for points that have no accuracy, so that they don't cover one another, and the height they take."""
    ends: list[float] = []
    lanes: dict[_Place, int] = {}
    for place in sorted(places, key=lambda place: place.speed[1]):
        start = min(x.within(place.speed[1]), x(place.speed[0]) - 6)
        free = next((lane for lane, end in enumerate(ends) if end + 3 <= start), len(ends))
        ends[free : free + 1] = [max(x.within(place.speed[2]), x(place.speed[0]) + 6)]
        lanes[place] = free
    return lanes, min(170.0, _STRIP_TITLE + 8.0 + 13.0 * len(ends)) if lanes else 0.0


def _strip_mark(place: _Place, x: Scale, strip: _Box, lanes: dict[_Place, int]) -> Mark:
    count = max(lanes.values()) + 1
    step = (strip[3] - strip[1] - _STRIP_TITLE - 4.0) / count
    return Mark(
        x=x(place.speed[0]),
        y=round(strip[1] + _STRIP_TITLE + step * (lanes[place] + 0.5), 1),
        left=x.within(place.speed[1]),
        right=x.within(place.speed[2]),
        bottom=None,
        look=place.look,
        pareto=place.pareto,
        beyond=False,
        tip=place.tip,
    )


def _labels(places: Sequence[_Place], marks: Sequence[Mark], area: _Box) -> tuple[Label, ...]:
    """Names beside the points that matter most, each where it covers neither a point nor another name."""
    wide = area[2] - area[0] > _NARROW
    order = {"confirmed": 0, "baseline": 1, "chosen": 3}
    ranked = sorted(
        (pair for pair in zip(places, marks, strict=True) if pair[0].look in order or (wide and pair[0].pareto)),
        key=lambda pair: (order.get(pair[0].look, 2), -pair[0].speed[0]),
    )
    points = [(mark.x - 6, mark.y - 6, mark.x + 6, mark.y + 6) for mark in marks]
    whiskers = [(mark.x - 1, mark.y, mark.x + 1, mark.bottom) for mark in marks if mark.bottom is not None]
    taken: list[_Box] = []
    named: set[str] = set()
    labels: list[Label] = []
    for place, mark in ranked:
        if place.name in named or len(labels) == _LABELS:
            continue
        text = place.name if len(place.name) <= _LONGEST_LABEL else f"{place.name[: _LONGEST_LABEL - 1]}…"
        spots = [spot for spot in _spots(text, mark) if _inside(spot[1], area)]
        clear = [spot for spot in spots if _free(spot[1], [*taken, *points, *whiskers])]
        crossing = [spot for spot in spots if _free(spot[1], [*taken, *points])]
        for label, box in (clear or crossing)[:1]:
            labels.append(label)
            taken.append(box)
            named.add(place.name)
    return tuple(labels)


def _spots(text: str, mark: Mark) -> list[tuple[Label, _Box]]:
    """Where a point's name may stand, the best first, each with the box that it fills."""
    wide = len(text) * _LETTER
    spots = []
    for dx, dy, anchor in (
        (0.0, -12.0, "middle"),
        (12.0, 4.0, "start"),
        (-12.0, 4.0, "end"),
        (8.0, -13.0, "end"),
        (-8.0, -13.0, "start"),
        (8.0, 22.0, "end"),
        (-8.0, 22.0, "start"),
        (8.0, -27.0, "end"),
        (8.0, 36.0, "end"),
    ):
        x, y = round(mark.x + dx, 1), round(mark.y + dy, 1)
        start = x - wide * {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor]
        spots.append((Label(x=x, y=y, anchor=anchor, text=text), (start, y - 10.0, start + wide, y + 3.0)))
    return spots


def _inside(box: _Box, area: _Box) -> bool:
    return area[0] <= box[0] and box[2] <= area[2] and area[1] <= box[1] and box[3] <= area[3]


def _free(box: _Box, others: Sequence[_Box]) -> bool:
    return not any(a[0] < box[2] and box[0] < a[2] and a[1] < box[3] and box[1] < a[3] for a in others)


def _description(places: Sequence[_Place], max_drop: float | None) -> str:
    """What the plot shows, for who can't see it."""
    others = [place for place in places if place.look not in ("baseline", "confirmed")]
    fastest = max(places, key=lambda place: place.speed[0])
    gate = f" The gate allows a loss of {wording.allowed(max_drop)}." if max_drop is not None else ""
    slower = sum(place.speed[0] < 1 for place in others)
    return (
        f"{len(others)} candidates by speed-up and accuracy lost; slower than the baseline: {slower}. "
        f"The fastest is {fastest.name}: {wording.significant(fastest.speed[0])} times the baseline's speed.{gate} "
        "The table below has every figure."
    )


def lowest_and_highest(result: Json) -> tuple[float, float]:
    """The ends of all speed-ups' intervals, for the small bars of the table; at least 0.9 and 1.15 around 1."""
    places = _places(result)
    scale = _speed_scale(places, 0.0, 1.0) if places else None
    return (scale.low, scale.high) if scale and math.isfinite(scale.high) else (0.9, 1.15)
