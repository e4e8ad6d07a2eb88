"""Keys to look up: taken in any form, and written as Feast writes an entity's key into its online stores."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from feast.value_type import ValueType

from hotlap.errors import InputError

_STRING = 2
_WHOLE = {ValueType.INT32: (3, "<IIi", 4), ValueType.INT64: (4, "<IIq", 8), ValueType.UNIX_TIMESTAMP: (8, "<IIq", 8)}
_TEXT = {ValueType.STRING: (2, str), ValueType.BYTES: (1, bytes)}
ARROW = {
    ValueType.INT32: pa.int32(), ValueType.INT64: pa.int64(), ValueType.STRING: pa.string(),
    ValueType.BYTES: pa.binary(), ValueType.UNIX_TIMESTAMP: pa.int64(),
}  # fmt: skip
"""The types that Feast can make a key of, and how they come back."""


def columns(keys: Any) -> dict[str, list[Any]]:
    """The columns by name, as Python values; a missing value is None.

    keys: a dict of columns, a list of dicts with the same names, a pandas or polars frame, or an Arrow table.
    Raises InputError for anything else, and where columns differ in length.
    """
    if isinstance(keys, pa.Table):
        _check_names(keys.column_names)
        return {name: keys[name].to_pylist() for name in keys.column_names}
    if isinstance(keys, Mapping):
        named = {str(name): _listed(column) for name, column in keys.items()}
    elif isinstance(keys, Sequence) and not isinstance(keys, str | bytes):
        named = _from_rows(keys)
    elif hasattr(keys, "columns") and hasattr(keys, "shape"):
        _check_names([*keys.columns])
        named = {str(name): _listed(keys[name]) for name in keys.columns}
    else:
        raise InputError(
            f"keys: a {type(keys).__name__}; give a dict of columns, a list of dicts, a frame or an Arrow table"
        )
    lengths = {name: len(column) for name, column in named.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise InputError(f"keys: columns differ in length ({told})")
    return named


def _check_names(names: list[Any]) -> None:
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise InputError(f"keys: two columns are named {twice}; rename or drop one")


def _from_rows(rows: Sequence[Any]) -> dict[str, list[Any]]:
    if not all(isinstance(row, Mapping) for row in rows):
        raise InputError("keys: a list of something else than dicts; give a dict for each row, or a dict of columns")
    if any(row.keys() != rows[0].keys() for row in rows):
        raise InputError("keys: the rows have different names; give each row the same keys")
    if not rows:
        raise InputError("keys: an empty list, so not even their names are known; give a dict of columns, such as "
                         '{"driver_id": []}')  # fmt: skip
    return {str(name): [row[name] for row in rows] for name in rows[0]}


def _listed(column: Any) -> list[Any]:
    if isinstance(column, list):
        return column
    if isinstance(column, np.ndarray):
        return list(np.atleast_1d(column).tolist())
    for method in ("to_list", "to_pylist", "tolist"):
        if hasattr(column, method):
            return list(getattr(column, method)())
    if isinstance(column, str | bytes) or not hasattr(column, "__iter__"):
        raise InputError(f"keys: {column!r} is one value; give a column of them, as in [{column!r}]")
    return list(column)


def normal(column: list[Any], kind: ValueType, name: str) -> list[Any]:
    """The column as plain ints, texts or bytes; None where there is none. Raises InputError for other values."""
    if kind in _WHOLE:
        if all(type(one) is int for one in column):
            return column
        return [_whole(one, name) for one in column]
    if kind not in _TEXT:
        raise InputError(f"key {name} is of type {kind.name}, of which Feast makes no keys")
    wanted = _TEXT[kind][1]
    if all(type(one) is wanted for one in column):
        return column
    return [_text(one, wanted, kind, name) for one in column]


def _whole(value: Any, name: str) -> int | None:
    if _absent(value):
        return None
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, float | np.floating) and value.is_integer():
        return int(value)
    raise InputError(f"key {name}: {value!r} is no whole number, as the entity's keys are")


def _text(value: Any, wanted: type, kind: ValueType, name: str) -> Any:
    if _absent(value):
        return None
    if isinstance(value, wanted):
        return value
    raise InputError(f"key {name}: {value!r} is a {type(value).__name__}, and the entity's keys are {kind.name}")


def _absent(value: Any) -> bool:
    """None, NaN, NaT, or pandas' NA, which is neither equal to itself nor different."""
    return value is None or type(value).__name__ == "NAType" or (np.isscalar(value) and bool(value != value))


def encode(parts: Sequence[tuple[str, list[Any], ValueType]]) -> list[bytes | None]:
    """Each row's key as bytes, the third version of Feast's entity keys; None where a part of it is missing.

    parts: the join key's name in Feast, its normal column, and its type. Feast orders the parts by name.
    Source: feast.infra.key_encoding_utils.serialize_entity_key. Raises InputError for a number that does not fit.
    """
    ordered = sorted(parts, key=lambda part: part[0]) if len(parts) > 1 else parts
    head = _head(tuple(name for name, _, _ in ordered))
    encoded = [_encoded(*part) for part in ordered]
    if len(encoded) == 1:
        return [None if one is None else head + one for one in encoded[0]]
    return [None if None in row else head + b"".join(row) for row in zip(*encoded, strict=True)]


@lru_cache(maxsize=1024)
def _head(names: tuple[str, ...]) -> bytes:
    """What a key of those parts begins with."""
    head = struct.pack("<I", len(names))
    for name in names:
        text = name.encode()
        head += struct.pack("<II", _STRING, len(text)) + text
    return head


def _encoded(name: str, column: list[Any], kind: ValueType) -> list[bytes | None]:
    if kind in _WHOLE:
        number, form, width = _WHOLE[kind]
        pack = struct.Struct(form).pack
        try:
            return [None if one is None else pack(number, width, one) for one in column]
        except struct.error:
            most = 2 ** (8 * width - 1)
            wrong = next(one for one in column if one is not None and not -most <= one < most)
            raise InputError(f"key {name}: {wrong} does not fit {kind.name}") from None
    number, pack = _TEXT[kind][0], struct.Struct("<II").pack
    try:
        texts = [one if one is None or kind is ValueType.BYTES else one.encode() for one in column]
    except UnicodeEncodeError as error:
        raise InputError(f"key {name}: {error.object!r} is no text that can be written as UTF-8") from None
    return [None if one is None else pack(number, len(one)) + one for one in texts]
