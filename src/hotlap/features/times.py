"""Timestamps of any unit and zone as integers that compare exactly: us since 1970, UTC, or ns where any column is ns.

A column without a zone counts as UTC, as in Feast.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Literal

import numpy as np
import polars as pl

from hotlap.core import Array
from hotlap.errors import InputError

Unit = Literal["us", "ns"]
NEVER = np.iinfo(np.int64).min
"""What stands for a missing time: before all others."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def microseconds(moment: datetime) -> int:
    """Since 1970, UTC; a datetime without a zone is in UTC."""
    return ((moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment) - _EPOCH) // timedelta(microseconds=1)


def moment(microseconds: int) -> datetime:
    """The inverse, in UTC."""
    return _EPOCH + timedelta(microseconds=microseconds)


def to_live(view: str, ttl: timedelta | None) -> timedelta | None:
    """A view's time to live; None: its values don't expire, which Feast also writes as 0. Raises InputError below 0."""
    if ttl and ttl < timedelta(0):
        raise InputError(
            f"view {view}: its ttl is {ttl.total_seconds():g} s, less than 0; give a longer one, or 0 for values that "
            "don't expire"
        )
    return ttl or None


def unit(source: pl.Schema, entities: pl.Schema, columns: Iterable[str | None], at: str) -> Unit:
    """The coarsest unit in which all these columns are exact."""
    kinds = [source[column] for column in columns if column] + [entities[at]]
    return "ns" if any(isinstance(kind, pl.Datetime) and kind.time_unit == "ns" for kind in kinds) else "us"


def expression(column: str, schema: pl.Schema, unit: Unit) -> pl.Expr:
    """The column as Int64 in that unit; null where it is null. Times beyond what ns can hold become its ends."""
    kind = schema[column]
    own = pl.col(column)
    if kind == pl.Date:
        own, kind = own.cast(pl.Datetime("us")), pl.Datetime("us")
    if not isinstance(kind, pl.Datetime):
        raise InputError(f"column {column} is {kind}, not a timestamp; write it as one")
    if kind.time_unit == unit:
        return own.to_physical()
    if kind.time_unit == "ms":
        own = own.dt.cast_time_unit("us")
    if unit == "us":
        return own.to_physical()
    edge = np.iinfo(np.int64).max // 1000
    return own.to_physical().clip(-edge, edge) * 1000


def from_iso(text: pl.Expr) -> pl.Expr:
    """Instants in UTC, to the microsecond, of text in ISO 8601: a date, or a date and a time; without a zone it is UTC.

    Null where the text is anything else, has a fraction finer than a microsecond, or names a day that there is not.
    """
    parts = text.str.strip_chars().str.extract_groups(_ISO).struct
    fraction = parts.field("fraction").fill_null("").str.strip_chars_end("0")
    time = [parts.field(name).fill_null("00") for name in ("hour", "minute", "second")]
    told = pl.concat_str(
        *(parts.field(name) for name in ("year", "month", "day")), *time, fraction.str.pad_end(6, "0"), separator=" "
    )
    instant = told.str.to_datetime("%Y %m %d %H %M %S %6f", time_unit="us", strict=False)
    sign = pl.when(parts.field("sign") == "-").then(-1).otherwise(1)
    hours, minutes = (parts.field(name).cast(pl.Int64).fill_null(0) for name in ("zone_hours", "zone_minutes"))
    offset = pl.duration(minutes=sign * (60 * hours + minutes))
    return pl.when(fraction.str.len_chars() <= 6).then((instant - offset).dt.replace_time_zone("UTC"))


_ISO = (
    r"^(?<year>\d{4})(?:-(?<month>\d\d)-(?<day>\d\d)"
    r"(?:[T ](?<hour>[01]\d|2[0-3]):(?<minute>[0-5]\d)(?::(?<second>[0-5]\d)(?:[.,](?<fraction>\d+))?)?"
    r" ?(?:[Zz]|(?<sign>[+-])(?<zone_hours>\d\d)(?::?(?<zone_minutes>[0-5]\d))?)?)?)$"
)


def integers(column: pl.Series, unit: Unit) -> Array:
    """int64[rows]; NEVER where the column is null."""
    frame = column.to_frame()
    return frame.select(expression(column.name, frame.schema, unit).fill_null(NEVER)).to_series().to_numpy()


def between(column: str, schema: pl.Schema, unit: Unit, oldest: int | None, newest: int) -> pl.Expr:
    """A condition that a Parquet reader can use to skip row groups: never lets a row go that lies within."""
    kind = schema[column]
    if not isinstance(kind, pl.Datetime):
        return pl.lit(True)

    def literal(value: int, slack: int) -> pl.Expr:
        microseconds = (value // 1000 if unit == "ns" else value) + slack
        # A number, since polars and Python don't agree on the wall clocks of far years.
        return pl.lit(max(_LEAST, min(_MOST, microseconds))).cast(pl.Datetime("us", kind.time_zone))

    # A ms column is cut to us without loss; a millisecond of slack covers what ns or ms round off.
    condition = pl.col(column) <= literal(newest, 1000)
    return condition if oldest is None else condition & (pl.col(column) >= literal(oldest, -1000))


_LEAST, _MOST = np.iinfo(np.int64).min, np.iinfo(np.int64).max
