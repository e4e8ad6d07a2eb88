"""What is tried next, and what is not: decisions on rows, with no model in sight."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from hotlap.core import Candidate, Interval, Step
from hotlap.search import strategy
from hotlap.search.strategy import Row


def candidate(runtime: str = "onnxruntime", technique: str = "", threads: int = 2, **options: object) -> Candidate:
    steps = (Step(technique=technique),) if technique else ()
    precision = "int8" if "int8" in technique else "fp32"
    name = f"{runtime} {technique} {threads} {options}"
    return Candidate(
        steps=steps, runtime=runtime, threads=threads, options=tuple(sorted(options.items())), precision=precision,
        same_numbers=not steps, name=name,
    )  # fmt: skip


def row(of: Candidate, status: str = "passed", speedup: float | None = 2.0, ms: float = 1.0, reason: str = "") -> Row:
    interval = Interval(estimate=speedup, low=speedup, high=speedup) if speedup else None
    return Row(candidate=of, status=status, reason=reason, speedup=interval, median_ms=ms)


def choose(waiting: list[Candidate], rows: list[Row], left: float = 100.0) -> Candidate | None:
    return strategy.choose(waiting, rows, seconds_left=left, seconds_each={})


def test_a_family_never_tried_comes_before_a_finer_cut_of_a_known_one() -> None:
    known = candidate()
    finer, fresh = candidate(threads=1), candidate("openvino")
    assert choose([finer, fresh], [row(known)]) == fresh


def test_a_promising_way_of_running_the_best_comes_before_a_family_never_tried() -> None:
    way, fresh = candidate(static=True), candidate("openvino")
    assert choose([fresh, way], [row(candidate())]) == way
    assert choose([fresh, way], [row(candidate()), row(candidate(technique="dynamic_int8"), speedup=3.0)]) == fresh


def test_a_far_slower_family_waits_behind_the_siblings_of_the_best() -> None:
    best = candidate("openvino", "nncf_int8")
    sibling, slow = candidate("openvino", "nncf_int8", static=True), candidate("eager")
    assert choose([slow, sibling], [row(best, speedup=9.0)]) == sibling


def test_what_the_time_does_not_allow_is_not_begun() -> None:
    waiting = [candidate("inductor"), candidate()]
    seconds = {waiting[0].key: 40.0, waiting[1].key: 5.0}
    assert strategy.choose(waiting, [], seconds_left=10, seconds_each=seconds) == waiting[1]
    assert strategy.choose(waiting[:1], [], seconds_left=10, seconds_each=seconds) is None


def test_after_a_loss_of_accuracy_another_way_of_finding_ranges_is_worth_more() -> None:
    tried = candidate(technique="static_int8")
    same_files = candidate(technique="static_int8", static=True)
    rows = [row(tried, "rejected", 5.0)]
    other_ranges = Candidate(
        steps=(Step(technique="static_int8", options=(("calibration", "entropy"),)),), runtime="onnxruntime",
        threads=2, precision="int8", same_numbers=False, name="other",
    )  # fmt: skip
    assert strategy.expected(other_ranges, rows) > strategy.expected(same_files, rows)


def test_only_a_bound_twice_out_of_reach_skips() -> None:
    rows = [row(candidate("openvino"), ms=1.0)]
    other = candidate()
    assert strategy.skip_reason(other, rows, bounds_ms={"fp32": 1.9}) is None
    reason = strategy.skip_reason(other, rows, bounds_ms={"fp32": 2.1})
    assert reason == "the machine's limit allows at best 2.1 ms; half of that is still slower than 1 ms"


def test_what_failed_alike_twice_is_not_tried_a_third_time() -> None:
    rows = [
        row(candidate(technique=name), "failed", None, reason="no converter")
        for name in ("static_int8", "dynamic_int8")
    ]
    assert strategy.skip_reason(candidate(), rows, bounds_ms={}) == "2 others of onnxruntime failed alike: no converter"
    assert strategy.skip_reason(candidate("openvino"), rows, bounds_ms={}) is None


def test_the_same_files_are_not_built_in_vain_again() -> None:
    rows = [row(candidate(technique="static_int8"), "failed", None, reason="out of memory")]
    again = candidate(technique="static_int8", threads=1)
    assert "built like" in (strategy.skip_reason(again, rows, bounds_ms={}) or "")


def test_finalists_are_the_fastest_within_the_gate() -> None:
    rows = [
        row(candidate(threads=1), speedup=3.0),
        row(candidate(threads=2), "rejected", 9.0),
        row(candidate(threads=3), speedup=4.0),
    ]
    assert [r.candidate.threads for r in strategy.finalists(rows, objective="latency", count=3)] == [3, 1]


def line(*rows: Row) -> list[str]:
    return [r.candidate.steps[0].technique for r in strategy.finalists(rows, objective="latency", count=5)]


def int8(technique: str, speedup: float, chance: float) -> Row:
    return replace(row(candidate(technique=technique), speedup=speedup), chances=(chance, chance**1.2, chance**1.4))


def test_a_much_faster_one_is_tried_before_a_surer_one_which_stands_behind_it() -> None:
    """What a search of MiniLM found: 7.6x with 60 chances in 100, and 4.6x for sure."""
    fast, sure = int8("nncf_int8", 7.6, 0.6), int8("static_int8", 4.6, 0.997)
    assert line(fast, sure) == line(sure, fast) == ["nncf_int8", "static_int8"]


def test_a_surer_one_is_tried_before_one_that_is_hardly_faster_where_a_later_try_may_fail() -> None:
    sure = replace(int8("static_int8", 4.6, 0.95), chances=(0.95, 0.8, 0.6))
    assert line(int8("nncf_int8", 4.8, 0.6), sure) == ["static_int8", "nncf_int8"]


def test_of_those_with_the_same_numbers_the_fastest_stands_for_all() -> None:
    ways = [
        replace(row(candidate("openvino", "nncf_int8", threads=n), speedup=8.0 - n), chances=(0.6, 0.5, 0.4))
        for n in (1, 2, 3)
    ]
    sure = int8("static_int8", 3.0, 0.99)
    found = strategy.finalists([*ways, sure], objective="latency", count=5)
    assert found == [ways[0], sure, *ways[1:]]
    timed = [ways[1], ways[0], ways[2], sure]
    assert strategy.in_line(timed, objective="latency") == [ways[1], sure, ways[0], ways[2]]


def test_for_size_the_smallest_comes_first() -> None:
    large, small = (
        replace(row(candidate(technique=technique), speedup=2.0), bytes=size)
        for technique, size in (("nncf_int8", 400), ("static_int8", 100))
    )
    assert strategy.finalists([large, small], objective="size", count=2) == [small, large]


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(-0.1, 0.5)), min_size=1, max_size=12))
def test_the_pareto_set_is_what_nothing_dominates(points: list[tuple[float, float]]) -> None:
    named = [(str(index), *point) for index, point in enumerate(points)]
    kept = strategy.pareto(named)
    assert kept
    for name, speed, drop in named:
        beaten = any(s >= speed and d <= drop and (s > speed or d < drop) for _, s, d in named)
        assert (name in kept) == (not beaten)


def test_one_technique_that_fails_in_all_its_forms_does_not_take_the_runtime_with_it() -> None:
    rows = [
        row(candidate(technique="static_int8", threads=threads), "failed", None, reason="killed")
        for threads in (1, 2, 3)
    ]
    assert strategy.skip_reason(candidate(), rows, bounds_ms={}) is None


def test_until_something_passed_what_loses_no_accuracy_comes_next() -> None:
    first = candidate("openvino", "nncf_int8")
    waiting = [
        candidate("onnxruntime", "static_int8"),
        candidate("onnxruntime"),
        candidate("openvino", "nncf_int8", threads=1),
    ]
    arguments = {"seconds_left": 100.0, "seconds_each": {}}
    assert strategy.choose(waiting, [], trying=first, **arguments) == waiting[1]
    assert strategy.choose(waiting, [row(first, "rejected", 6.0)], **arguments) == waiting[1]
    assert strategy.choose(waiting, [row(first, "passed", 6.0)], **arguments) == waiting[0]
    unsure = replace(row(first, "passed", 6.0), chances=(0.5, 0.4, 0.3))
    assert strategy.choose(waiting, [unsure], **arguments) == waiting[1]


def test_a_format_is_expected_to_bring_no_more_than_the_machine_has_for_it() -> None:
    int8, fp32 = candidate("openvino", "nncf_int8"), candidate("openvino")
    quick, slow = {"fp32": 100.0, "int8": 400.0}, {"fp32": 100.0, "int8": 80.0}
    assert strategy.expected(int8, [], quick) == strategy.expected(int8, [])
    assert strategy.expected(int8, [], slow) < strategy.expected(fp32, [], slow)
    arguments = {"seconds_left": 100.0, "seconds_each": {}}
    assert strategy.choose([int8, fp32], [], rates=quick, **arguments) == int8
    assert strategy.choose([int8, fp32], [], rates=slow, **arguments) == fp32


def test_of_those_that_promise_the_same_the_first_comes_first() -> None:
    ways = [
        Candidate(
            steps=(Step(technique="static_int8", options=(("calibration", way),)),), runtime="onnxruntime", threads=2,
            precision="int8", same_numbers=False, name=way,
        )
        for way in ("minmax", "entropy")
    ]  # fmt: skip
    assert choose(ways, []) == ways[0]
    assert choose(ways[::-1], []) == ways[1]


def test_what_a_cut_of_the_batch_brought_once_is_expected_of_the_next() -> None:
    whole, cut = candidate("openvino", "nncf_int8", static=True), candidate(
        "openvino", "nncf_int8", static=True, micro_batch=8
    )  # fmt: skip
    rows = [row(whole, speedup=5.0), row(cut, speedup=4.0)]
    assert strategy.learned(rows)["openvino", "micro_batch", 0, 8] == 0.8
    plain, next_cut = candidate("openvino", static=True), candidate("openvino", static=True, micro_batch=8)
    rows.append(row(plain, speedup=2.0))
    assert strategy.expected(next_cut, rows) > 2.0
    assert strategy.expected(next_cut, rows, lessons=strategy.learned(rows)) == 0.8 * 2.0
    elsewhere = candidate("onnxruntime", static=True, micro_batch=8)
    rows.append(row(candidate("onnxruntime", static=True), speedup=2.0))
    assert strategy.expected(elsewhere, rows, lessons=strategy.learned(rows)) > 2.0


def test_two_differences_teach_nothing() -> None:
    rows = [row(candidate(threads=2)), row(candidate(threads=1, static=True), speedup=4.0)]
    assert strategy.learned(rows) == {}


def test_one_with_other_numbers_is_kept_in_hand() -> None:
    ways = [row(candidate("openvino", "nncf_int8", threads=n), speedup=9.0 - n) for n in (1, 2, 3)]
    other = row(candidate("openvino"), speedup=2.0)
    assert strategy.finalists([*ways, other], objective="latency", count=2) == [ways[0], other]
    assert strategy.finalists(ways, objective="latency", count=2) == ways[:2]
    assert strategy.finalists([*ways, other], objective="latency", count=1) == ways[:1]


def quantized(*, without: float | None = None, static: bool = False) -> Candidate:
    options = (("preset", "performance"), *((("without_worst", without),) if without else ()))
    return replace(
        candidate("openvino", "nncf_int8", static=static), steps=(Step(technique="nncf_int8", options=options),),
        name=f"nncf {without} {static}",
    )  # fmt: skip


def test_quantizers_are_taken_out_where_all_of_them_lose_too_much() -> None:
    plain, without = quantized(), quantized(without=0.1)
    assert choose([without, candidate()], []) == candidate()
    assert choose([without], []) is None
    assert strategy.not_needed(without, []) == "what all its quantizers lose was not found out"
    lost = [row(plain, "rejected", 5.0)]
    assert choose([without], lost) == without
    assert strategy.skip_reason(without, lost, bounds_ms={}) is None
    assert strategy.skip_reason(plain, lost, bounds_ms={}) is None


def test_quantizers_stay_where_what_has_them_all_is_likely_to_be_confirmed() -> None:
    without = quantized(without=0.1)
    kept = [row(quantized(static=True))]
    assert strategy.skip_reason(without, kept, bounds_ms={}) == "'nncf None True' is likely to be confirmed as it is"
    assert strategy.skip_reason(without, [replace(kept[0], chances=(0.6,) * 3)], bounds_ms={}) is None
    broken = [row(quantized(), "failed", None, reason="no kernel")]
    assert "which failed: no kernel" in (strategy.skip_reason(without, broken, bounds_ms={}) or "")
