"""Entity frames: the rows that features are asked for, in whatever form they come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from hotlap.errors import InputError
from hotlap.features import times
from hotlap.features.source import files

EVENT = "event_timestamp"
"""Feast's name for an entity frame's time column, taken where nobody names another."""


def read(entities: Any) -> pl.LazyFrame:
    """The frame, lazily: a pandas or polars frame, an Arrow table, or the path of a Parquet file or folder.

    Raises InputError for columns of one name, and for anything else; a query in SQL is one of them, since files answer
    none.
    """
    if isinstance(entities, pl.LazyFrame):
        return entities
    if isinstance(entities, pl.DataFrame):
        return entities.lazy()
    if isinstance(entities, str | Path):
        path = Path(entities)
        try:
            there = path.exists()
        except OSError as error:
            raise InputError(f"entities {entities}: can't be read: {error.strerror}; give another path") from None
        if not there:
            raise InputError(f"entities {entities}: no such file; give a frame, or the path of a Parquet file")
        held = files(path) if path.is_dir() else [path]
        if not held:
            raise InputError(f"entities {entities}: the folder holds no .parquet file; give one that does")
        frame = pl.scan_parquet(held, glob=False)
        try:
            frame.collect_schema()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise InputError(f"entities {entities}: can't be read as Parquet: {str(error).splitlines()[0]}") from error
        return frame
    import pyarrow as pa

    named = list(entities.column_names if isinstance(entities, pa.Table) else getattr(entities, "columns", ()))
    twice = sorted({str(name) for name in named if named.count(name) > 1})
    if twice:
        raise InputError(f"entities: there are several columns {', '.join(twice)}; rename or drop all but one")
    if isinstance(entities, pa.Table):
        return _from_arrow(entities).lazy()
    if hasattr(entities, "columns") and hasattr(entities, "dtypes"):
        return _from_pandas(entities).lazy()
    raise InputError(f"entities: a {type(entities).__name__}; give a pandas or polars frame, an Arrow table or a path")


def event_column(schema: pl.Schema, named: str | None = None) -> str:
    """The column of instants: the one named, else `event_timestamp`, else the only timestamp there is."""
    if named is not None:
        if named not in schema:
            raise InputError(f"entities: no column {named}; they have {', '.join(schema)}")
        return named
    if EVENT in schema:
        return EVENT
    stamps = [name for name, kind in schema.items() if isinstance(kind, pl.Datetime)]
    if len(stamps) != 1:
        found = f"{', '.join(stamps)} are all timestamps" if stamps else "no column is a timestamp"
        raise InputError(f"entities: {found}; name the column of instants {EVENT}, or say which it is")
    return stamps[0]


def in_utc(entities: pl.LazyFrame, at: str) -> pl.LazyFrame:
    """The frame with its column of instants in UTC. Instants without a zone count as UTC; text is read as ISO 8601."""
    kind = entities.collect_schema()[at]
    own = pl.col(at)
    if kind == pl.String:
        parsed = times.from_iso(own).alias(at)
        wrong = entities.filter(own.is_not_null() & parsed.is_null()).select(own).head(1).collect(engine="streaming")
        if len(wrong):
            raise InputError(
                f"entities: column {at} is text that can't be read as ISO 8601: {wrong.item()!r}; write it as "
                "2026-11-25T08:00:00+00:00, to the microsecond at most"
            )
        return entities.with_columns(parsed)
    if kind == pl.Date:
        return entities.with_columns(own.cast(pl.Datetime("us", "UTC")))
    if not isinstance(kind, pl.Datetime):
        raise InputError(f"entities: column {at} is {kind}, not a timestamp; convert it, or name another column")
    stamped = own.dt.convert_time_zone("UTC") if kind.time_zone else own.dt.replace_time_zone("UTC")
    return entities.with_columns(stamped)


def _from_pandas(frame: Any) -> pl.DataFrame:
    """Through Arrow, which takes pandas' types as they are; objects that mix zones become UTC first."""
    import pandas as pd
    import pyarrow as pa

    fixed = {
        name: pd.to_datetime(column, utc=True)
        for name, column in frame.items()
        if column.dtype == object and len(column) and hasattr(column.iloc[0], "tzinfo")
    }
    return _from_arrow(pa.Table.from_pandas(frame.assign(**fixed) if fixed else frame, preserve_index=False))


def _from_arrow(table: Any) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame
