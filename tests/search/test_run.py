"""What a resumed run takes from the journal: confirmations as they were, and an order that is still true."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hotlap.core import Candidate, Interval, to_json
from hotlap.search import result, run
from hotlap.search.journal import Journal
from hotlap.search.trial import judge_selection


def record(name: str, bytes_: int) -> dict[str, Any]:
    candidate = Candidate(runtime="onnxruntime", device="cpu", threads=1, name=name, options=(("static", name),))
    speedup = to_json(Interval(estimate=2.0, low=1.9, high=2.1))
    return {
        "key": candidate.key, "candidate": to_json(candidate), "status": "passed", "speedup": speedup,
        "median_ms": 1.0, "bytes": bytes_,
    }  # fmt: skip


def order(journal: Journal, records: list[dict[str, Any]]) -> list[str]:
    # By size, so that nothing has to be timed.
    setting: Any = SimpleNamespace(objective="size")
    ranked = run._ranked(setting, {r["key"]: r for r in records}, journal)
    return [r["candidate"]["name"] for r in ranked]


@pytest.fixture
def journal(tmp_path: Path) -> Any:
    journal = Journal(tmp_path / "journal.jsonl")
    yield journal
    journal.close()


def test_a_confirmation_comes_back_from_the_journal_as_it_was(journal: Journal) -> None:
    golden = [np.array([-np.inf, 1.5, np.nan], np.float32), np.array(3, np.int64), np.zeros((0, 2), np.float16)]
    stored = {"key": "a", "passed": True, "evidence": {"golden": [{"inputs": golden}], "scores": None}}
    journal.append("confirmation", **run._storable(stored))
    found = run._restored(journal.events[-1])
    for got, want in zip(found["evidence"]["golden"][0]["inputs"], golden, strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)
    assert found["evidence"]["scores"] is None
    assert found["passed"] is True


def test_an_order_holds_until_more_was_tried(journal: Journal) -> None:
    small, large, new = record("small", 1), record("large", 3), record("new", 2)
    assert order(journal, []) == []  # a first run whose budget ended before it tried any
    for tried in (large, small):
        journal.append("candidate", **tried)
    assert order(journal, [small, large]) == ["small", "large"]
    assert order(journal, [small, large, new]) == ["small", "large"]
    journal.append("candidate", **new)
    assert order(journal, [small, large, new]) == ["small", "new", "large"]


def test_what_was_confirmed_keeps_its_share_of_the_error_allowance(journal: Journal) -> None:
    small, large = record("small", 1), record("large", 3)
    journal.append("candidate", **large)
    assert order(journal, [large]) == ["large"]
    journal.append("confirmation", key=large["key"], passed=False)
    journal.append("candidate", **small)
    assert order(journal, [small, large]) == ["large", "small"]


def test_the_line_for_confirmation_goes_by_what_selection_data_foresees(journal: Journal) -> None:
    """Three of 1,000 lost may hold, and where it does not, none lost stands behind it at a later try's confidence."""
    study = {"selection_scores": np.ones(1000), "confirmation": 1000}
    setting: Any = SimpleNamespace(study=study, max_drop=0.01)
    records = []
    for name, bytes_, lost in (("small but lossy", 1, 3), ("large", 2, 0)):
        found = record(name, bytes_)
        scores = np.ones(1000)
        scores[:lost] = 0
        found |= judge_selection(
            setting,
            Candidate(runtime="openvino", threads=1, precision="int8", same_numbers=False, name=name),
            {"scores": scores, "differences": {}},
        )
        journal.append("candidate", **found)
        records.append(found)
    assert [one["status"] for one in records] == ["passed", "passed"]
    assert records[0]["chances"][0] < 0.9 < records[1]["chances"][1]
    assert order(journal, records) == ["small but lossy", "large"]


def test_what_gives_the_numbers_of_one_that_failed_is_not_confirmed() -> None:
    def tried(name: str, threads: int) -> dict[str, Any]:
        candidate = Candidate(runtime=name, threads=threads, name=f"{name} {threads}")
        return {"key": candidate.key, "candidate": to_json(candidate)}

    first, twin, other = tried("openvino", 2), tried("openvino", 1), tried("onnxruntime", 2)
    lost, slow = {**first, "verdict": {"passed": False}}, {**first, "verdict": {"passed": True}}

    def line(confirmed: dict[str, Any], earlier: tuple[str, ...] = ()) -> list[str]:
        confirmations: list[dict[str, Any]] = []
        names = []
        for one in run._worth_confirming([first, twin, other], earlier, confirmations):
            names.append(one["candidate"]["name"])
            confirmations.append(confirmed if one is first else {**one, "verdict": None})
        return names

    assert line(lost) == ["openvino 2", "onnxruntime 2"]
    assert line(slow) == ["openvino 2", "openvino 1", "onnxruntime 2"]
    assert line(lost, earlier=(twin["key"],)) == ["openvino 2", "openvino 1", "onnxruntime 2"]


@pytest.mark.parametrize(("lost", "status"), [(0, "passed"), (5, "passed"), (25, "rejected")])
def test_what_may_yet_be_confirmed_is_worth_a_try(lost: int, status: str) -> None:
    """Five of 1,000 lost would be refused if other examples were just like these; they may be kinder."""
    scores = np.ones(1000)
    scores[:lost] = 0
    setting: Any = SimpleNamespace(study={"selection_scores": np.ones(1000), "confirmation": 1000}, max_drop=0.01)
    candidate = Candidate(runtime="openvino", threads=1, precision="int8", same_numbers=False, name="x")
    found = judge_selection(setting, candidate, {"scores": scores, "differences": {}})
    assert found["status"] == status
    assert ("distance" in found) == (lost > 0)
    assert ("chances in 100" in found["reason"]) == (lost == 5)
    told = result.row({**record("x", 1), **found}, status=None, reason=None, operations=None, limit_ms=None)
    assert told["status"] == ("rejected" if lost else "passed")
