"""The decoder of serialized values against protobuf's own reading of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values
from feast.value_type import ValueType
from features.repository import START
from hypothesis import given, settings
from hypothesis import strategies as st

from hotlap.errors import InputError, Refusal
from hotlap.features import wire
from hotlap.features.columns import Columns

INT32, INT64 = st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1)
SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "DOUBLE": st.floats(allow_nan=False),
    "FLOAT": st.floats(width=32, allow_nan=False),
    "INT32": INT32,
    "INT64": INT64,
    "BOOL": st.booleans(),
    "UNIX_TIMESTAMP": st.integers(-(2**40), 2**40),
    "STRING": st.text(st.characters(exclude_categories=["Cs"]), max_size=300),
    "BYTES": st.binary(max_size=300),
    "JSON": st.just('{"a": 1}'),
    "UUID": st.just("1b4e28ba-2fa1-11d2-883f-0016d3cca427"),
}
NUMBERS = ("DOUBLE", "FLOAT", "INT32", "INT64", "BOOL", "UNIX_TIMESTAMP", "STRING", "BYTES")


def message(kind: str, value: Any) -> bytes:
    made, field = Value(), f"{kind.lower()}_val"
    if kind.endswith(("_LIST", "_SET")):
        getattr(made, field).SetInParent()
        getattr(made, field).val.extend(value)
    else:
        setattr(made, field, value)
    return made.SerializeToString()


def plain(array: pa.Array) -> list[Any]:
    """As Python values; timestamps as seconds."""
    if pa.types.is_timestamp(array.type):
        return [None if one is None else one // 1_000_000 for one in array.cast(pa.int64()).to_pylist()]
    if pa.types.is_list(array.type) and pa.types.is_timestamp(array.type.value_type):
        array = array.cast(pa.list_(pa.int64()))
        return [None if one is None else [each // 1_000_000 for each in one] for one in array.to_pylist()]
    return array.to_pylist()


def held(kind: str, values: list[Any], rows: int) -> None:
    column = [None if one is None else message(kind, one) for one in values]
    times = rows // max(1, len(column)) + 1
    array = wire.decode(column * times, ValueType[kind], "x")
    array.validate(full=True)
    assert array.type == wire.arrow_type(ValueType[kind])
    assert plain(array) == values * times
    assert wire.encode(array, ValueType[kind], "x") == [one or b"" for one in column * times]


@pytest.mark.parametrize("kind", sorted(SCALARS))
@pytest.mark.parametrize("rows", [0, 40])
def test_scalars_come_back(kind: str, rows: int) -> None:
    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.one_of(st.none(), SCALARS[kind]), max_size=30))
    def law(values: list[Any]) -> None:
        held(kind, values, rows)

    law()


@pytest.mark.parametrize("kind", [f"{one}_{form}" for one in NUMBERS for form in ("LIST", "SET")])
@pytest.mark.parametrize("rows", [0, 40])
def test_lists_and_sets_come_back(kind: str, rows: int) -> None:
    base = SCALARS[kind.rpartition("_")[0]]

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.one_of(st.none(), st.lists(base, max_size=40)), max_size=20))
    def law(values: list[Any]) -> None:
        held(kind, values, rows)

    law()


def test_feasts_nulls_are_null_and_nan_stays_nan() -> None:
    null = Value(null_val=0).SerializeToString()
    array = wire.decode([message("DOUBLE", float("nan")), b"", None, null] * 10, ValueType.DOUBLE, "x")
    assert array.null_count == 30
    assert str(array[0]) == "nan"


@pytest.mark.parametrize("rows", [1, 100])
def test_feasts_null_moments_are_null(rows: int) -> None:
    """Feast writes them where a materialized timestamp is missing."""
    null = python_values_to_proto_values([np.datetime64("NaT"), np.datetime64(START)], ValueType.UNIX_TIMESTAMP)
    column = [one.SerializeToString() for one in null] * rows
    array = wire.decode(column, ValueType.UNIX_TIMESTAMP, "x")
    assert array.to_pylist() == [None, START.replace(tzinfo=UTC)] * rows
    assert Columns([("x", ValueType.UNIX_TIMESTAMP)]).decode([column])[0].equals(array)
    lists = [message("UNIX_TIMESTAMP_LIST", [-(2**63), 0])] * rows
    array = wire.decode(lists, ValueType.UNIX_TIMESTAMP_LIST, "x")
    assert array.to_pylist() == [[None, datetime(1970, 1, 1, tzinfo=UTC)]] * rows
    assert Columns([("x", ValueType.UNIX_TIMESTAMP_LIST)]).decode([lists])[0].equals(array)


@pytest.mark.parametrize("rows", [1, 100])
@pytest.mark.parametrize("seconds", [2**62, -(2**62), 1 - 2**63])
def test_an_instant_that_microseconds_cant_hold_is_refused_by_name(rows: int, seconds: int) -> None:
    with pytest.raises(Refusal, match="feature at: the store holds an instant that microseconds can't"):
        wire.decode([message("UNIX_TIMESTAMP", seconds)] * rows, ValueType.UNIX_TIMESTAMP, "at")


@pytest.mark.parametrize("rows", [1, 100])
def test_a_value_of_another_kind_is_refused_by_name(rows: int) -> None:
    with pytest.raises(Refusal, match="feature rate is stored as INT64, and its definition says DOUBLE"):
        wire.decode([message("INT64", 3)] * rows, ValueType.DOUBLE, "rate")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=14), min_size=13, max_size=20), st.sampled_from(sorted(SCALARS)))
def test_any_bytes_are_read_as_protobuf_reads_them_or_not_at_all(values: list[bytes], kind: str) -> None:
    """Never a value that protobuf would not give."""
    texts = {"BYTES": b"", "STRING": "", "JSON": "", "UUID": ""}
    tag = message(kind, texts.get(kind, 0))[: 2 if kind in ("JSON", "UUID") else 1]
    column = [tag + one for one in values]
    try:
        array = wire._columns(column, kind.lower())
    except wire.Unusual:
        return
    field = f"{kind.lower()}_val"
    got = plain(array) if kind != "BOOL" else array.cast(pa.int64()).to_pylist()
    for one, mine in zip(column, got, strict=True):
        right = getattr(Value.FromString(one), field)
        assert mine == right or (mine != mine and right != right)


def test_values_that_are_no_such_type_are_not_written() -> None:
    with pytest.raises(InputError, match="feature rate: string can't be written as DOUBLE"):
        wire.encode(pa.array(["fast"]), ValueType.DOUBLE, "rate")


@pytest.mark.parametrize("kind", ["INT64_LIST", "STRING_SET", "UNIX_TIMESTAMP_LIST"])
def test_a_list_with_a_null_in_it_is_not_written(kind: str) -> None:
    with pytest.raises(InputError, match=f"feature many: a list holds a null, which {kind} has no place for; leave"):
        wire.encode(pa.array([[1, None], None], pa.list_(pa.int64())), ValueType[kind], "many")


def test_kinds_that_nest_go_through_protobuf() -> None:
    made = Value()
    made.map_val.val["a"].int64_val = 3
    assert wire.arrow_type(ValueType.MAP) is None
    assert wire.decode([made.SerializeToString()] * 20, ValueType.MAP, "x").to_pylist() == [{"a": 3}] * 20
