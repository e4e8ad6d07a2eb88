"""Inputs and outputs, flat and nested again."""

from __future__ import annotations

import json
from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hotlap.core import Signature, TensorSpec
from hotlap.errors import WorkloadError
from hotlap.workload.inputs import (
    call,
    flatten_inputs,
    flatten_outputs,
    input_names,
    nest,
    output_spec,
    output_tree,
    restore_inputs,
    restore_outputs,
    to_arrays,
)

X, Y = torch.arange(6.0).reshape(2, 3), torch.arange(2)


class Named(nn.Module):
    def forward(self, first, second=None, *, third=None):
        return first


class Loose(nn.Module):
    def forward(self, first, *others, **more):
        return first


def signature(kind, names):
    specs = tuple(TensorSpec(name=name, dtype="float32", shape=("batch",)) for name in names)
    return Signature(inputs=specs, outputs=(), input_kind=kind, output_tree=None)


@pytest.mark.parametrize(
    ("model", "inputs", "names"),
    [
        (Named(), X, ["first"]),
        (Named(), (X, Y), ["first", "second"]),
        (Named(), [X, Y], ["first", "second"]),
        (Named(), {"third": X, "first": Y}, ["first", "third"]),
        (Loose(), (X, Y, X), ["first", "others_0", "others_1"]),
        (Loose(), {"b": X, "first": Y, "a": X}, ["first", "b", "a"]),
    ],
)
def test_names_are_those_of_forwards_parameters(model, inputs, names):
    assert input_names(model, inputs) == names
    flat = flatten_inputs(inputs, names)
    assert len(flat) == len(names)
    if isinstance(inputs, dict):
        assert all(flat[index] is inputs[name] for index, name in enumerate(names))


def test_inputs_come_back_as_they_were():
    assert restore_inputs([X], signature("tensor", ["a"])) is X
    assert restore_inputs([X, Y], signature("tuple", ["a", "b"])) == (X, Y)
    assert restore_inputs([X, Y], signature("dict", ["a", "b"])) == {"a": X, "b": Y}


def test_the_model_is_called_as_its_inputs_say():
    class Sub(nn.Module):
        def forward(self, a, b):
            return a - b

    assert call(nn.Identity(), X) is X
    assert torch.equal(call(Sub(), (X, 2 * X)), -X)
    assert torch.equal(call(Sub(), {"b": X, "a": 2 * X}), X)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("text", r"inputs must be a Tensor, or a tuple or dict of Tensors, not a str$"),
        (np.zeros(3), r"not a ndarray"),
        (None, r"not None"),
        ((), r"at least one Tensor; they are an empty tuple"),
        ({}, r"at least one Tensor; they are an empty dict"),
        ((X, 3), r"Tensors only; item 1 of the tuple is an int"),
        ({"first": X, "second": None}, r"Tensors only; item 'second' of the dict is None"),
        ((X, Y, X), r"inputs are 3 Tensors, but the model's forward takes only `first`, `second`"),
        ({"first": X, "mask": Y}, r"inputs have `mask`, which the model's forward does not take; it takes `first`"),
    ],
)
def test_inputs_that_no_model_takes(inputs, message):
    with pytest.raises(WorkloadError, match=message):
        input_names(Named(), inputs)


def test_inputs_unlike_the_examples():
    with pytest.raises(WorkloadError, match=r"inputs are 2 Tensors; `example` gave `first`"):
        flatten_inputs((X, Y), ["first"])
    with pytest.raises(WorkloadError, match=r"inputs are `a`; `example` gave `b`"):
        flatten_inputs({"a": X}, ["b"])


# Outputs


@dataclass
class Boxes:
    scores: torch.Tensor
    boxes: torch.Tensor | None = None


@dataclass(frozen=True)
class Whole:
    boxes: Boxes
    parts: list


Pair = namedtuple("Pair", ["left", "right"])


def outputs_like(leaf):
    names = st.sampled_from(["b", "a", "logits", "z1"])
    return st.recursive(
        leaf | st.none(),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.lists(inner, max_size=3).map(tuple),
            st.dictionaries(names, inner, max_size=3),
            st.dictionaries(names, inner, max_size=3).map(OrderedDict),
            st.builds(Boxes, scores=inner, boxes=inner),
            st.builds(Whole, boxes=st.builds(Boxes, scores=inner), parts=st.lists(inner, max_size=2)),
            st.builds(Pair, inner, inner),
        ),
        max_leaves=8,
    )


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, Boxes | Whole):
        return type(a) is type(b) and all(same(vars(a)[key], vars(b)[key]) for key in vars(a))
    if isinstance(a, dict):
        return type(a) is type(b) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return a is b is None


@given(outputs_like(st.integers(0, 99).map(lambda value: torch.tensor([value]))))
def test_flat_outputs_nest_again(outputs):
    flat = flatten_outputs(outputs)
    if not flat:
        with pytest.raises(WorkloadError, match="the model's outputs hold no Tensor"):
            output_spec(outputs)
        return
    assert same(restore_outputs(to_arrays(flat), output_spec(outputs)), outputs)
    leaves = [int(leaf) for leaf in flat]
    assert plain(nest(output_tree(outputs), leaves)) == plain(outputs)


@given(outputs_like(st.integers(0, 99).map(lambda value: torch.tensor([value]))))
def test_dicts_keep_their_order_where_the_manifest_sorts_names(outputs):
    leaves = [int(leaf) for leaf in flatten_outputs(outputs)]
    stored = json.loads(json.dumps(output_tree(outputs), sort_keys=True))
    found = nest(stored, leaves)
    assert plain(found) == plain(outputs)
    assert in_order(found) == leaves


def in_order(value):
    if isinstance(value, dict | list | tuple):
        return [leaf for one in (value.values() if isinstance(value, dict) else value) for leaf in in_order(one)]
    return [] if value is None else [value]


def plain(value):
    """The nest as dicts, lists and numbers alone, without types that `nest` gives up."""
    if isinstance(value, torch.Tensor):
        return int(value)
    if isinstance(value, Boxes | Whole):
        value = vars(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [isinstance(value, tuple), *map(plain, value)]
    return value


def test_a_nested_dataclass_is_read_by_attribute_key_and_position():
    record = nest(output_tree(Boxes(X)), [to_arrays([X])[0]])
    assert record.scores is record["scores"] is record[0]
    assert record.boxes is None
    with pytest.raises(AttributeError, match="logits"):
        _ = record.logits


def test_transformers_outputs_keep_their_type():
    modeling_outputs = pytest.importorskip("transformers.modeling_outputs")
    outputs = modeling_outputs.SequenceClassifierOutput(logits=X, attentions=(Y, Y))
    again = restore_outputs(to_arrays(flatten_outputs(outputs)), output_spec(outputs))
    assert type(again) is type(outputs)
    assert torch.equal(again.logits, X)
    assert again.loss is None
    assert len(again.attentions) == 2
    tree = output_tree(outputs)
    assert tree["dataclass"]["logits"] == 0
    assert tree["dataclass"]["attentions"] == {"tuple": [1, 2]}


def test_named_results_of_torch():
    outputs = X.max(dim=1)
    again = restore_outputs(to_arrays(flatten_outputs(outputs)), output_spec(outputs))
    assert torch.equal(again.indices, outputs.indices)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (
            (X, 3),
            r"outputs must be Tensors, or tuples, dicts or dataclasses of them; they hold an int; leave it out",
        ),
        ({"cache": object()}, r"they hold an object; leave it out \(for a cache: use_cache=False\)"),
        ((None, []), r"hold no Tensor"),
    ],
)
def test_outputs_that_are_no_tensors(outputs, message):
    with pytest.raises(WorkloadError, match=message):
        output_spec(outputs)


def test_outputs_with_keys_that_are_no_text():
    with pytest.raises(WorkloadError, match=r"a dict with keys \[0\]; use strings as keys"):
        output_tree({0: X})


def test_arrays_are_contiguous_detached_and_bf16_is_widened():
    weight = nn.Parameter(torch.arange(6.0).reshape(2, 3)).t()
    (array,) = to_arrays([weight])
    assert array.flags["C_CONTIGUOUS"]
    assert array.tolist() == [[0, 3], [1, 4], [2, 5]]
    (wide,) = to_arrays([torch.tensor([1.5], dtype=torch.bfloat16)])
    assert wide.dtype == np.float32
    assert wide.tolist() == [1.5]


def test_read_only_arrays_become_outputs():
    array = np.ones(3, np.float32)
    array.flags.writeable = False
    assert torch.equal(restore_outputs([array], output_spec(X)), torch.ones(3))
