from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotlap.machine.limits import Limits
from hotlap.profiling.suggestions import suggestions

LIMITS = Limits(
    device="cpu",
    threads=2,
    fp32_multiply_adds_per_second=1e9,
    bf16_multiply_adds_per_second=2e9,
    int8_multiply_adds_per_second=4e9,
    bytes_per_second=1e9,
    bandwidth=((2**20, 1e9),),
    launch_ms=0.0,
    launch_ms_by_kind={},
    call_ms={},
    kernels={},
    others_shares={},
    measurements=1,
    seconds=1.0,
)
KINDS = {"convolution": 6.0, "normalization": 1.0, "activation": 0.5, "layout": 1.0, "launch": 1.5}
BOUNDS = {"fp32": 4.0, "bf16": 2.0, "int8": 1.0}


def by_name(limits: Limits = LIMITS, waiting: float = 0.2, kinds: dict[str, float] = KINDS) -> dict[str, dict]:  # type: ignore[type-arg]
    return {one["what"]: one for one in suggestions(10.0, kinds, {"waiting_share": waiting}, BOUNDS, limits)}


def test_each_figure_is_what_would_be_left_at_best() -> None:
    found = {what: one["at_most_speedup"] for what, one in by_name().items()}
    assert found == pytest.approx(
        {
            "int8 in ONNX Runtime or OpenVINO": 10.0,
            "bf16 in ONNX Runtime or OpenVINO": 5.0,
            "the same numbers in ONNX Runtime or OpenVINO": 2.5,
            "a compiler that fuses operations (torch.compile, AOTInductor)": 10 / 7,
            "another number of threads, or a larger batch": 10 / 8,
            "another memory layout (channels_last)": 10 / 9,
        }
    )


def test_each_says_why() -> None:
    found = by_name()
    assert found["int8 in ONNX Runtime or OpenVINO"]["why"] == (
        "convolutions take 60% of the time; this machine makes 4.0 times as many multiply-adds a second in int8 as "
        "in fp32"
    )
    assert found["the same numbers in ONNX Runtime or OpenVINO"]["why"] == (
        "convolutions take 60% of the time, at 67% of the fp32 limit; launch overhead 15%, layout changes 10%, "
        "what can be fused 15%"
    )
    assert found["another number of threads, or a larger batch"]["why"] == (
        "20% of the cores' time does none of the work"
    )


def test_a_format_that_could_bring_no_more_than_a_wider_one_is_not_suggested() -> None:
    same = {"fp32": 4.0, "bf16": 4.0, "int8": 3.0}
    whats = [one["what"] for one in suggestions(10.0, KINDS, {"waiting_share": 0.0}, same, LIMITS)]
    assert any("int8" in what for what in whats)
    assert not any("bf16" in what for what in whats)
    costly = replace(LIMITS, call_ms={"onnxruntime": 200.0})
    assert not any("int8" in what for what in by_name(costly))


def test_a_call_takes_at_least_an_empty_one() -> None:
    limits = replace(LIMITS, launch_ms=0.5, call_ms={"onnxruntime": 1.0, "openvino": 2.0})
    found = by_name(limits)
    assert found["int8 in ONNX Runtime or OpenVINO"]["at_most_speedup"] == pytest.approx(5.0)


def test_a_model_without_products() -> None:
    why = by_name(kinds={"launch": 10.0})["the same numbers in ONNX Runtime or OpenVINO"]["why"]
    assert why == "products take next to none of the time; launch overhead 100%"


@given(
    parts=st.lists(st.floats(0, 10), min_size=5, max_size=5),
    waiting=st.floats(0, 1),
    bounds=st.lists(st.floats(0, 20), min_size=3, max_size=3),
)
def test_the_most_promising_comes_first_and_nothing_is_too_little(
    parts: list[float], waiting: float, bounds: list[float]
) -> None:
    kinds = dict(zip(KINDS, parts, strict=True))
    total = sum(parts) + 0.001
    found = suggestions(total, kinds, {"waiting_share": waiting}, dict(zip(BOUNDS, bounds, strict=True)), LIMITS)
    speedups = [one["at_most_speedup"] for one in found]
    assert speedups == sorted(speedups, reverse=True)
    assert all(speedup >= 1.05 for speedup in speedups)
