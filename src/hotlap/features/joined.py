"""One view's values as of each row: by hotlap's own join, or by the offline store that feature_store.yaml names."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from hotlap.core import Array
from hotlap.features import times
from hotlap.features.asof import View, look_up
from hotlap.features.offline import PolarsOfflineStoreConfig, view_of
from hotlap.features.other_offline import OtherOffline, other

if TYPE_CHECKING:
    from hotlap.features.request import Stored
    from hotlap.features.store import Store

_STAMP = pl.Datetime("us", "UTC")
_PER_SECOND = {"us": 1e6, "ns": 1e9}


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """`values`: a row for each row asked, in their order. `there`: bool[rows], whether the view had a value.

    `ages`: float32, the seconds since the event of each value there is, and `created_after`, how many values were
    created after the instant they were given for; None where the store that joined does not say. `lost`: the rows that
    this store did not give back, which have nulls.
    """

    values: pl.DataFrame
    there: Array
    ages: Array | None
    created_after: int | None
    lost: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Joins:
    """How the views of a repository are joined; `known_only` leaves out what was created after the instant asked."""

    store: Store
    other: OtherOffline | None
    known_only: bool
    memory_bytes: float

    @property
    def name(self) -> str:
        """The offline store's type, as feature_store.yaml has it."""
        return str(self.store.feast.config.offline_store.type)

    def of(self, one: Stored) -> Join:
        """The join of one view. Raises InputError where its source is not there."""
        own = None if self.other else view_of(one.view, one.features, self.store.repo)
        return Join(joins=self, stored=one, own=own)

    def rows(self, view: Any, features: Any, first: datetime | None, last: datetime) -> View:
        """The view with all its rows between two event times, both included, or more of them."""
        if self.other is None:
            return view_of(view, features, self.store.repo)
        return self.other.all_rows(view, features, first, last)


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """One view's join; `own` is None where another store makes it."""

    joins: Joins
    stored: Stored
    own: View | None

    def __call__(self, rows: pl.DataFrame, at: str) -> Joined:
        """The view's features as of column `at` of `rows`."""
        if self.own is None:
            assert self.joins.other is not None
            answer = self.joins.other.join(self.stored, rows, at, known_only=self.joins.known_only)
            some = answer.values.select(pl.any_horizontal(pl.all().is_not_null())).to_series()
            values = stamps_in_utc(answer.values, self.stored)
            return Joined(values=values, there=some.to_numpy(), ages=None, created_after=None, lost=answer.lost)
        found = look_up(rows, at, self.own, known_only=self.joins.known_only, memory_bytes=self.joins.memory_bytes)
        there = found.event.is_not_null()
        unit = found.event.dtype.time_unit  # type: ignore[attr-defined]
        ages = times.integers(rows[at].filter(there), unit) - times.integers(found.event.filter(there), unit)
        return Joined(
            values=stamps_in_utc(found.values, self.stored),
            there=there.to_numpy(),
            ages=(ages / _PER_SECOND[unit]).astype(np.float32),
            created_after=found.created_after,
        )


def stamps_in_utc(values: pl.DataFrame, one: Stored) -> pl.DataFrame:
    """Features declared as UnixTimestamp, and lists of it, as online reads give them: microseconds, UTC, whatever zone
    the source has.
    """
    kinds = {field.name: field.dtype.to_value_type().name for field in one.view.features}
    wanted = {"UNIX_TIMESTAMP": _STAMP, "UNIX_TIMESTAMP_LIST": pl.List(_STAMP)}
    return values.with_columns(
        pl.col(column).cast(kind)
        for name, column in one.features
        if (kind := wanted.get(kinds[name])) and _temporal(values.schema[column])
    )


def _temporal(kind: pl.DataType) -> bool:
    inner: Any = kind.inner if isinstance(kind, pl.List) else kind
    return bool(inner.is_temporal())


def joins(store: Store, known_only: bool | None = None) -> Joins:
    """The repository's joins; `known_only` None: as its feature_store.yaml says, which only hotlap's store can."""
    config = store.feast.config.offline_store
    own = config if isinstance(config, PolarsOfflineStoreConfig) else PolarsOfflineStoreConfig()
    return Joins(
        store=store,
        other=other(store),
        known_only=own.known_only if known_only is None else known_only,
        memory_bytes=own.memory_gb * 1e9,
    )
