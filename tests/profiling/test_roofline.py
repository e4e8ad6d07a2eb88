from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotlap.machine.limits import Limits
from hotlap.profiling.count import Counted, Work
from hotlap.profiling.modules import ModuleName
from hotlap.profiling.roofline import Measured, bound_ms, bounds_ms, profile_of
from hotlap.profiling.trace import Traced

# Rates chosen so that figures can be worked out by hand.
LIMITS = Limits(
    device="cpu",
    threads=2,
    fp32_multiply_adds_per_second=1e9,
    bf16_multiply_adds_per_second=2e9,
    int8_multiply_adds_per_second=4e9,
    bytes_per_second=1e9,
    bandwidth=((2**20, 1e9), (2**28, 1e9)),
    launch_ms=0.001,
    launch_ms_by_kind={"elementwise": 0.001},
    call_ms={},
    kernels={},
    others_shares={},
    measurements=1,
    seconds=1.0,
)
NAMES = [
    ModuleName(name="(model)", type="Net"),
    ModuleName(name="conv", type="Conv2d"),
    ModuleName(name="norm", type="BatchNorm2d"),
]


def work(module: int, multiply_adds: int, weights: int = 0, activations: int = 0) -> Work:
    return Work(
        module=module,
        operator="aten::conv2d",
        multiply_adds=multiply_adds,
        weight_bytes=weights,
        activation_bytes=activations,
    )


def measured(**changes: object) -> Measured:
    made = Measured(
        modules=NAMES,
        traced=Traced(
            total_ms=10.0,
            one_thread_ms=12.0,
            modules={0: 1.0, 1: 7.0, 2: 2.0},
            kinds={"convolution": 6.0, "normalization": 2.0, "launch": 1.5, "other": 0.5},
            operators=3,
            watching_factor=1.0,
        ),
        counted=Counted(
            work=(work(1, 4_000_000, 1000, 2000), work(2, 0, 0, 1_000_000)),
            weight_bytes=1000,
            peak_activation_bytes=5000,
        ),
        reorder_share=0.25,
        threads=2,
        peak_bytes=10**8,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


counts = st.builds(work, st.integers(0, 2), st.integers(0, 10**10), st.integers(0, 10**9), st.integers(0, 10**9))


@given(all_work=st.lists(counts, max_size=6), more=counts)
def test_bounds_fall_with_the_format_and_rise_with_the_work(all_work: list[Work], more: Work) -> None:
    fewer = Counted(work=tuple(all_work), weight_bytes=10**6, peak_activation_bytes=10**6)
    bounds = bounds_ms(fewer, LIMITS)
    assert bounds["fp32"] >= bounds["bf16"] >= bounds["int8"] >= 0
    larger = bounds_ms(replace(fewer, work=(*all_work, more)), LIMITS)
    assert all(larger[precision] >= bounds[precision] for precision in bounds)


def test_a_bound_is_the_longer_of_multiplying_and_moving() -> None:
    def bounds(one: Work) -> dict[str, float]:
        return bounds_ms(Counted(work=(one,), weight_bytes=0, peak_activation_bytes=0), LIMITS)

    assert bounds(work(0, 4_000_000, 1000, 1000)) == pytest.approx({"fp32": 4.0, "bf16": 2.0, "int8": 1.0})
    assert bounds(work(0, 1, 6_000_000, 2_000_000)) == pytest.approx({"fp32": 8.0, "bf16": 4.0, "int8": 2.0})
    assert bounds(work(0, 0, 6_000_000, 2_000_000))["fp32"] == 0, "what has no products may be fused away"


def test_limits_that_others_held_down_do_not_lengthen_a_bound() -> None:
    counted = measured().counted
    busy = replace(LIMITS, others_shares={"int8": 0.75})
    assert bounds_ms(counted, busy)["int8"] == pytest.approx(bounds_ms(counted, LIMITS)["int8"] / 4)
    assert bounds_ms(counted, busy)["bf16"] == bounds_ms(counted, LIMITS)["bf16"]
    assert bounds_ms(counted, replace(LIMITS, others_shares={"int8": 0.05})) == bounds_ms(counted, LIMITS)


def test_weights_that_no_cache_holds_come_from_memory() -> None:
    cached = replace(LIMITS, bandwidth=((2**20, 8e9), (2**28, 1e9)))
    one = work(0, 1, weights=2**20)
    small = Counted(work=(one,), weight_bytes=2**20, peak_activation_bytes=0)
    large = replace(small, weight_bytes=2**30)
    assert bounds_ms(large, cached)["fp32"] == pytest.approx(8 * bounds_ms(small, cached)["fp32"])


def test_the_profile() -> None:
    profile = profile_of(measured(), LIMITS)
    assert json.loads(json.dumps(profile)) == profile
    assert [layer["name"] for layer in profile["layers"]] == ["conv", "norm", "(model)"]
    conv, norm, model = profile["layers"]
    assert conv["share"] == pytest.approx(0.7)
    assert conv["multiply_adds"] == 4_000_000
    assert conv["bytes"] == 3000
    assert conv["share_of_limit"] == pytest.approx(4 / 7)
    assert norm["share_of_limit"] == pytest.approx(1 / 2), "a layer without products is held against its bytes"
    assert model["share_of_limit"] is None
    assert profile["other_share"] == pytest.approx(0.05)
    assert profile["overhead"] == pytest.approx(
        {"launch_share": 0.15, "layout_share": 0.15, "waiting_share": 1 - 12 / 20}
    )
    kinds = {one["kind"]: one["ms"] for one in profile["kinds"]}
    assert kinds == pytest.approx({"convolution": 4.5, "normalization": 2.0, "launch": 1.5, "layout": 1.5})
    assert sum(kinds.values()) / 10 + profile["other_share"] == pytest.approx(1.0)
    assert profile["memory"] == {"weights_bytes": 1000, "activations_bytes": 5000, "peak_bytes": 10**8}
    assert profile["roofline"]["points"] == [
        {"name": "conv", "intensity": pytest.approx(4e6 / 3000), "achieved": pytest.approx(4e6 / 0.007)}
    ]
    assert profile["share_of_limit"] == pytest.approx(0.4)
    assert profile["warnings"] == []


def test_bound_ms_knows_every_format() -> None:
    profile = profile_of(measured(), LIMITS)
    assert bound_ms(profile, "fp32") == pytest.approx(4.0)
    assert bound_ms(profile, "bf16") == bound_ms(profile, "fp16") == pytest.approx(2.0)
    assert bound_ms(profile, "int8") == pytest.approx(1.0)


def test_on_a_gpu_waiting_is_what_it_idles() -> None:
    traced = replace(measured().traced, kinds={"convolution": 4.0, "waiting": 6.0})
    found = profile_of(measured(traced=traced, reorder_share=0.0), replace(LIMITS, device="cuda"))
    assert found["overhead"]["waiting_share"] == pytest.approx(0.6)


def test_more_time_on_several_threads_than_on_one_is_waiting() -> None:
    traced = replace(measured().traced, one_thread_ms=5.0)
    assert profile_of(measured(traced=traced), LIMITS)["overhead"]["waiting_share"] == pytest.approx(0.75)
    traced = replace(measured().traced, one_thread_ms=25.0)
    assert profile_of(measured(traced=traced), LIMITS)["overhead"]["waiting_share"] == 0


def test_shares_that_are_not_sure_are_said_to_be() -> None:
    traced = replace(measured().traced, watching_factor=0.5)
    (warning,) = profile_of(measured(traced=traced), LIMITS)["warnings"]
    assert warning == (
        "the profiled calls took 2.00 times as long as those left alone, so the shares are less sure; something "
        "else may have kept the machine busy: profile again when it is quiet"
    )
