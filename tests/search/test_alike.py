"""What one candidate's turn tells of others."""

from typing import Any

from hotlap.core import Candidate, Json, Step, to_json
from hotlap.search import alike


def candidate(runtime: str = "openvino", technique: str = "nncf_int8", threads: int = 2, **options: Any) -> Candidate:
    return Candidate(
        steps=(Step(technique=technique),), runtime=runtime, threads=threads, options=tuple(sorted(options.items())),
        precision="int8", same_numbers=False, name=f"{runtime} {technique} {threads} {options}",
    )  # fmt: skip


def record(of: Candidate, **found: Any) -> Json:
    timed = {"seconds": 40.0, "build_seconds": 20.0, "score_seconds": 15.0}
    judged = {"gate": "drop", "status": "rejected", "reason": "lost 9", "score": 0.8, "distance": 0.02}
    return {"key": of.key, "candidate": to_json(of), "speedup": {"estimate": 3.0}, **timed, **judged, **found}


def test_threads_shapes_and_micro_batches_change_no_numbers() -> None:
    ways = [candidate(), candidate(threads=1), candidate(static=True, fixed_axes={"batch": 4}, micro_batch=2)]
    assert len({alike.numbers(one) for one in ways}) == 1


def test_runtime_technique_and_the_format_of_the_rest_do() -> None:
    others = [
        candidate(), candidate("onnxruntime"), candidate(technique="static_int8"), candidate(inference="bf16"),
        candidate(inference="f32"),
    ]  # fmt: skip
    assert len({alike.numbers(one) for one in others}) == len(others)


def test_a_verdict_is_taken_over_with_the_name_of_the_one_that_was_scored() -> None:
    scored, way, third = candidate(), candidate(static=True), candidate(threads=1)
    found = alike.verdict_of(record(scored))
    assert {found["gate"], found["status"], found["score"], found["distance"]} == {"drop", "rejected", 0.8, 0.02}
    assert found["scored_as"] == scored.name
    assert "speedup" not in found
    assert alike.verdict_of(record(way, **found))["scored_as"] == scored.name
    assert alike.judged_alike(third, [record(scored)]) == record(scored)


def test_what_was_not_scored_tells_nothing() -> None:
    dropped = record(candidate(), status="dropped")
    del dropped["gate"]
    assert alike.judged_alike(candidate(static=True), [dropped]) is None
    assert alike.judged_alike(candidate("onnxruntime"), [record(candidate())]) is None


def test_another_way_of_running_costs_neither_build_nor_scoring() -> None:
    way, fresh, unknown = candidate(static=True), candidate(inference="bf16"), candidate("inductor")
    found = alike.seconds_each([way, fresh, unknown], [record(candidate())])
    assert found == {way.key: 5.0, fresh.key: 40.0, unknown.key: 40.0}
    taken = record(way, seconds=6.0, scored_as="x", score_seconds=0.0)
    third = candidate(threads=1)
    assert alike.seconds_each([third, fresh], [taken])[third.key] == 6.0
    assert alike.seconds_each([fresh], []) == {fresh.key: 0.0}


def test_what_gives_the_numbers_of_a_rejected_one_is_not_tried() -> None:
    rows = [record(candidate())]
    assert alike.rejected(candidate(static=True), rows) == (
        f"gives the same numbers as {candidate().name!r}, which was rejected: lost 9"
    )
    assert alike.rejected(candidate(inference="bf16"), rows) is None
    assert alike.rejected(candidate(static=True), [record(candidate(), status="passed")]) is None


def test_of_those_that_give_the_same_numbers_the_fastest_is_told() -> None:
    slow, fast = record(candidate()), record(candidate(static=True), speedup={"estimate": 4.0}, scored_as="x")
    assert alike.judged_alike(candidate(threads=1), [slow, fast]) == fast
    assert alike.judged_alike(candidate(threads=1), [fast, slow]) == fast
