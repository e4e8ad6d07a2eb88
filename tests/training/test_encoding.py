import enum
import json
import math
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hotlap.errors import InputError
from hotlap.training.encoding import decode, encode, same_values

Point = namedtuple("Point", "x y")


class Colour(enum.IntEnum):
    RED = 1


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(),
    st.sampled_from(
        [np.float32(0.1), np.float64(0.1), np.int64(2**60), np.uint8(3), np.bool_(True), np.float32("nan")]
    ),
    st.sampled_from([torch.tensor([1.5, math.nan]), torch.tensor(3), np.arange(4.0), np.array(0.5), torch.zeros(0, 2)]),
)
NESTED = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.lists(inner).map(lambda items: deque(items, 5)),
        st.sets(st.integers() | st.text()),
        st.frozensets(st.tuples(st.integers(), st.booleans())),
        st.dictionaries(st.text(), inner).map(lambda items: defaultdict(int, items)),
        st.dictionaries(st.text(), inner).map(lambda items: defaultdict(None, items)),
        st.dictionaries(st.text(), inner).map(OrderedDict),
        st.dictionaries(st.text() | st.integers(), st.integers()).map(Counter),
        st.dictionaries(st.one_of(st.text(), st.integers(), st.tuples(st.integers(), st.text())), inner),
    ),
    max_leaves=12,
)


def alike(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and same_values(one, other)
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, deque):
        return isinstance(other, deque) and one.maxlen == other.maxlen and alike(list(one), list(other))
    if isinstance(one, defaultdict):
        same = isinstance(other, defaultdict) and one.default_factory is other.default_factory
        return same and alike(dict(one), dict(other))
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, dict):
        return type(one) is type(other) and list(one) == list(other) and all(alike(one[key], other[key]) for key in one)
    return type(one) is type(other) and (one == other or (one != one and other != other))


@given(NESTED)
def test_what_is_encoded_comes_back_through_json(value: object) -> None:
    told, tensors = encode(value, "x")
    assert all(name.startswith("x") for name in tensors)
    assert alike(value, decode(json.loads(json.dumps(told)), tensors))


@pytest.mark.parametrize(
    "value",
    [
        object(),
        defaultdict(lambda: 0),
        Point(1, 2),
        np.longdouble(1),
        torch.eye(2).to_sparse(),
        [lambda: None],
        torch.zeros(2, dtype=torch.complex128),
        np.zeros(2, dtype=complex),
        np.array(["text"]),
        np.zeros(2, dtype=">f4"),
        torch.zeros(2, device="meta"),
    ],
)
def test_what_would_need_pickling_is_refused(value: object) -> None:
    with pytest.raises(InputError, match="can't be kept"):
        encode(value, "x")


def test_values_are_the_same_up_to_which_nan() -> None:
    one = torch.tensor([math.nan, 1.0])
    assert same_values(one, -one * -1)
    assert not same_values(one, torch.tensor([1.0, math.nan]))
    assert not same_values(one, one.double())
    assert not same_values(one, one[None])


def test_numbers_and_texts_of_a_class_of_their_own_come_back_as_their_equals() -> None:
    for value in (Colour.RED, np.str_("text"), torch.Size([2, 3])):
        assert decode(json.loads(json.dumps(encode(value, "x")[0])), {}) == value


@pytest.mark.parametrize("kind", [set, list, dict])
def test_a_collection_of_a_class_of_its_own_is_refused(kind: type) -> None:
    with pytest.raises(InputError, match="a Own can't be kept"):
        encode(type("Own", (kind,), {})(), "x")
