"""The roofline: roofs where they were measured, layers under or over them as their figures are."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest

from hotlap.report.roofline_plot import RooflinePlot, roofline_plot


def _drawn(result: dict[str, Any]) -> RooflinePlot:
    plot = roofline_plot(result, width=960, height=420)
    assert plot
    return plot


def _height(path: str, x: float) -> float:
    """A roof's position above `x`, read off its drawn line."""
    points = [tuple(map(float, point.split(","))) for point in path.split()]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 <= x <= x1:
            return y0 + (y1 - y0) * (x - x0) / max(x1 - x0, 1e-9)
    raise AssertionError("outside the roof")


def test_layers_stand_under_the_roof_as_far_as_they_are_from_the_limit(sample: dict[str, Any]) -> None:
    plot = _drawn(sample)
    roof = next(roof for roof in plot.roofs if roof.main)
    decade = plot.y_ticks[0].at - plot.y_ticks[1].at
    layers = {layer["name"]: layer for layer in sample["profile"]["layers"]}
    for dot in plot.dots:
        share = layers[dot.tip.split("\n")[0]]["share_of_limit"]
        below = (dot.y - _height(roof.path, dot.x)) / decade
        assert 10**-below == pytest.approx(share, rel=0.1)


def test_roofs_are_named_from_low_to_high_without_overlap(sample: dict[str, Any]) -> None:
    plot = _drawn(sample)
    assert [roof.text for roof in plot.roofs] == ["fp32: 180 G", "bf16: 430 G", "int8: 810 G"]
    heights = [roof.y for roof in plot.roofs]
    assert all(low - high >= 13 for low, high in itertools.pairwise(heights))


def test_slower_layers_are_larger(sample: dict[str, Any]) -> None:
    plot = _drawn(sample)
    shares = {layer["name"]: layer["share"] for layer in sample["profile"]["layers"]}
    ordered = sorted(plot.dots, key=lambda dot: shares[dot.tip.split("\n")[0]])
    assert [dot.radius for dot in ordered] == sorted(dot.radius for dot in ordered)
    assert all(math.isfinite(dot.radius) for dot in ordered)


@pytest.mark.parametrize("missing", ["profile", "roofline", "points", "bytes_per_second"])
def test_nothing_is_drawn_without_figures(missing: str, sample: dict[str, Any]) -> None:
    holder = {"profile": sample, "roofline": sample["profile"]}.get(missing, sample["profile"]["roofline"])
    holder[missing] = None
    assert roofline_plot(sample, width=960, height=420) is None


def test_a_layer_without_arithmetic_is_left_out(sample: dict[str, Any]) -> None:
    count = len(_drawn(sample).dots)
    sample["profile"]["roofline"]["points"][0]["achieved"] = 0.0
    assert len(_drawn(sample).dots) == count - 1
