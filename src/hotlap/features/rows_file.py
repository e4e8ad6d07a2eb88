"""Rows that a person brings in a file: Parquet, JSON lines, or CSV, whose text becomes what the repository declares."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from hotlap.errors import InputError
from hotlap.features import times

_BOOLEANS = {"true": True, "false": False, "1": True, "0": False}


def read(path: Path, flag: str, kinds: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """The rows of a .parquet, .jsonl or .csv file; `flag` is the option that named it.

    kinds: the types of columns in a CSV file; other columns stay text, so that a key such as 007 is not made a number
    of. In JSON they are those of instants. Raises InputError for what can't be read.
    """
    if path.suffix not in (".parquet", ".csv", ".jsonl"):
        raise InputError(f"{flag} {path}: give a .parquet, .csv or .jsonl file")
    if not path.exists():
        raise InputError(f"{flag} {path}: no such file")
    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path, glob=False)
        if path.suffix == ".jsonl":
            with path.open("rb") as file:  # a path would be read as a pattern
                return _with_times(pl.read_ndjson(file, infer_schema_length=None), kinds, f"{flag} {path}")
        text = pl.read_csv(path, infer_schema=False, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        told = str(error).splitlines()[0]
        raise InputError(f"{flag} {path}: can't be read as {path.suffix[1:]}: {told}") from error
    return text.with_columns(
        typed(text[name], kinds[name], f"{flag} {path}: column {name}") for name in text.columns if name in kinds
    )


def _with_times(rows: pl.DataFrame, kinds: Mapping[str, pl.DataType], where: str) -> pl.DataFrame:
    """JSON has no form for instants; they are text there."""
    return rows.with_columns(
        typed(rows[name], kinds[name], f"{where}: column {name}")
        for name, kind in rows.schema.items()
        if kind == pl.String and isinstance(kinds.get(name), pl.Datetime)
    )


def typed(text: pl.Series, kind: pl.DataType, where: str) -> pl.Series:
    """Text as values of a type; null stays null. `where` says whose it is.

    Raises InputError for what is no such value.
    """
    if kind == pl.String:
        return text
    if kind == pl.Boolean:
        made = text.str.to_lowercase().replace_strict(_BOOLEANS, default=None, return_dtype=pl.Boolean)
    elif isinstance(kind, pl.Datetime):
        made = text.to_frame().select(times.from_iso(pl.col(text.name)).alias(text.name)).to_series()
    elif kind.is_numeric():
        made = text.str.strip_chars().cast(kind, strict=False)
    else:
        raise InputError(f"{where} is {kind}, which has no form as text here; give JSON lines or Parquet")
    wrong = text.filter(text.is_not_null() & made.is_null())
    if len(wrong):
        raise InputError(f"{where} has {wrong[0]!r}, which is no {kind}")
    return made
