"""Columns in another type, where that loses nothing and makes no other kind of thing of a value."""

from __future__ import annotations

from decimal import Decimal

import polars as pl

_TEXTS = (pl.String, pl.Categorical, pl.Enum)
_CALLED = {"Boolean": "true or false", "Int32": "whole numbers (Int32)", "Int64": "whole numbers (Int64)",
           "Datetime": "instants", "String": "text"}  # fmt: skip


class Unfit(Exception):
    """A value of the column has no counterpart in the type; the message says which, and what the type holds."""


def fitted(column: pl.Series, kind: pl.DataType) -> pl.Series:
    """The column in a type that can hold its values as they are.

    Whole numbers become whole numbers of another width and floats that are exactly they; floats that are whole become
    whole numbers; a float becomes a float32 by rounding, but not infinity; decimals become numbers that are exactly
    they; dates become instants, and instants of midnight dates; instants those of another unit or zone; text stays
    text; lists are taken item by item; nulls become nulls of any type. Raises Unfit for all else.
    """
    own = column.dtype
    if own == kind or own == pl.Null:
        return column.cast(kind)
    if isinstance(own, pl.List | pl.Array) and isinstance(kind, pl.List):
        items = column.cast(pl.List(own.inner)).explode().drop_nulls()
        fitted(items, kind.inner)  # type: ignore[arg-type]
        return column.cast(kind)
    if own.is_nested() and kind.is_nested():
        try:
            return column.cast(kind)
        except pl.exceptions.PolarsError as error:
            raise Unfit(f"{own}, and what holds it is {kind}: {str(error).splitlines()[0]}") from None
    made = _made(column, kind)
    wrong = column.filter(column.is_not_null() & made.is_null())
    if len(wrong):
        value = wrong[0]
        told = f"{value:g}" if isinstance(value, float) else repr(value) if isinstance(value, str | bytes) else value
        raise Unfit(f"{told} ({own.base_type()}), where only {_CALLED.get(str(kind.base_type()), kind)} may stand")
    return made


def _made(column: pl.Series, kind: pl.DataType) -> pl.Series:
    """The column in the type, null where a value doesn't fit."""
    own = column.dtype
    if own.is_decimal() and kind.is_numeric():
        return _from_decimals(column, kind)
    if kind.is_integer() and own.is_integer():
        return column.cast(kind, strict=False)
    if kind.is_integer() and own.is_float():
        return _where(column == column.floor(), column.cast(kind, strict=False))
    if kind.is_float() and own.is_float():
        made = column.cast(kind)
        return _where(~(made.is_infinite() & column.is_finite()), made)
    if kind.is_float() and own.is_integer():
        made = column.cast(kind)
        return _where(made.cast(own, strict=False) == column, made)
    if kind.is_decimal() and own.is_integer():
        return column.cast(kind, strict=False)
    if own in _TEXTS and kind in _TEXTS:
        return column.cast(kind, strict=False)
    if isinstance(kind, pl.Datetime) and own == pl.Date:
        return column.cast(kind)
    if isinstance(kind, pl.Datetime) and isinstance(own, pl.Datetime):
        made = instants(column, kind)
        return _where(instants(made, own) == column, made)
    if kind == pl.Date and isinstance(own, pl.Datetime):
        made = column.cast(pl.Date)
        return _where(made.cast(own) == column, made)
    return pl.Series(column.name, [None] * len(column), dtype=kind)


def instants(column: pl.Series, kind: pl.Datetime) -> pl.Series:
    """In another unit, the earlier instant, and another zone; what has no zone is UTC."""
    own: pl.Datetime = column.dtype  # type: ignore[assignment]
    stamped = column.dt.convert_time_zone("UTC") if own.time_zone else column.dt.replace_time_zone("UTC")
    zoned = stamped.dt.convert_time_zone(kind.time_zone) if kind.time_zone else stamped.dt.replace_time_zone(None)
    return zoned.dt.cast_time_unit(kind.time_unit)


def _where(mask: pl.Series, made: pl.Series) -> pl.Series:
    return made.set(~mask.fill_null(False), None)


def _from_decimals(column: pl.Series, kind: pl.DataType) -> pl.Series:
    made = column.cast(pl.Float64).cast(kind, strict=False) if kind.is_float() else column.cast(kind, strict=False)
    pairs = zip(column.to_list(), made.to_list(), strict=True)
    return _where(
        pl.Series([None not in pair and Decimal(pair[1]) == pair[0] for pair in pairs], dtype=pl.Boolean), made
    )
