"""The curves of a proof: within their frame, honest about intervals and about runs that diverged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hotlap.report.curves_plot import curves_plot

Vary = Callable[[str], dict[str, Any]]


def points(text: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in text.split())]


def test_curves_and_bands_lie_within_the_frame(vary: Vary) -> None:
    plot = curves_plot(vary("tuning"), width=960, height=380)
    assert plot is not None
    left, top, right, bottom = plot.area
    for curve in plot.curves:
        assert len(points(curve.line)) == 30
        for x, y in points(curve.line) + points(curve.band):
            assert left <= x <= right
            assert top <= y <= bottom
    assert plot.x_ticks
    assert plot.y_ticks
    assert plot.tail is not None


def test_the_band_is_the_interval_over_seeds(vary: Vary) -> None:
    result = vary("tuning")
    flat = [[1.0 + 0.1 * seed] * 30 for seed in range(5)]
    result["proof_details"]["curves"].update(own=flat, tuned=flat)
    plot = curves_plot(result, width=960, height=380)
    assert plot is not None
    own = plot.curves[0]
    (_, mean), band = points(own.line)[0], points(own.band)
    # t(4 degrees) x sd of 1.0, 1.1, .. 1.4 / sqrt(5) = 0.196 of loss, at the scale of the axis.
    first, second = plot.y_ticks[0], plot.y_ticks[1]
    per_loss = abs(first.at - second.at) / abs(float(first.text) - float(second.text))
    assert abs((mean - band[0][1]) / per_loss - 0.196) < 0.002


def test_where_a_run_diverged_there_is_no_curve(vary: Vary) -> None:
    result = vary("tuning")
    result["proof_details"]["curves"]["tuned"][2][10:] = [None] * 20
    plot = curves_plot(result, width=350, height=340)
    assert plot is not None
    assert [len(points(curve.line)) for curve in plot.curves] == [30, 10]


def test_without_a_proof_there_is_no_plot(sample: dict[str, Any], vary: Vary) -> None:
    assert curves_plot(sample, width=960, height=380) is None
    result = vary("tuning")
    result["proof_details"]["curves"] = None
    assert curves_plot(result, width=960, height=380) is None
