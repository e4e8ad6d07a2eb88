"""Cut and joined again, a batch is what it was; and a parted run gives what a whole one gives."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotlap.core import Signature, TensorSpec
from hotlap.errors import Unsupported
from hotlap.runtimes.micro_batches import micro_batches


def signature(inputs: list[tuple[Any, ...]], outputs: list[tuple[Any, ...]]) -> Signature:
    def specs(shapes: list[tuple[Any, ...]]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(name=f"t{n}", dtype="float32", shape=shape) for n, shape in enumerate(shapes))

    return Signature(inputs=specs(inputs), outputs=specs(outputs), input_kind="tuple", output_tree=0)


def options(rows: int, batch: int) -> dict[str, Any]:
    return {"micro_batch": rows, "fixed_axes": {"batch": batch}}


@given(rows=st.integers(1, 5), count=st.integers(1, 5), axis=st.integers(0, 2))
def test_cut_and_joined_a_batch_is_what_it_was(rows: int, count: int, axis: int) -> None:
    shape: list[Any] = [2, 3]
    shape.insert(axis, "batch")
    both = [tuple(shape), ("batch",)]
    cut = micro_batches(signature(both, both), options(rows, rows * count))
    assert cut is not None
    arrays = [np.random.default_rng(0).random([rows * count if s == "batch" else s for s in one]) for one in both]
    parts = cut.cut(arrays)
    assert [part[1].shape for part in parts] == [(rows,)] * count
    assert all(array.flags.c_contiguous for part in parts for array in part)
    for array, joined in zip(arrays, cut.join(parts), strict=True):
        np.testing.assert_array_equal(array, joined)


def test_an_input_without_a_batch_axis_goes_to_every_part() -> None:
    cut = micro_batches(signature([("batch", 2), (3, 3)], [("batch",)]), options(1, 2))
    assert cut is not None
    table = np.ones((3, 3))
    assert all(part[1] is table for part in cut.cut([np.zeros((2, 2)), table]))


def test_without_the_option_nothing_is_cut() -> None:
    assert micro_batches(signature([("batch",)], [("batch",)]), {"fixed_axes": {"batch": 4}}) is None


@pytest.mark.parametrize(("rows", "batch"), [(0, 4), (-1, 4), (3, 4), (8, 4), (1, 0)])
def test_parts_that_do_not_make_up_the_batch_are_refused(rows: int, batch: int) -> None:
    with pytest.raises(Unsupported, match=f"micro-batches of {rows} do not make up a batch of {batch}"):
        micro_batches(signature([("batch",)], [("batch",)]), options(rows, batch))


def test_an_output_that_cannot_be_joined_is_refused_by_name() -> None:
    with pytest.raises(Unsupported, match="output 't1' has no batch axis"):
        micro_batches(signature([("batch",)], [("batch",), (3,)]), options(1, 2))
