"""Golden files: read back as written, headers that lie refused, and how far answers are off."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hotlap.artifact import golden
from hotlap.artifact.golden import Case
from hotlap.core import Signature, TensorSpec
from hotlap.errors import ArtifactRefused


def signature(inputs: int, outputs: int) -> Signature:
    def specs(count):
        return tuple(TensorSpec(name=f"t{i}", dtype="float32", shape=()) for i in range(count))

    return Signature(inputs=specs(inputs), outputs=specs(outputs), input_kind="tuple", output_tree=0)


DTYPES = st.sampled_from([np.dtype(code) for code in "?bhilBHILefd"])
ARRAYS = DTYPES.flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)))


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.lists(ARRAYS, min_size=2, max_size=2), st.lists(ARRAYS, min_size=1, max_size=1)), min_size=1)
)
def test_cases_are_read_back_as_written(cases):
    found = golden.decode(golden.encode(cases), signature(2, 1), "golden")
    for (inputs, outputs), case in zip(cases, found, strict=True):
        for wanted, got in zip([*inputs, *outputs], [*case.inputs, *case.outputs], strict=True):
            assert got.dtype == wanted.dtype
            np.testing.assert_array_equal(got, wanted)


def file(header, data: bytes = b"\0" * 16, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def tensor(begin, end, shape=(2,), dtype="F32") -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\0" * 7, "golden is 7 bytes long, too short for a safetensors header"),
        (file({}, length=100_000_001), "golden says its header has 100,000,001 bytes; 100,000,000 are allowed"),
        (file({}, length=2**64 - 1), "golden says its header has 18,446,744,073,709,551,615 bytes"),
        (file({}, length=1000), "golden says its header has 1,000 bytes, but 18 follow"),
        (file({"a": tensor(0, 8), "b": tensor(8, 16)}, length=5), "golden's header is not JSON"),
        (file(b'{"\xff": 1}'), "golden's header is not UTF-8"),
        (file(b"[" * 100_000), "golden's header is nested more than 3 deep"),
        (file(b'{"a": 1, "a": 2}'), "golden's header has 'a' twice"),
        (file([]), "golden's header is a list, not an object"),
        (file({"a": tensor(0, 8), "b": tensor(4, 12)}), "golden: 'b' overlaps the tensor before it"),
        (file({"a": tensor(0, 8), "b": tensor(0, 8)}), "golden: 'b' overlaps the tensor before it"),
        (file({"a": tensor(0, 8), "b": tensor(12, 20)}), "golden: 'b' leaves a gap before it"),
        (file({"a": tensor(8, 16)}), "golden: 'a' leaves a gap before it"),
        (file({"a": tensor(0, 8)}), "golden has 16 bytes of tensors where its header speaks of 8"),
        (file({"a": tensor(0, 24, [6])}), "golden has 16 bytes of tensors where its header speaks of 24"),
        (
            file({"a": tensor(0, 16, [2**31, 2**31, 4])}),
            "'a' has 16 bytes where its shape needs 73,786,976,294,838",
        ),
        (file({"a": tensor(0, 16, [2**63])}), "golden: 'a'.shape is 9223372036854775808, not a whole number"),
        (file({"a": tensor(8, 0)}), "golden: 'a' has -8 bytes where its shape needs 8"),
        (file({"a": tensor(-8, 0)}), "golden: 'a'.data_offsets is -8, not a whole number"),
        (file({"a": tensor(0, 8, [1] * 33)}), "golden: 'a' has 33 axes; at most 32 are allowed"),
        (file({"a": tensor(0, 8, dtype="O")}), "golden: 'a' has the type 'O', which is not one of NumPy's"),
        (file({"a": tensor(0, 8) | {"sparse": 1}}), "golden: 'a' has 'sparse', which this format does not know"),
        (file({"a": {"dtype": "F32", "shape": []}}), "golden: 'a' has no 'data_offsets'"),
        (file({"a": tensor(0, 8) | {"data_offsets": [0]}}), "golden: 'a' has 1 data_offsets, not 2"),
        (file({"a": tensor(0, 16, [4])}), "golden does not hold the inputs and outputs of the signature"),
        (file({"__metadata__": 1}), "golden: '__metadata__' is 1, not an object"),
    ],
)
def test_headers_that_lie_are_refused(data, reason):
    with pytest.raises(ArtifactRefused, match=reason):
        golden.decode(data, signature(1, 1), "golden")


GOOD = golden.encode([([np.ones((2, 2), np.float32)], [np.zeros(3, np.int64)])] * 2)


@settings(max_examples=500, deadline=None)
@given(st.integers(0, len(GOOD)), st.integers(0, 6), st.binary(max_size=6))
def test_any_edit_is_read_or_refused(where, old, new):
    """What the check lets through, the safetensors package reads too: its own error is never seen."""
    try:
        golden.decode(GOOD[:where] + new + GOOD[where + old :], signature(1, 1), "golden")
    except ArtifactRefused as error:
        assert str(error).startswith("golden")  # noqa: PT017


def off(known, answer) -> float:
    return golden.difference([Case([], [np.asarray(known)])], [[np.asarray(answer)]])


def test_difference_is_a_share_of_the_largest_magnitude():
    assert off([10.0, -20.0], [10.0, -19.0]) == pytest.approx(0.05)
    cases = [Case([], [np.array([0.1])]), Case([], [np.array([100.0])])]
    assert golden.difference(cases, [[np.array([0.2])], [np.array([100.0])]]) == pytest.approx(0.001)
    assert off([0.0, 0.0], [0.0, 0.5]) == 0.5
    assert off(np.zeros((0, 3)), np.zeros((0, 3))) == 0.0


def test_difference_of_what_is_not_finite_or_alike():
    assert off([math.nan, math.inf, 1.0], [math.nan, math.inf, 1.0]) == 0.0
    for known, answer in (([1.0], [math.nan]), ([math.nan], [1.0]), ([1.0], [math.inf]), ([math.inf], [-math.inf])):
        assert off(known, answer) == math.inf
    assert off([1, 2], [1, 3]) == 1.0
    assert off([True], [False]) == 1.0
    assert off([1.0], [[1.0]]) == math.inf
    assert off(np.float32([1]), np.float64([1])) == math.inf


@given(hnp.arrays(np.float32, 6, elements=st.floats(-1e6, 1e6, width=32)), st.floats(0.001, 1.0))
def test_difference_sees_a_change_of_any_size(known, share):
    scale = float(np.abs(known).max()) or 1.0
    answer = known.astype(np.float64)
    answer[2] += share * scale
    assert off(known.astype(np.float64), answer) == pytest.approx(share, rel=1e-6)
