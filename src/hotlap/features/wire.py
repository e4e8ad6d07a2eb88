"""Columns of serialized Feast values (`feast.types.Value`) as Arrow arrays, without a message made for each.

Protobuf's wire format (https://protobuf.dev/programming-guides/encoding/): a value is a tag, which says which kind it
is, and eight bytes, four bytes, a varint, or a length and bytes. A column of one kind is read with NumPy over all its
bytes at once. A few values, and kinds that nest, go through protobuf; so does what is not written as Feast writes it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, cast

import numpy as np
import pyarrow as pa
from feast.protos.feast.types.Value_pb2 import Value
from feast.value_type import ValueType
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from hotlap.core import Array
from hotlap.errors import InputError, Refusal

_FEW = 12
"""Below this many values protobuf is faster than NumPy's calls."""
_UTC = pa.timestamp("us", "UTC")
_ITEMS: dict[str, pa.DataType] = {
    "bytes": pa.binary(), "string": pa.string(), "int32": pa.int32(), "int64": pa.int64(), "double": pa.float64(),
    "float": pa.float32(), "bool": pa.bool_(), "unix_timestamp": _UTC, "json": pa.string(), "uuid": pa.string(),
    "time_uuid": pa.string(), "decimal": pa.string(),
}  # fmt: skip
_FIXED = {"double": ("<f8", 8), "float": ("<f4", 4)}
_FIELDS = {field.name: field.number for field in Value.DESCRIPTOR.fields}


NO_MOMENT = -(1 << 63)
"""Feast's null among timestamps."""
_MOST_SECONDS = ((1 << 63) - 1) // 1_000_000
_SECONDS = 6
"""A tag, and five bytes of seven bits each."""


class Unusual(Exception):
    """The bytes are not as Feast writes them; protobuf decides."""


def arrow_type(kind: ValueType) -> pa.DataType | None:
    """The Arrow type of a feature of that kind; None for kinds that nest, whose type their values say."""
    name = kind.name.lower()
    if name in _ITEMS:
        return _ITEMS[name]
    base, _, form = name.rpartition("_")
    return pa.list_(_ITEMS[base]) if form in ("list", "set") and base in _ITEMS else None


def decode(values: Sequence[bytes | None], kind: ValueType, feature: str) -> pa.Array:
    """The values as an Arrow array of `arrow_type(kind)`; None, no bytes and Feast's null become null.

    Timestamps are whole seconds, as Feast keeps them, in microseconds UTC. Raises Refusal where a value is of another
    kind than the feature's definition says.
    """
    name = kind.name.lower()
    try:
        if len(values) > _FEW:
            return _columns(values, name)
    except Unusual:
        pass
    return _by_protobuf(values, name, kind, feature)


def _columns(values: Sequence[bytes | None], name: str) -> pa.Array:
    decoder = _decoder(name)
    if decoder is None:
        raise Unusual
    present = [one for one in values if one]
    array = decoder(present, tag(f"{name}_val"))
    if len(present) == len(values):
        return array
    taken = np.cumsum(np.fromiter(map(bool, values), bool, len(values))) - 1
    there = np.fromiter(map(bool, values), bool, len(values))
    return array.take(pa.array(taken, mask=~there))


def _decoder(name: str) -> Callable[[list[bytes], bytes], pa.Array] | None:
    base, _, form = name.rpartition("_")
    if name in _FIXED:
        kind, width = _FIXED[name]
        return lambda values, tag: pa.array(_body(values, tag, width).view(kind)[:, 0])
    if name in ("int32", "int64", "bool", "unix_timestamp"):
        return lambda values, tag: _whole(_varints(*_joined(values, tag)), name)
    if name in _ITEMS:
        return lambda values, tag: _texts(*_joined(values, tag), _ITEMS[name])
    if form in ("list", "set") and base in ("double", "float", "int32", "int64", "bool", "unix_timestamp"):
        return lambda values, tag: _lists(*_joined(values, tag), base)
    return None


def tag(field: str) -> bytes:
    """What a value of that field of `feast.types.Value` begins with."""
    kind = {"double_val": 1, "float_val": 5}.get(field)
    if kind is None:
        kind = 0 if field in ("int32_val", "int64_val", "bool_val", "unix_timestamp_val") else 2
    number = _FIELDS[field] << 3 | kind
    return bytes([number]) if number < 128 else bytes([number & 127 | 128, number >> 7])


def _joined(values: list[bytes], tag: bytes) -> tuple[Array, Array, Array]:
    """All bytes after one another, and where each value begins and ends, its tag left out."""
    data = np.frombuffer(b"".join(values), np.uint8)
    ends = np.cumsum(np.fromiter(map(len, values), np.int64, len(values)))
    begins = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    for byte in tag:
        if (begins >= ends).any() or (data[begins] != byte).any():
            raise Unusual
        begins = begins + 1
    return data, begins, ends


def _body(values: list[bytes], tag: bytes, width: int) -> Array:
    """uint8[values, width]: what follows a tag of one byte."""
    data = np.frombuffer(b"".join(values), np.uint8)
    if len(data) != len(values) * (width + 1) or not {*map(len, values)} <= {width + 1}:
        raise Unusual
    table = data.reshape(-1, width + 1)
    if (table[:, 0] != tag[0]).any():
        raise Unusual
    return np.ascontiguousarray(table[:, 1:])


def _varints(data: Array, begins: Array, ends: Array) -> Array:
    """int64: the varint that fills each stretch."""
    lengths = ends - begins
    if not len(lengths):
        return np.empty(0, np.int64)
    if lengths.min() < 1 or lengths.max() > 10 or (data[ends - 1] & 128).any():
        raise Unusual
    numbers = np.zeros(len(lengths), np.uint64)
    for place in range(int(lengths.max())):
        there = np.flatnonzero(lengths > place)
        byte = data[begins[there] + place]
        if (byte[lengths[there] > place + 1] < 128).any():
            raise Unusual
        numbers[there] |= (byte & np.uint8(127)).astype(np.uint64) << np.uint64(7 * place)
    return numbers.view(np.int64)


def _whole(numbers: Array, name: str) -> pa.Array:
    if name == "unix_timestamp":
        absent = numbers == NO_MOMENT
        known = np.where(absent, 0, numbers)
        if ((known > _MOST_SECONDS) | (known < -_MOST_SECONDS)).any():
            raise Unusual
        return pa.array(known * 1_000_000, mask=absent).cast(_UTC)
    if name == "int32":
        return pa.array(numbers.astype(np.int32))
    return pa.array(numbers != 0 if name == "bool" else numbers)


def _after_length(data: Array, begins: Array, ends: Array) -> Array:
    """Where the body of each stretch begins, whose length stands before it and must fill the stretch."""
    starts = begins.copy()
    for _ in range(5):
        open_ = np.flatnonzero((starts == begins) | (data[np.maximum(starts - 1, 0)] & 128).astype(bool))
        if not len(open_):
            break
        if (starts[open_] >= ends[open_]).any():
            raise Unusual
        starts[open_] += 1
    if (_varints(data, begins, starts) != ends - starts).any():
        raise Unusual
    return starts


def _without_heads(data: Array, starts: Array, ends: Array) -> Array:
    """The bytes of the bodies, after one another."""
    before = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    edges = np.zeros(len(data) + 1, np.int8)
    np.add.at(edges, before, 1)
    np.subtract.at(edges, starts, 1)
    kept: Array = data[np.cumsum(edges[:-1]) == 0]
    return kept


def _texts(data: Array, begins: Array, ends: Array, kind: pa.DataType) -> pa.Array:
    starts = _after_length(data, begins, ends)
    offsets = np.concatenate([[0], np.cumsum(ends - starts)])
    if offsets[-1] > np.iinfo(np.int32).max:
        raise Unusual
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(_without_heads(data, starts, ends))]
    array = pa.Array.from_buffers(kind, len(starts), buffers)
    try:
        array.validate(full=True)
    except pa.ArrowInvalid as error:  # text that is not UTF-8
        raise Unusual from error
    return array


def _lists(data: Array, begins: Array, ends: Array, base: str) -> pa.Array:
    """Lists of numbers: a message of one packed field, or of nothing."""
    starts = _after_length(data, begins, ends)
    full = np.flatnonzero(starts < ends)
    if (data[starts[full]] != 0x0A).any():
        raise Unusual
    starts[full] = _after_length(data, starts[full] + 1, ends[full])
    body = _without_heads(data, starts, ends)
    sizes = ends - starts
    if base in _FIXED:
        kind, width = _FIXED[base]
        if (sizes % width).any():
            raise Unusual
        counts, items = sizes // width, pa.array(body.view(kind))
    else:
        last = np.flatnonzero(body < 128)
        upto = np.concatenate([[0], np.cumsum(sizes)])
        counts = np.diff(np.searchsorted(last, upto))
        if len(body) and ((sizes > 0) & (body[np.maximum(upto[1:] - 1, 0)] >= 128)).any():
            raise Unusual
        items = _whole(_varints(body, np.concatenate([[0], last[:-1] + 1]) if len(last) else last, last + 1), base)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), items)


def _by_protobuf(values: Sequence[bytes | None], name: str, kind: ValueType, feature: str) -> pa.Array:
    wanted, form = f"{name}_val", arrow_type(kind)
    nested = name.endswith(("_list", "_set")) and form is not None
    made: list[Any] = []
    message = Value()
    for one in values:
        if not one:
            made.append(None)
            continue
        try:
            message.ParseFromString(one)
        except DecodeError:
            raise Refusal(
                f"feature {feature}: the store holds bytes that are no value of Feast's; materialize it again"
            ) from None
        found = message.WhichOneof("val")
        if found in (None, "null_val"):
            made.append(None)
        elif found != wanted and form is not None:
            raise Refusal(
                f"feature {feature} is stored as {found.removesuffix('_val').upper()}, and its definition says "
                f"{kind.name}; materialize its view again"
            )
        elif form is None:
            from feast.type_map import feast_value_type_to_python_type

            copy = Value()
            copy.CopyFrom(message)
            made.append(feast_value_type_to_python_type(copy))
        else:
            made.append(list(getattr(message, wanted).val) if nested else getattr(message, wanted))
    if form is None:
        return pa.array(made)
    if name.startswith("unix_timestamp"):
        try:
            return _in_microseconds(made, nested)
        except OverflowError:
            raise Refusal(
                f"feature {feature}: the store holds an instant that microseconds can't; materialize its view again"
            ) from None
    return pa.array(made, form)


def _in_microseconds(seconds: list[Any], nested: bool) -> pa.Array:
    def made(one: int | None) -> int | None:
        return None if one is None or one == NO_MOMENT else one * 1_000_000

    if not nested:
        return pa.array(map(made, seconds), pa.int64()).cast(_UTC)
    lengths = [0 if one is None else len(one) for one in seconds]
    items = pa.array(map(made, chain.from_iterable(one or () for one in seconds)), pa.int64())
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    mask = pa.array([one is None for one in seconds], pa.bool_())
    return pa.ListArray.from_arrays(pa.array(offsets), items.cast(_UTC), mask=mask)


def moments(stamps: Sequence[bytes]) -> list[int]:
    """Microseconds since 1970, UTC, of serialized `google.protobuf.Timestamp` messages."""
    try:
        if len(stamps) > _FEW:
            return cast(list[int], _moments(stamps).tolist())
    except Unusual:
        pass
    return [one.seconds * 1_000_000 + one.nanos // 1000 for one in map(Timestamp.FromString, stamps)]


def _moments(stamps: Sequence[bytes]) -> Array:
    """Of seconds that take five bytes, which are those from 2004 to 3058, and nanoseconds where there are any."""
    lengths = np.fromiter(map(len, stamps), np.int64, len(stamps))
    if lengths.min() < _SECONDS:
        raise Unusual
    data = np.frombuffer(b"".join(stamps), np.uint8)
    ends = np.cumsum(lengths)
    begins = ends - lengths
    if (data[begins] != 0x08).any() or (data[begins + _SECONDS - 1] >= 128).any():
        raise Unusual
    made: Array = _varints(data, begins + 1, begins + _SECONDS) * 1_000_000
    fine = np.flatnonzero(lengths > _SECONDS)
    if len(fine):
        at = begins[fine] + _SECONDS
        if (data[at] != 0x10).any():
            raise Unusual
        made[fine] += _varints(data, at + 1, ends[fine]) // 1000
    return made


def encode(array: pa.Array, kind: ValueType, feature: str) -> list[bytes]:
    """Each value as Feast would write it; null as no bytes. The inverse of `decode`.

    Raises InputError where the values can't be cast to the feature's type.
    """
    form, name = arrow_type(kind), kind.name.lower()
    if form is not None:
        try:
            array = array.cast(form)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            told = str(error).splitlines()[0]
            raise InputError(f"feature {feature}: {array.type} can't be written as {kind.name}: {told}") from None
    if pa.types.is_list(array.type) and array.flatten().null_count:
        raise InputError(f"feature {feature}: a list holds a null, which {kind.name} has no place for; leave it out")
    if name.startswith("unix_timestamp"):
        array = _in_seconds(array)
    values = array.to_pylist()
    write = _writer(name)
    if write is not None:
        begin = tag(f"{name}_val")
        return [b"" if one is None else begin + write(one) for one in values]
    return [b"" if one is None else _message(one, name, kind) for one in values]


def _writer(name: str) -> Callable[[Any], bytes] | None:
    if name in _FIXED:
        return struct.Struct("<d" if name == "double" else "<f").pack
    if name in ("int32", "int64", "bool", "unix_timestamp"):
        return lambda one: _varint(int(one) & 0xFFFFFFFFFFFFFFFF)
    if name == "bytes":
        return lambda one: _varint(len(one)) + one
    if name in _ITEMS:
        return lambda one: _varint(len(text := one.encode())) + text
    return None


def _varint(number: int) -> bytes:
    made = bytearray()
    while number > 127:
        made.append(number & 127 | 128)
        number >>= 7
    made.append(number)
    return bytes(made)


def _message(value: Any, name: str, kind: ValueType) -> bytes:
    if arrow_type(kind) is None:
        from feast.type_map import python_values_to_proto_values

        return bytes(python_values_to_proto_values([value], kind)[0].SerializeToString())
    message = Value()
    field = getattr(message, f"{name}_val")
    field.SetInParent()
    field.val.extend(value)
    return bytes(message.SerializeToString())


def _in_seconds(array: pa.Array) -> pa.Array:
    """Whole seconds, the earlier one."""
    if pa.types.is_list(array.type):
        lists = array.cast(pa.list_(pa.int64())).to_pylist()
        return pa.array([None if one is None else [each // 1_000_000 for each in one] for one in lists])
    numbers = array.cast(pa.int64()).to_pylist()
    return pa.array([None if one is None else one // 1_000_000 for one in numbers], pa.int64())
