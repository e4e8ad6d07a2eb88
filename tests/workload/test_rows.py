"""Batches are cut into rows, and rows are told apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hotlap.core import Signature, TensorSpec
from hotlap.workload.inputs import flatten_inputs
from hotlap.workload.rows import CannotCut, cut_inputs, cut_targets, row_digests

ROWS = 6


def targets_like():
    column = st.sampled_from(
        [
            torch.arange(ROWS),
            torch.arange(2.0 * ROWS).reshape(ROWS, 2),
            np.arange(ROWS),
            [f"t{i}" for i in range(ROWS)],
        ]
    )
    return st.recursive(
        column, lambda inner: st.dictionaries(st.text(max_size=2), inner, max_size=3), max_leaves=4
    ) | st.lists(st.sampled_from([torch.arange(ROWS), torch.zeros(ROWS, 2)]), min_size=1, max_size=3).map(tuple)


def row(targets, index):
    if isinstance(targets, dict):
        return {key: row(value, index) for key, value in targets.items()}
    if isinstance(targets, tuple):
        return tuple(row(value, index) for value in targets)
    return targets[index] if isinstance(targets, list) else targets[index].tolist()


@given(targets_like(), st.lists(st.integers(0, ROWS - 1), min_size=1, unique=True))
def test_cut_targets_hold_just_the_rows_kept(targets, keep):
    cut = cut_targets(targets, ROWS, keep)
    assert type(cut) is type(targets)
    for place, index in enumerate(keep):
        assert row(cut, place) == row(targets, index)


@pytest.mark.parametrize(
    "targets", [3, "abcdef", torch.ones(5), torch.tensor(1), [1, 2], {"a": torch.ones(5)}, object()]
)
def test_targets_without_one_item_an_example(targets):
    with pytest.raises(CannotCut):
        cut_targets(targets, ROWS, [0])


SIGNATURE = Signature(
    inputs=(
        TensorSpec(name="a", dtype="float32", shape=("batch", 3)),
        TensorSpec(name="b", dtype="int64", shape=("batch",)),
    ),
    outputs=(),
    input_kind="tuple",
    output_tree=None,
)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=12), st.data())
def test_digests_are_equal_exactly_where_rows_are(rows, data):
    tensors = [torch.tensor([[float(a)] * 3 for a, _ in rows]), torch.tensor([b for _, b in rows])]
    digests = row_digests(tensors, SIGNATURE, len(rows))
    for i, first in enumerate(rows):
        for j, second in enumerate(rows):
            assert (digests[i] == digests[j]) == (first == second)
    keep = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=5))
    cut = flatten_inputs(tuple(cut_inputs(tensors, SIGNATURE, keep)), ["a", "b"])
    assert row_digests(cut, SIGNATURE, len(keep)) == [digests[index] for index in keep]
