"""The columns of an online read as Arrow arrays: a few values are read one by one, many with NumPy.

Each of NumPy's and Arrow's calls costs more than some values do: so those of one type are read together, and a few
values of all columns become one array of structs. What is not written as Feast writes it is left to `wire`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
from feast.protos.feast.types.Value_pb2 import Value
from feast.value_type import ValueType
from google.protobuf.message import DecodeError

from hotlap.errors import Refusal
from hotlap.features import wire
from hotlap.features.wire import Unusual

FEW = 300
"""Up to so many values are faster read one by one."""
_Read = Callable[[bytes], Any]


class Columns:
    """Columns by name and type, to be decoded together again and again.

    given: names and types of columns that come before them in a table, as Python values; None: of types not known.
    """

    def __init__(
        self, columns: Sequence[tuple[str, ValueType]], given: Sequence[tuple[str, pa.DataType]] | None = None
    ) -> None:
        self.names = [name for name, _ in columns]
        self._kinds = [kind for _, kind in columns]
        forms = [wire.arrow_type(kind) for kind in self._kinds]
        self._groups: dict[ValueType | int, list[int]] = {}
        for place, (kind, form) in enumerate(zip(self._kinds, forms, strict=True)):
            # The type of a column that nests is its values'.
            self._groups.setdefault(place if form is None else kind, []).append(place)
        known = None not in forms
        self._reads = list(map(_reader, self._kinds)) if known else None
        own = list(zip(self.names, forms, strict=True))
        self._form = pa.struct(own) if known else None
        self._table = pa.struct([*given, *own]) if known and given is not None else None
        self._all = [field.name for field in self._table or ()]
        self._plain = not any(map(_holds_moments, self._table or ()))

    def decode(self, raw: Sequence[Sequence[bytes | None]]) -> list[pa.Array]:
        """Each column's serialized values as an Arrow array of its type; all columns are of one length, or of several.

        None, no bytes and Feast's null become null. Raises Refusal where a value is of another type than its column.
        """
        made = self._few(raw)
        if made is not None:
            return list(pa.array(list(zip(*made, strict=True)), self._form).flatten())
        arrays: list[pa.Array] = [None] * len(self._kinds)
        for places in self._groups.values():
            for place, array in zip(places, self._together(raw, places), strict=True):
                arrays[place] = array
        return arrays

    def few(self, given: Sequence[Sequence[Any]], raw: Sequence[Sequence[bytes | None]]) -> Held | None:
        """The columns given and the decoded ones, all of one length; None where it is not few values, of types known
        before, each written as Feast does.
        """
        made = self._few(raw) if self._table is not None else None
        return None if made is None else Held((*map(list, given), *made), self._all, self._table, plain=self._plain)

    def _few(self, raw: Sequence[Sequence[bytes | None]]) -> list[list[Any]] | None:
        """Each column's Python values, where they are few."""
        if self._reads is None or len(raw) == 0 or len(raw) * len(raw[0]) > FEW or len(set(map(len, raw))) > 1:
            return None
        try:
            return [
                [read(one) if one else None for one in values] for values, read in zip(raw, self._reads, strict=True)
            ]
        except Unusual:
            return None

    def _together(self, raw: Sequence[Sequence[bytes | None]], places: list[int]) -> list[pa.Array]:
        """The columns of one type."""
        kind = self._kinds[places[0]]
        try:
            whole = wire.decode([one for place in places for one in raw[place]], kind, self.names[places[0]])
        except Refusal:
            for place in places:
                wire.decode(raw[place], kind, self.names[place])  # raises again, with the name of the column it is in
            raise
        arrays, start = [], 0
        for place in places:
            arrays.append(whole.slice(start, len(raw[place])))
            start += len(raw[place])
        return arrays


class Held:
    """Columns of one length as Python values. To make Arrow's arrays of a few takes longer than to look them up, so
    that is done once they are asked for.
    """

    __slots__ = ("_columns", "_form", "_names", "_plain", "_table")

    def __init__(self, columns: Sequence[list[Any]], names: Sequence[str], form: pa.StructType, *, plain: bool) -> None:
        """plain: Arrow gives these very values back."""
        self._columns, self._names, self._form, self._plain = columns, names, form, plain
        self._table: pa.Table | None = None

    @property
    def table(self) -> pa.Table:
        """The columns as Arrow has them."""
        if self._table is None:
            rows = list(zip(*self._columns, strict=True))
            self._table = pa.Table.from_struct_array(pa.array(rows, self._form))
        return self._table

    def to_dict(self) -> dict[str, list[Any]]:
        """Each column's Python values, as `table.to_pydict()` gives them."""
        if not self._plain:
            made: dict[str, list[Any]] = self.table.to_pydict()
            return made
        return {name: [*column] for name, column in zip(self._names, self._columns, strict=True)}


def _holds_moments(field: pa.Field) -> bool:
    """Whether Arrow makes other values of what is read."""
    return bool(pa.types.is_timestamp(field.type) or pa.types.is_nested(field.type))


def _reader(kind: ValueType) -> _Read:
    """What makes a Python value of one's bytes; it raises Unusual where they are not what Feast would write."""
    name = kind.name.lower()
    if name.endswith(("_list", "_set")):
        return partial(_items, f"{name}_val", name.startswith("unix_timestamp"))
    tag = wire.tag(f"{name}_val")
    if name in ("double", "float"):
        return _float("<d" if name == "double" else "<f", tag)
    reads = {"int32": _int32, "int64": _int64, "bool": _bool, "unix_timestamp": _moment, "bytes": _bytes}
    return partial(reads.get(name, _text), tag)


def _float(form: str, tag: bytes) -> _Read:
    first, unpack, length = tag[0], struct.Struct(form).unpack_from, 1 + struct.calcsize(form)

    def read(one: bytes) -> float:
        if len(one) != length or one[0] != first:
            raise Unusual
        value: float = unpack(one, 1)[0]
        return value

    return read


def _int64(tag: bytes, one: bytes) -> int:
    if one[0] != tag[0]:
        raise Unusual
    number, end = _varint(one, 1)
    if end != len(one):
        raise Unusual
    return number - (1 << 64) if number >> 63 else number


def _int32(tag: bytes, one: bytes) -> int:
    """The lower half, as protobuf takes it."""
    return (_int64(tag, one) + (1 << 31)) % (1 << 32) - (1 << 31)


def _bool(tag: bytes, one: bytes) -> bool:
    return _int64(tag, one) != 0


def _moment(tag: bytes, one: bytes) -> int | None:
    return _in_microseconds(_int64(tag, one))


def _bytes(tag: bytes, one: bytes) -> bytes:
    if not one.startswith(tag):
        raise Unusual
    length, begin = _varint(one, len(tag))
    if length != len(one) - begin:
        raise Unusual
    return one[begin:]


def _text(tag: bytes, one: bytes) -> str:
    try:
        return _bytes(tag, one).decode()
    except UnicodeDecodeError:
        raise Unusual from None


def _items(field: str, moments: bool, one: bytes) -> list[Any]:
    try:
        message = Value.FromString(one)
    except DecodeError:
        raise Unusual from None
    if message.WhichOneof("val") != field:
        raise Unusual
    items = getattr(message, field).val
    return [_in_microseconds(each) for each in items] if moments else list(items)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number, of 64 bits without a sign, and where it ends."""
    number = shift = 0
    for byte in data[at : at + 10]:
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return number & (1 << 64) - 1, at + shift // 7
    raise Unusual


def _in_microseconds(seconds: int) -> int | None:
    if seconds == wire.NO_MOMENT:
        return None
    made = seconds * 1_000_000
    if made >= 1 << 63 or made < -(1 << 63):
        raise Unusual
    return made
