"""The space follows from what techniques and runtimes declare."""

from typing import Any

from hotlap.search.space import Space, build_space, names
from hotlap.techniques import ModelFacts

IMAGES = ModelFacts(layers={"Conv2d": 3, "Linear": 1}, input_ranks=(4,), has_calibration=True)


def space(facts: ModelFacts = IMAGES, batch: int = 1, **options: Any) -> Space:
    return build_space(facts, threads=2, fixed_axes={"batch": batch}, **{"unavailable": {}, **options})


def test_names_and_keys_are_unique() -> None:
    candidates = space().candidates
    assert len({candidate.name for candidate in candidates}) == len(candidates)
    assert len({candidate.key for candidate in candidates}) == len(candidates)


def test_a_runtime_that_cannot_run_is_left_out_with_its_reason() -> None:
    found = space(unavailable={"inductor": "there is no C++ compiler"})
    assert ("inductor", "there is no C++ compiler") in found.left_out
    assert "inductor" not in {candidate.runtime for candidate in found.candidates}


def test_without_calibration_data_static_int8_is_left_out_with_that_reason() -> None:
    facts = ModelFacts(layers=IMAGES.layers, input_ranks=(4,), calibration_missing="no data")
    found = space(facts)
    assert ("onnxruntime static_int8", "no data") in found.left_out
    assert not any("static int8" in candidate.name or "nncf" in candidate.name for candidate in found.candidates)


def test_only_and_skip_choose_by_technique_runtime_or_precision() -> None:
    assert {c.precision for c in space(only=["int8"]).candidates} == {"int8"}
    assert {c.runtime for c in space(only=["openvino"]).candidates} == {"openvino"}
    assert "openvino" not in {c.runtime for c in space(skip=["openvino"]).candidates}
    assert {"openvino", "static_int8", "bf16"} <= set(names())


def test_what_changes_no_numbers_is_marked_so() -> None:
    for candidate in space().candidates:
        assert candidate.same_numbers == (candidate.precision == "fp32")


def test_candidates_come_back_from_json() -> None:
    from hotlap.core import Candidate, to_json

    for candidate in space().candidates:
        assert Candidate.from_json(to_json(candidate)).key == candidate.key


def test_where_sums_of_int8_products_overflow_all_weights_keep_to_seven_bits() -> None:
    facts = {"layers": {"Linear": 1, "LayerNorm": 1}, "input_ranks": (3,), "has_calibration": True}
    for overflows in (False, True):
        found = space(ModelFacts(**facts, int8_overflows=overflows)).candidates
        reduced = [dict(c.steps[-1].options)["reduce_range"] for c in found if c.precision == "int8" and c.steps]
        assert len(reduced) > 4
        assert set(reduced) == {overflows}


def test_a_batch_is_also_cut_by_rows_and_by_threads_and_a_single_row_is_not() -> None:
    def cuts(batch: int) -> set[tuple[str, Any]]:
        found = [(c.runtime, dict(c.options).get("micro_batch")) for c in space(batch=batch).candidates]
        return {(runtime, rows) for runtime, rows in found if rows}

    assert cuts(1) == set()
    assert cuts(16) == {("onnxruntime", 1), ("onnxruntime", 8), ("openvino", 1), ("openvino", 8)}
    assert {rows for _, rows in cuts(3)} == {1}


def test_long_calls_get_no_single_thread() -> None:
    def counts(threads: int, baseline_ms: float) -> set[int]:
        found = build_space(IMAGES, threads=threads, fixed_axes={}, unavailable={}, baseline_ms=baseline_ms)
        return {candidate.threads for candidate in found.candidates}

    assert counts(2, 9.0) == {1, 2}
    assert counts(2, 11.0) == {2}
    assert counts(8, 9.0) == {1, 4, 8}
    assert counts(8, 11.0) == {4, 8}
    assert counts(1, 11.0) == {1}


def test_several_streams_are_tried_for_throughput_where_the_runtime_has_them() -> None:
    assert not [c for c in space(batch=4).candidates if "streams" in dict(c.options)]
    found = space(batch=4, streams=True).candidates
    several = [c for c in found if "streams" in dict(c.options)]
    assert {c.runtime for c in several} == {"onnxruntime", "openvino"}
    assert {(c.threads, dict(c.options)["streams"]) for c in several} == {(2, 2)}
    assert all("2 streams" in c.name and "micro_batch" not in dict(c.options) for c in several)
    assert len({c.name for c in found}) == len(found)
    more = build_space(IMAGES, threads=8, fixed_axes={"batch": 4}, unavailable={}, streams=True).candidates
    assert {dict(c.options).get("streams") for c in more} == {None, 8, 4}
    alone = build_space(IMAGES, threads=1, fixed_axes={"batch": 4}, unavailable={}, streams=True).candidates
    assert {dict(c.options).get("streams") for c in alone} == {None}
