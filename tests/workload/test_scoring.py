"""Scores, metrics and slices are checked as they come in."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hotlap.errors import WorkloadError
from hotlap.workload.scoring import metric_value, score_batch, slices_batch

OUTPUTS, TARGETS = torch.eye(3), torch.tensor([0, 1, 1])


@pytest.mark.parametrize(
    "score",
    [
        "lambda o, t: (o.argmax(1) == t)",
        "lambda o, t: (o.argmax(1) == t).float()",
        "lambda o, t: (o.argmax(1) == t).long()",
        "lambda o, t: (o.argmax(1) == t).bfloat16()",
        "lambda o, t: (o.argmax(1) == t).numpy()",
        "lambda o, t: (o.argmax(1) == t) * nn.Parameter(torch.ones(3))",
    ],
)
def test_one_number_an_example(linear, score):
    scores = score_batch(linear(f"score={score}"), OUTPUTS, TARGETS)
    assert scores.dtype == np.float64
    assert scores.tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (
            "lambda o, t: (o.argmax(1) == t).float().mean()",
            r"`score` gave shape \[\]; wanted is \[3\], one number an example; leave the mean or sum over the",
        ),
        ("lambda o, t: o", r"`score` gave shape \[3, 3\]; wanted is \[3\], one number an example$"),
        ("lambda o, t: o[:2, 0]", r"`score` gave shape \[2\]; wanted is \[3\]"),
        ("lambda o, t: 0.5", r"`score` must give a Tensor with one number an example; it gave a float"),
        ("lambda o, t: [1.0, 1.0, 0.0]", r"`score` must give a Tensor with one number an example; it gave a list"),
        (
            "lambda o, t: torch.tensor([0, 0 / 1, float('nan')])",
            r"`score` gave NaN for example 2 of a batch; it must",
        ),
        ("lambda o, t: torch.tensor([1, float('inf'), 0])", r"`score` gave Inf for example 1 of a batch"),
        ("lambda o, t: t.numpy().astype(str)", r"`score` must give numbers; it gave <U21"),
        (
            "lambda o, t: o.no_such_method()",
            r"`score` raised AttributeError: .*no_such_method.* \(.*mine\.py:6: score=lambda o, t: o\.no_such",
        ),
    ],
)
def test_scores_that_are_none(linear, score, message):
    with pytest.raises(WorkloadError, match=message):
        score_batch(linear(f"score={score}"), OUTPUTS, TARGETS)


def test_the_examples_own_place_is_named(linear):
    it = linear("score=lambda o, t: o[:, 0].log() * 0")
    with pytest.raises(WorkloadError, match=r"`score` gave NaN for example 41; it must give a finite number"):
        score_batch(it, OUTPUTS, TARGETS, rows=[40, 41, 42])


def test_rows_for_a_metric(linear):
    it = linear("score=lambda o, t: torch.stack([o.argmax(1), t], 1), metric=lambda rows: sum(a == b for a, b in rows)")
    rows = score_batch(it, OUTPUTS, TARGETS)
    assert rows == [(0, 0), (1, 1), (2, 1)]
    assert metric_value(it, rows) == 2.0


def test_objects_for_a_metric(linear):
    it = linear("score=lambda o, t: [{'boxes': int(v)} for v in t], metric=len")
    rows = score_batch(it, OUTPUTS, TARGETS)
    assert rows == [{"boxes": 0}, {"boxes": 1}, {"boxes": 1}]
    assert metric_value(it, rows) == 3.0


def test_numbers_for_a_metric(linear):
    assert score_batch(linear("score=lambda o, t: t, metric=max"), OUTPUTS, TARGETS) == [0, 1, 1]


def test_without_a_metric_the_figure_is_the_mean(linear):
    assert metric_value(linear(""), [0.0, 1.0, 1.0, 0.0]) == 0.5


@pytest.mark.parametrize(
    ("score", "message"),
    [
        ("lambda o, t: t.sum()", r"`score` gave shape \[\]; wanted is \[3\]"),
        ("lambda o, t: o[:2]", r"`score` gave shape \[2, 3\]; wanted is \[3\]"),
        ("lambda o, t: o * float('nan')", r"`score` gave NaN for example 0 of a batch"),
        ("lambda o, t: [1, 2]", r"`score` gave 2 rows for 3 examples"),
        ("lambda o, t: 'text'", r"`score` must give one row an example \(a Tensor or a list\); it gave a str"),
    ],
)
def test_rows_that_are_none(linear, score, message):
    with pytest.raises(WorkloadError, match=message):
        score_batch(linear(f"score={score}, metric=len"), OUTPUTS, TARGETS)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("lambda rows: float('nan')", r"`metric` gave nan for 2 rows; it must give a finite number"),
        ("lambda rows: rows", r"`metric` must give one number; it gave a list"),
        ("lambda rows: 1 / 0", r"`metric` raised ZeroDivisionError: .*mine\.py:6: "),
    ],
)
def test_metrics_that_are_none(linear, metric, message):
    with pytest.raises(WorkloadError, match=message):
        metric_value(linear(f"score=len, metric={metric}"), [1, 2])


def test_slices(linear):
    it = linear("slices=lambda inputs, targets: ['even' if v % 2 == 0 else 'odd' for v in targets]")
    assert slices_batch(it, torch.ones(3, 4), TARGETS) == ["even", "odd", "odd"]


@pytest.mark.parametrize(
    ("slices", "message"),
    [
        ("lambda i, t: ['a']", r"`slices` gave 1 labels for 3 examples"),
        ("lambda i, t: 'abc'", r"`slices` must give a list with one label an example; it gave a str"),
        ("lambda i, t: None", r"`slices` must give a list with one label an example; it gave a NoneType"),
        ("lambda i, t: t", r"`slices` must give strings; it gave a Tensor"),
        ("lambda i, t: t['x']", r"`slices` raised TypeError: .*mine\.py:6: "),
    ],
)
def test_slices_that_are_none(linear, slices, message):
    with pytest.raises(WorkloadError, match=message):
        slices_batch(linear(f"slices={slices}"), torch.ones(3, 4), TARGETS)
