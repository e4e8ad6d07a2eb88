"""How a result is arranged for the page."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from hotlap.report import view


def test_candidates_stand_by_outcome_and_then_by_speed(sample: dict[str, Any]) -> None:
    ordered = view.in_order(sample["candidates"])
    assert [one["status"] for one in ordered] == sorted((one["status"] for one in ordered), key=view.STATUSES.index)
    passed = [one["speedup"]["estimate"] for one in ordered if one["status"] == "passed"]
    assert passed == sorted(passed, reverse=True)


def test_rows_begin_with_the_baseline_and_keep_every_reason(sample: dict[str, Any]) -> None:
    rows = view.rows(sample)
    assert rows[0]["name"] == "eager fp32"
    assert {row["name"]: row["reason"] for row in rows[1:]} == {
        one["name"]: one.get("reason", "") for one in sample["candidates"]
    }


def test_shares_of_the_roles_add_up(sample: dict[str, Any]) -> None:
    for candidate in view.explained(sample["candidates"]):
        assert sum(share for *_, share in candidate["shares"]) == pytest.approx(1.0)
        ends = [(part["start"], part["start"] + part["width"]) for part in candidate["segments"]]
        assert all(a[1] == pytest.approx(b[0], abs=0.02) for a, b in itertools.pairwise(ends))
        assert ends[-1][1] == pytest.approx(100, abs=0.05)


def test_roles_without_time_are_left_out() -> None:
    assert view.role_shares({"compute": 3.0, "quantize": 1.0, "layout": 0.0}) == [
        ("compute", "compute", 3.0, 0.75),
        ("quantize", "quantize and dequantize", 1.0, 0.25),
    ]
    assert view.role_shares({"compute": 0.0}) == []
    assert view.role_shares(None) == []


def test_the_worst_slice_is_first(sample: dict[str, Any]) -> None:
    slices = view.slices(sample)
    assert [one["label"] for one in slices[:2]] == ["8", "3"]
    assert [one["worst"] for one in slices] == [True, *[False] * 9]
    assert slices[0]["loss"].flips == "2 lost, 0 gained"


def test_before_and_after(sample: dict[str, Any]) -> None:
    facts = {what: (before, after) for what, before, after in view.facts(sample)}
    assert facts["Time of one call (median)"] == ("9.72 ms", "0.641 ms")
    assert facts["Calls a second (1 / median)"] == ("103", "1,560")
    assert facts["Size of the files"] == ("44.7 MB", "11.5 MB")
    sample["best"].pop("bytes")
    sample["baseline"].pop("bytes")
    assert "Size of the files" not in [what for what, _, _ in view.facts(sample)]


def test_loading_quotes_whatever_the_folder_is_called(sample: dict[str, Any]) -> None:
    sample["best"]["artifact"] = 'my "model"; it\'s'
    load = view.loading(sample)
    assert load
    assert 'hotlap.load("my \\"model\\"; it\'s")' in load["code"]
    assert load["verify"] == "hotlap verify 'my \"model\"; it'\"'\"'s'"
    sample["best"]["artifact"] = None
    assert view.loading(sample) is None


def test_settings_leave_out_what_is_not_known(vary: Any) -> None:
    groups = dict(view.settings(vary("minimal")))
    assert [what for what, _ in groups["Machine"]] == ["Processor", "Cores that are ours", "Memory"]
    assert "Versions" not in groups


def test_accuracy_says_no_more_than_was_judged(sample: dict[str, Any], vary: Any) -> None:
    def said(result: dict[str, Any]) -> dict[str, str]:
        return {what: value for what, value in view.accuracy(result) if value}

    full = said(sample)
    assert full["Judged by"] == "score lost"
    assert (full["Went wrong"], full["Came right"], full["Allowed"]) == ("5", "3", "0.01")
    assert "Its tolerance" not in full
    sample["best"].update(gate="equivalence", equivalence={"largest_relative_difference": 3e-6, "tolerance": 1e-3})
    assert said(sample)["Its tolerance"] == "0.0010"
    assert "Allowed" not in said(vary("agreement"))
    assert list(said(vary("without_winner"))) == ["Score", "Calibration examples"]
