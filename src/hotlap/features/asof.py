"""The point-in-time join: for each entity row, the newest value of its key that counts at the row's instant.

Of a view's rows with the entity row's key, those count whose event time is at or before the instant and, where there
is a time to live, no older than that (both edges included). With `known_only` a row also counts only if it had been
created by then; a row without a created time was never known. Of those that count the one with the newest event time
wins, then the newest created time (no created time is the oldest), then the one that stands last in the source. A row
that lacks its event time, and a key that holds a null, match nothing.

Each key gets a number, and key and time are packed into one integer: a sorted search among integers then answers all
rows of all keys at once. For `known_only` a row is searched under the instant it became known, and what counts there
is the best of all rows of its key known by then: a running maximum, so that no pair of rows is ever compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import polars as pl

from hotlap.core import Array
from hotlap.errors import InputError
from hotlap.features import times
from hotlap.features.source import batches

_KEY, _EVENT, _CREATED = "__hotlap_key", "__hotlap_event", "__hotlap_created"
_LARGEST = np.iinfo(np.int64).max
_TEXT_BYTES = 32
"""What a value of no fixed width is taken to need."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One view to look up. Columns are the source's own names.

    `keys` pairs a column of the entity frame with one of the source. `features` pairs a column of the source with its
    name in the result. `event` and `created` are timestamps (without a zone: UTC). `ttl` None: values don't expire.
    `place`: where the source is, for messages.
    """

    name: str
    source: pl.LazyFrame
    keys: tuple[tuple[str, str], ...]
    event: str
    created: str | None
    ttl: timedelta | None
    features: tuple[tuple[str, str], ...]
    place: str = "its source"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one view gave. `values` has a row for every entity row, in their order, null where nothing counted.

    `event` is the event time of each value in ns or us since 1970, UTC; null where there is none. `created_after`
    counts the values that were created after the instant they were looked up for.
    """

    values: pl.DataFrame
    event: pl.Series
    found: int
    created_after: int | None


def look_up(entities: pl.DataFrame, at: str, view: View, *, known_only: bool, memory_bytes: float) -> Found:
    """The values of `view` as of column `at` of `entities`.

    The source is read once, so many rows at a time as take about `memory_bytes`: what counts is the greatest of all,
    and so the greatest of the greatest of each part. Raises InputError where a column is missing or keys are of types
    that can't be equal.
    """
    known_only = known_only and view.created is not None
    schema = view.source.collect_schema()
    _check(view, schema, entities.schema)
    unit = times.unit(schema, entities.schema, (view.event, view.created), at)
    keys, asked = _numbered(entities, view, schema)
    instants = times.integers(entities[at], unit)
    chosen = np.flatnonzero((instants != times.NEVER) & (asked >= 0))
    asked, instants = asked[chosen], instants[chosen]
    best = _Best(len(chosen), pl.DataFrame(schema={name: schema[name] for name in _names(view)}))
    if len(chosen):
        rows = _rows(view, schema, keys, instants, unit)
        for part in batches(rows, _rows_held(view, schema, memory_bytes), f"view {view.name}", view.place):
            best.add(part, _winners(part, asked, instants, known_only, _ttl(view, unit)))
    index = np.full(len(entities), -1)
    index[chosen] = best.place
    taken = pl.Series(index).set(pl.Series(index < 0), None)
    ages = pl.Series("event", np.full(len(entities), times.NEVER))
    ages = ages.scatter(chosen, best.event).set(pl.Series(index < 0), None)
    return Found(
        values=best.values.select(pl.col(old).gather(taken).alias(new) for old, new in view.features),
        event=ages.cast(pl.Datetime(unit, "UTC")),
        found=int((best.place >= 0).sum()),
        created_after=int((best.created > instants)[best.place >= 0].sum()) if view.created else None,
    )


class _Best:
    """Of all the rows seen the one that counts for each of those asked for.

    `place`: int64[asked], the row of `values` that has its values, -1 for none; `event` and `created`: its times.
    """

    def __init__(self, asked: int, values: pl.DataFrame) -> None:
        self.place = np.full(asked, -1)
        self.event, self.created = np.full(asked, times.NEVER), np.full(asked, times.NEVER)
        self.values = values

    def add(self, rows: pl.DataFrame, winner: Array) -> None:
        """Later rows of the source, and for each of those asked for the one of them that counts, or -1."""
        hit = np.flatnonzero(winner >= 0)
        row = winner[hit]
        event, created = rows[_EVENT].to_numpy()[row], rows[_CREATED].to_numpy()[row]
        known = self.event[hit]
        newer = (event > known) | ((event == known) & (created >= self.created[hit]))
        hit, row = hit[newer], row[newer]
        self.event[hit], self.created[hit] = event[newer], created[newer]
        if not self.values.columns:
            self.place[hit] = 0
            return
        self.place[hit] = np.arange(len(self.values), len(self.values) + len(hit))
        self.values = pl.concat([self.values, rows.select(self.values.columns)[row]])
        if len(self.values) > 2 * len(self.place):  # most were replaced since
            found = self.place >= 0
            self.values = self.values[self.place[found]]
            self.place[found] = np.arange(len(self.values))


def _check(view: View, source: pl.Schema, entities: pl.Schema) -> None:
    needed = [view.event, *([view.created] if view.created else []), *(key for _, key in view.keys)]
    for column in [*needed, *(name for name, _ in view.features)]:
        if column not in source:
            raise InputError(f"view {view.name}: its source has no column {column}; it has {', '.join(source)}")
    for column, _ in view.keys:
        if column not in entities:
            raise InputError(f"view {view.name} is joined on {column}, which the entity frame lacks; add that column")


def _names(view: View) -> list[str]:
    """The source's columns that are wanted, each once."""
    return list(dict.fromkeys(name for name, _ in view.features))


def _ttl(view: View, unit: times.Unit) -> int | None:
    """A longer one than there are times is as good as the longest."""
    if view.ttl is None:
        return None
    return min(view.ttl // timedelta(microseconds=1) * (1000 if unit == "ns" else 1), _LARGEST // 2)


def _numbered(entities: pl.DataFrame, view: View, schema: pl.Schema) -> tuple[pl.DataFrame, Array]:
    """The distinct keys asked for, by the source's names, each with a number; and each entity row's number, or -1."""
    if not view.keys:
        return pl.DataFrame({_KEY: [0]}, schema={_KEY: pl.UInt32}), np.zeros(len(entities), np.int64)
    columns = [column for _, column in view.keys]
    asked = entities.select(
        _alike(view.name, mine, entities.schema[mine], schema[theirs]).alias(theirs) for mine, theirs in view.keys
    )
    keys = asked.drop_nulls().unique().with_row_index(_KEY)
    numbers = asked.join(keys, on=columns, how="left", maintain_order="left")[_KEY]
    return keys, numbers.cast(pl.Int64).fill_null(-1).to_numpy()


def _alike(view: str, column: str, mine: pl.DataType, theirs: pl.DataType) -> pl.Expr:
    """The key column as the source's type. A number that has no exact counterpart there becomes null: no match."""
    own = pl.col(column)
    if mine == theirs or mine == pl.Null:
        return own.cast(theirs)
    if mine.is_float() and theirs.is_integer():
        return pl.when(own == own.floor()).then(own.cast(theirs, strict=False))
    texts = (pl.String, pl.Categorical, pl.Enum)
    if (mine.is_integer() and theirs.is_integer()) or (mine in texts and theirs in texts):
        return own.cast(theirs, strict=False)
    raise InputError(
        f"view {view}: {column} is {mine} in the entity frame and {theirs} in the source; give both one type"
    )


def _rows_held(view: View, schema: pl.Schema, memory_bytes: float) -> int:
    """How many rows to take at a time: these, twice their times and numbers while they are sorted, and as much again
    of those that are read meanwhile.
    """
    kept = {name for name, _ in view.features} | {key for _, key in view.keys}
    width = 48 + sum(_bytes(schema[name]) for name in kept)
    return max(1, int(memory_bytes / (2 * width)))


def _bytes(kind: pl.DataType) -> int:
    return {pl.Boolean: 1, pl.Int8: 1, pl.Int16: 2, pl.Int32: 4, pl.Float32: 4}.get(
        kind.base_type(), 8 if kind.is_numeric() or kind.is_temporal() else _TEXT_BYTES
    )


def _rows(view: View, schema: pl.Schema, keys: pl.DataFrame, instants: Array, unit: times.Unit) -> pl.LazyFrame:
    """The source's rows of these keys that may count for any of these instants, in the source's order."""
    event = times.expression(view.event, schema, unit)
    created = times.expression(view.created, schema, unit) if view.created else pl.lit(None, pl.Int64)
    created = created.fill_null(times.NEVER)
    oldest = None if view.ttl is None else int(instants.min()) - (_ttl(view, unit) or 0)
    frame = view.source.filter(times.between(view.event, schema, unit, oldest, int(instants.max())))
    frame = frame.with_columns(event.alias(_EVENT), created.alias(_CREATED)).filter(pl.col(_EVENT).is_not_null())
    if view.keys:
        columns = [column for _, column in view.keys]
        frame = frame.join(keys.lazy(), on=columns, how="inner", maintain_order="left")
    else:
        frame = frame.with_columns(pl.lit(0, pl.UInt32).alias(_KEY))
    return frame.select(_KEY, _EVENT, _CREATED, *_names(view))


def _winners(rows: pl.DataFrame, asked: Array, instants: Array, known_only: bool, ttl: int | None) -> Array:
    """For each asked key and instant the position in `rows` of the row that counts, or -1."""
    nothing = np.full(len(asked), -1)
    if not len(rows) or not len(asked):
        return nothing
    key = rows[_KEY].to_numpy().astype(np.int64)
    event = rows[_EVENT].to_numpy()
    created = rows[_CREATED].to_numpy()
    known_at = np.maximum(event, created)
    width, offset = _offsets(known_at if known_only else event, event, int(max(key.max(), asked.max())) + 1)
    order = _by_rank(key * width + offset(event), created)
    if known_only:
        known = np.flatnonzero(created != times.NEVER)
        packed = key[known] * width + offset(known_at[known])
        at = np.argsort(packed, kind="stable")
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        packed, order = packed[at], order[np.maximum.accumulate(rank[known][at])]
    else:
        packed = (key * width + offset(event))[order]
    if not len(packed):
        return nothing
    position = np.searchsorted(packed, asked * width + offset(instants), side="right") - 1
    winner = order[np.maximum(position, 0)]
    counts = (position >= 0) & (key[winner] == asked)
    if ttl is not None:
        counts &= event[winner] >= np.maximum(instants, ttl - _LARGEST) - ttl
    return np.where(counts, winner, -1)


def _offsets(latest: Array, event: Array, keys: int) -> tuple[int, Callable[[Array], Array]]:
    """A width and a function from times to [0, width), order and equality kept among the rows' times, so that key
    times width plus offset fits 64 bits. A time before all of them gives 0, which is nobody's.
    """
    low, high = int(event.min()), int(latest.max())
    if (high - low + 2) * keys <= _LARGEST:
        return high - low + 2, lambda time: np.clip(time, low - 1, high) - (low - 1)
    all_times = np.unique(np.concatenate([event, latest]))
    return len(all_times) + 1, lambda time: np.searchsorted(all_times, time, side="right")


def _by_rank(packed: Array, created: Array) -> Array:
    """The order of the rows by key, event time, created time and place."""
    order = np.argsort(packed)
    ordered = packed[order]
    equal = ordered[1:] == ordered[:-1]
    if not equal.any():
        return order
    tied = np.zeros(len(order), bool)
    tied[1:] |= equal
    tied[:-1] |= equal
    rows = order[tied]
    order[tied] = rows[np.lexsort((rows, created[rows], packed[rows]))]
    return order
