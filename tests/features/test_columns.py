"""Columns decoded together, a few values one by one and many at once, against the decoder of one column."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from feast.protos.feast.types.Value_pb2 import Value
from feast.value_type import ValueType
from features.test_wire import NUMBERS, SCALARS, message, plain
from hypothesis import given, settings
from hypothesis import strategies as st

from hotlap.errors import Refusal
from hotlap.features import wire
from hotlap.features.columns import FEW, Columns

LISTS = {f"{one}_{form}": st.lists(SCALARS[one], max_size=5) for one in NUMBERS for form in ("LIST", "SET")}
KINDS = SCALARS | LISTS


@st.composite
def tables(draw: st.DrawFn, most_rows: int = 6) -> tuple[list[tuple[str, ValueType]], list[list[Any]]]:
    """Columns with their types, and the values of each."""
    kinds = draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=8))
    rows = draw(st.integers(0, most_rows))
    columns = [(f"{kind.lower()} {place}", ValueType[kind]) for place, kind in enumerate(kinds)]
    return columns, [draw(st.lists(st.none() | KINDS[kind], min_size=rows, max_size=rows)) for kind in kinds]


def serialized(columns: list[tuple[str, ValueType]], values: list[list[Any]]) -> list[list[bytes | None]]:
    return [
        [None if one is None else message(kind.name, one) for one in column]
        for (_, kind), column in zip(columns, values, strict=True)
    ]


@settings(max_examples=150, deadline=None)
@given(tables(), st.sampled_from([1, 60]))
def test_columns_are_what_they_are_one_by_one(
    table: tuple[list[tuple[str, ValueType]], list[list[Any]]], times: int
) -> None:
    columns, values = table
    raw = [one * times for one in serialized(columns, values)]
    made = Columns(columns).decode(raw)
    for (name, kind), own, array in zip(columns, raw, made, strict=True):
        array.validate(full=True)
        assert array.equals(wire.decode(own, kind, name))
    assert [plain(one) for one in made] == [one * times for one in values]


@settings(max_examples=100, deadline=None)
@given(tables())
def test_a_table_has_the_columns_given_before_the_others(
    table: tuple[list[tuple[str, ValueType]], list[list[Any]]],
) -> None:
    columns, values = table
    raw, keys = serialized(columns, values), list(range(len(values[0])))
    both = Columns(columns, [("who", pa.int32())])
    made = both.few([keys], raw)
    assert made is not None
    made.table.validate(full=True)
    wanted = pa.table([pa.array(keys, pa.int32()), *both.decode(raw)], ["who", *both.names])
    assert made.table.equals(wanted)
    try:
        told = repr(wanted.to_pydict())  # as text, for NaN is not equal to itself
    except OverflowError:
        return  # Python has no such date.
    assert repr(made.to_dict()) == told


def test_what_is_held_stays_what_was_read() -> None:
    keys = [1, 2]
    held = Columns([("x", ValueType.DOUBLE)], [("who", pa.int64())]).few([keys], [[message("DOUBLE", 1.5), None]])
    assert held is not None
    keys[0] = 9
    held.to_dict()["x"][0] = 7.0
    assert held.to_dict() == {"who": [1, 2], "x": [1.5, None]}
    assert held.table.to_pydict() == {"who": [1, 2], "x": [1.5, None]}


def test_many_values_and_columns_of_unknown_type_make_no_table_at_once() -> None:
    value = message("DOUBLE", 1.5)
    columns = Columns([("x", ValueType.DOUBLE)], [("who", pa.int64())])
    assert columns.few([[1] * FEW], [[value] * FEW]) is not None
    assert columns.few([[1] * (FEW + 1)], [[value] * (FEW + 1)]) is None
    assert Columns([("x", ValueType.DOUBLE)]).few([[1]], [[value]]) is None
    assert Columns([("x", ValueType.MAP)], [("who", pa.int64())]).few([[1]], [[b""]]) is None


def test_no_columns_are_no_arrays() -> None:
    assert Columns([]).decode([]) == []


@settings(max_examples=500, deadline=None)
@given(st.binary(min_size=1, max_size=14), st.sampled_from(sorted(KINDS)))
def test_any_bytes_are_read_as_protobuf_reads_them_or_left_to_it(rest: bytes, kind: str) -> None:
    empty: Any = [] if kind in LISTS else {"BYTES": b"", "STRING": "", "JSON": "", "UUID": ""}.get(kind, 0)
    begin = message(kind, empty)[: 1 if len(wire.tag(f"{kind.lower()}_val")) == 1 else 2]
    made = Columns([("x", ValueType[kind])])._few([[begin + rest]])
    if made is None:
        return
    found = getattr(Value.FromString(begin + rest), f"{kind.lower()}_val")
    right = list(found.val) if kind in LISTS else found
    mine = made[0][0]
    if kind.startswith("UNIX_TIMESTAMP"):
        mine = [one // 1_000_000 for one in mine] if kind in LISTS else mine // 1_000_000
    assert mine == right or str(mine) == str(right)  # NaN


@pytest.mark.parametrize("rows", [1, FEW])
def test_a_value_of_another_kind_is_refused_by_its_columns_name(rows: int) -> None:
    columns = Columns([("fine", ValueType.DOUBLE), ("rate", ValueType.DOUBLE)])
    with pytest.raises(Refusal, match="feature rate is stored as INT64, and its definition says DOUBLE"):
        columns.decode([[message("DOUBLE", 1.0)] * rows, [message("INT64", 3)] * rows])


@pytest.mark.parametrize("seconds", [2**62, -(2**62)])
def test_a_moment_past_what_microseconds_hold_is_left_to_protobuf(seconds: int) -> None:
    assert Columns([("at", ValueType.UNIX_TIMESTAMP)])._few([[message("UNIX_TIMESTAMP", seconds)]]) is None
