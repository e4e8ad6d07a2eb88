"""Evidence: read as it was written, and anything else refused by field."""

from __future__ import annotations

import json

import pytest

from hotlap.artifact import evidence
from hotlap.core import Drop, Start, Verdict, to_json
from hotlap.errors import ArtifactRefused

START = Start(baseline_ms=(2.0, 2.1), candidate_ms=(1.0, 1.1))
DROP = Drop(estimate=0.0, high=0.01, confidence=0.95, examples=2, lost=0, gained=0)
VERDICT = Verdict(passed=True, rule="drop", reason="it is", drop=DROP, slices={"a": DROP}, worst_slice="a")
WHOLE = {
    "starts": [to_json(START)],
    "original_scores": [1.0, 0.0],
    "scores": [1, 0.5],
    "original_rows": None,
    "rows": None,
    "slices": ["a", "b"],
    "differences": {"y": 0.001},
    "same_class": 2,
    "compared": 2,
    "max_drop": 0.01,
    "confidence": 0.95,
    "noise_floor": 0.02,
    "verdict": to_json(VERDICT),
    "speedup": {"estimate": 2.0, "low": 1.9, "high": 2.1},
}


def test_read_as_written():
    found = evidence.parse(json.dumps(WHOLE).encode())
    assert found.starts == (START,)
    assert (found.original_scores, found.scores, found.slices) == ([1.0, 0.0], [1.0, 0.5], ["a", "b"])
    assert (found.same_class, found.compared, found.max_drop, found.confidence) == (2, 2, 0.01, 0.95)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"scores": [1.0]}, "original_scores and scores are not of the same examples"),
        ({"scores": None}, "original_scores and scores are not of the same examples"),
        ({"rows": [1]}, "original_rows and rows are not of the same examples"),
        ({"slices": ["a"]}, "slices and scores are not of the same examples"),
        ({"slices": [1, 2]}, "slices holds what is no label"),
        ({"scores": [1.0, "x"]}, "scores is 'x', not a number"),
        ({"scores": {"a": 1}}, "scores is an object, not a list"),
        ({"starts": [{"baseline_ms": [1.0], "candidate_ms": []}]}, r"starts\[0\] has no pairs of times"),
        ({"starts": [{"baseline_ms": [0], "candidate_ms": [1]}]}, r"starts\[0\].baseline_ms is 0, not a"),
        ({"starts": [{"baseline_ms": [1.0]}]}, r"starts\[0\] has no 'candidate_ms'"),
        ({"same_class": 3}, "same_class is 3, not a whole number from 0 to 2"),
        ({"compared": -1}, "compared is -1, not a whole number"),
        ({"confidence": 2}, "confidence is 2, not a number from 0.95 to 0.9999"),
        ({"differences": [1]}, "differences is a list, not an object"),
    ],
)
def test_anything_else_is_refused_by_field(change, reason):
    with pytest.raises(ArtifactRefused, match=f"evidence.json: {reason}"):
        evidence.parse(json.dumps({**WHOLE, **change}).encode())


@pytest.mark.parametrize("name", sorted(set(WHOLE) - {"noise_floor", "verdict", "speedup"}))
def test_each_field_is_needed_and_may_hold_anything_without_a_crash(name):
    with pytest.raises(ArtifactRefused, match=f"evidence.json: there is no '{name}'"):
        evidence.parse(json.dumps({key: value for key, value in WHOLE.items() if key != name}).encode())
    for value in (None, True, -1, 1e300, 10**400, "x", [], [[]], [{}], {}, {"a": []}, [None]):
        try:
            evidence.parse(json.dumps({**WHOLE, name: value}).encode())
        except ArtifactRefused as error:
            assert str(error).startswith("evidence.json")  # noqa: PT017


def test_a_verdict_is_read_as_it_was_written():
    assert evidence.verdict(to_json(VERDICT)) == VERDICT


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"passed": "yes"}, "verdict.passed is 'yes', not true or false"),
        ({"drop": {}}, "verdict.drop has no 'estimate'"),
        ({"slices": {"a": 1}}, r"verdict.slices\['a'\] is 1, not an object"),
        ({"slices": None}, "verdict.slices is None, not an object"),
        ({"extra": 1}, "verdict has 'extra', which this format does not know"),
    ],
)
def test_a_verdict_that_is_none_is_refused_by_field(change, reason):
    with pytest.raises(ArtifactRefused, match=reason):
        evidence.verdict({**to_json(VERDICT), **change})
