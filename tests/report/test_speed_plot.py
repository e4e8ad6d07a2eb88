"""The plot of speed against accuracy: everything is inside, nothing hides, and better is up and to the right."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotlap.report.speed_plot import Mark, SpeedPlot, speed_plot

SIZES = ((960.0, 470.0), (350.0, 430.0))


def _drawn(result: dict[str, Any], size: tuple[float, float] = SIZES[0]) -> SpeedPlot:
    plot = speed_plot(result, width=size[0], height=size[1])
    assert plot
    return plot


def _mark(plot: SpeedPlot, name: str, look: str) -> Mark:
    return next(mark for mark in plot.marks if mark.tip.startswith(f"{name} ({look})"))


@pytest.mark.parametrize("size", SIZES)
def test_everything_is_inside(variation: dict[str, Any], size: tuple[float, float]) -> None:
    plot = speed_plot(variation, width=size[0], height=size[1])
    if plot is None:
        return
    for marks, frame in ((plot.marks, plot.area), (plot.strip_marks, plot.strip)):
        for mark in marks:
            assert frame
            assert frame[0] <= mark.x <= frame[2]
            assert frame[1] <= mark.y <= frame[3]
            assert mark.bottom is None or mark.y <= mark.bottom <= frame[3]
            assert mark.left is None or (mark.right and frame[0] <= mark.left <= mark.x <= mark.right <= frame[2])
    frames = [frame for frame in (plot.area, plot.strip) if frame]
    assert all(frame[3] < plot.height for frame in frames)
    assert plot.area is None or plot.strip is None or plot.area[3] < plot.strip[1]


def test_who_was_never_timed_is_not_drawn(vary: Any) -> None:
    assert speed_plot(vary("all_failed"), width=960, height=470) is None


def test_every_timed_candidate_is_drawn_once(sample: dict[str, Any]) -> None:
    plot = _drawn(sample)
    timed = [one["name"] for one in sample["candidates"] if "speedup" in one]
    drawn = [mark.tip.split(" (")[0] for mark in (*plot.marks, *plot.strip_marks)]
    assert len(drawn) == len(timed) + 2  # and the baseline, and the winner once more as it was confirmed
    assert len(plot.strip_marks) == 2


def test_better_is_up_and_to_the_right(sample: dict[str, Any]) -> None:
    plot = _drawn(sample)
    baseline = _mark(plot, "eager fp32", "baseline")
    winner = _mark(plot, "openvino int8 (nncf, per channel)", "confirmed")
    slow = _mark(plot, "onnxruntime int8 (dynamic)", "rejected")
    worse = _mark(plot, "onnxruntime int8 (QDQ, percentile)", "rejected")
    assert slow.x < baseline.x == plot.unit < winner.x
    assert baseline.y < winner.y < worse.y
    assert plot.gate is not None
    assert winner.bottom is not None
    assert worse.bottom is not None
    assert winner.bottom < plot.gate < worse.bottom


def test_one_far_off_is_at_the_edge_and_says_so(sample: dict[str, Any]) -> None:
    plot = _drawn(sample)
    far = _mark(plot, "onnxruntime int8 (QDQ, entropy)", "rejected")
    assert plot.area
    assert far.beyond
    assert far.y == plot.area[3]
    assert "lost 0.0850, at most 0.1070" in far.tip
    assert [mark.beyond for mark in plot.marks].count(True) == 1


def test_an_interval_that_tells_nothing_does_not_squeeze_the_others(sample: dict[str, Any]) -> None:
    slow = next(one for one in sample["candidates"] if one["name"] == "onnxruntime int8 (dynamic)")
    slow["speedup"].update(low=slow["speedup"]["estimate"] / 500, high=slow["speedup"]["estimate"] * 500)
    after = _drawn(sample)
    assert after.area
    mark = _mark(after, "onnxruntime int8 (dynamic)", "rejected")
    assert (mark.left, mark.right) == (after.area[0], after.area[2])
    # Of a scale from 1/3 of the slowest to 3 times the fastest, what was measured has a third of the width at least.
    xs = [one.x for one in after.marks]
    assert max(xs) - min(xs) > (after.area[2] - after.area[0]) / 3


def test_names_cover_neither_each_other_nor_points(vary: Any) -> None:
    plot = _drawn(vary("many"))
    boxes = []
    for label in plot.labels:
        wide = len(label.text) * 6.9
        start = label.x - wide * {"start": 0.0, "middle": 0.5, "end": 1.0}[label.anchor]
        boxes.append((start, label.y - 10, start + wide, label.y + 3))
    for a, b in itertools.combinations(boxes, 2):
        assert not (a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3])
    for box, mark in itertools.product(boxes, plot.marks):
        assert not (box[0] < mark.x < box[2] and box[1] < mark.y < box[3])
    assert {"eager fp32", "openvino int8 (nncf, per channel)"} <= {label.text for label in plot.labels}


def test_without_accuracy_there_is_only_speed(vary: Any) -> None:
    plot = _drawn(vary("agreement"))
    assert plot.area is None
    assert plot.gate is None
    assert plot.marks == ()
    assert len({(mark.x, mark.y) for mark in plot.strip_marks}) == len(plot.strip_marks)


def test_says_in_words_what_it_shows(sample: dict[str, Any]) -> None:
    assert _drawn(sample).description == (
        "19 candidates by speed-up and accuracy lost; slower than the baseline: 1. The fastest is openvino int8 "
        "(nncf, mixed): 15.4 times the baseline's speed. The gate allows a loss of 0.01. The table below has every "
        "figure."
    )


POSITIVE = st.floats(1e-3, 1e3)
DROPS = st.none() | st.floats(-1, 1)


@given(
    rows=st.lists(st.tuples(POSITIVE, POSITIVE, DROPS, DROPS), min_size=1, max_size=20),
    max_drop=st.sampled_from([0.0, 0.01, 5.0]),
)
def test_any_figures_can_be_drawn(rows: list[tuple[float, float, float | None, float | None]], max_drop: float) -> None:
    candidates = [
        {
            "name": str(index),
            "status": "passed",
            "speedup": {"estimate": speed, "low": min(speed, other), "high": max(speed, other)},
            "drop": {"estimate": drop, "high": None if high is None or drop is None else max(drop, high)},
        }
        for index, (speed, other, drop, high) in enumerate(rows)
    ]
    baseline = {"name": "eager", "median_ms": 1.0}
    result = {"baseline": baseline, "best": baseline, "candidates": candidates, "max_drop": max_drop}
    for size in SIZES:
        plot = _drawn(result, size)
        assert len(plot.marks) + len(plot.strip_marks) == len(rows) + 1
