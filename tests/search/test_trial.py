"""What is not worth scoring: going by its time alone, once there is better."""

from types import SimpleNamespace
from typing import Any

import pytest

from hotlap.core import Candidate, Interval, Step, to_json
from hotlap.search import trial
from hotlap.search.strategy import Row

STUDY = {"metric": False, "sliced": False}
SETTING: Any = SimpleNamespace(objective="latency", study=STUDY)


def leader(runtime: str, speedup: float, chance: float = 1.0, threads: int = 2) -> Row:
    candidate = Candidate(
        runtime=runtime, threads=threads, steps=(Step(technique="nncf_int8"),), precision="int8", same_numbers=False,
        name=f"{runtime} {threads}",
    )  # fmt: skip
    interval = Interval(estimate=speedup, low=speedup, high=speedup)
    return Row(candidate=candidate, status="passed", speedup=interval, median_ms=10 / speedup, chances=(chance,) * 3)


def timed(speedup: float) -> dict[str, Any]:
    interval = Interval(estimate=speedup, low=speedup, high=speedup)
    return {"speedup": to_json(interval), "median_ms": 10 / speedup}


def reason(speedup: float, *leaders: Row, twin: Any = None, setting: Any = SETTING) -> str | None:
    record = timed(speedup)
    assert trial._is_out(setting, record, leaders, twin) == (record.get("status") == "dropped")
    return record.get("reason")


def test_what_is_slower_than_the_original_or_far_behind_is_out() -> None:
    assert reason(0.9) == "slower than the original (0.90x)"
    assert reason(2.0, leader("openvino", 5.5)) == "5 ms a call, far behind 1.82 ms, so not scored"
    assert reason(3.0, leader("openvino", 5.5)) is None


def test_once_two_are_likely_to_be_confirmed_what_is_slower_than_both_is_out() -> None:
    fast, spare = leader("openvino", 5.0), leader("onnxruntime", 4.0)
    wanted = "3.33 ms a call; two that take 2.5 ms or less are likely to be confirmed, so not scored"
    assert reason(3.0, fast, spare) == wanted
    assert reason(3.9, fast, spare) is None
    assert reason(3.0, fast, leader("onnxruntime", 4.0, chance=0.6)) is None
    assert reason(3.0, fast, leader("openvino", 4.0, threads=1)) is None


@pytest.mark.parametrize("unforeseen", ["metric", "sliced"])
def test_what_only_confirming_judges_is_not_taken_as_likely(unforeseen: str) -> None:
    setting: Any = SimpleNamespace(objective="latency", study={**STUDY, unforeseen: True})
    assert reason(3.0, leader("openvino", 5.0), leader("onnxruntime", 4.0), setting=setting) is None


def test_another_way_of_running_is_out_where_it_is_slower() -> None:
    twin = {**timed(5.0), "status": "passed", "candidate": {"name": "the same"}}
    assert reason(4.0, twin=twin) == "2.5 ms a call; 'the same' gives the same numbers in 2 ms"
    assert reason(4.9, twin=twin) is None
    assert reason(4.0, twin={**twin, "status": "rejected"}) is None
