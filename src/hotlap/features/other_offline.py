"""An offline store that is not hotlap's, through Feast's own interface: joins, the newest rows, all rows.

The store makes the join, by its own rules for ties. Against what such stores are known to lose, each view is asked for
by itself, with each pair of key and instant once and with a number, so that rows can neither collapse nor shuffle, and
one view can't take another's rows away. What the store does not give back all the same is counted.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa

from hotlap.errors import HotlapError, InputError, MissingExtra, Refusal
from hotlap.features.asof import View
from hotlap.features.entities import EVENT, in_utc
from hotlap.features.job import plain
from hotlap.features.offline import view_of
from hotlap.features.on_demand import polars_kind
from hotlap.features.online_stores import of_a_client

if TYPE_CHECKING:
    from hotlap.features.request import Stored
    from hotlap.features.store import Store

ROW = "hotlap_row"
"""The column that numbers what is asked for."""
_OWN = "PolarsOfflineStoreConfig"
_FIRST = datetime(1900, 1, 1, tzinfo=UTC)
"""The start of a range that has none; SQL wants one, and pandas holds none before 1677."""
_DOWN = ("OperationalError", "InterfaceError", "ConnectionError", "TimeoutError")
_SECRET = ("password", "token", "secret", "key", "connection_string")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a store's join of one view gave. `values` has a row for each row asked, in their order, null where nothing
    counted or nothing came back; `lost` counts the rows that did not come back.
    """

    values: pl.DataFrame
    lost: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherOffline:
    """The offline store of a repository, where it is not hotlap's. `name` is its type in feature_store.yaml."""

    store: Store
    offline: Any
    name: str

    def join(self, one: Stored, rows: pl.DataFrame, at: str, *, known_only: bool) -> Answer:
        """The features of one view as of column `at` of `rows`, joined by the store.

        Raises InputError where a key is missing or the store can't leave out what was created later, StoreDown where
        it does not answer, Refusal where it gives more rows than it was asked for.
        """
        known_only = known_only and bool(one.view.batch_source.created_timestamp_column)
        if known_only and not self.offline.supports_filter_by_created_timestamp:
            raise InputError(
                f"offline store {self.name} can't leave out what was created later; join without known_only, or set "
                "another offline store"
            )
        keys = [mine for mine, _ in view_of(one.view, one.features, self.store.repo, source=pl.LazyFrame()).keys]
        absent = [key for key in keys if key not in rows.columns]
        if absent:
            raise InputError(
                f"view {one.called} is joined on {absent[0]}, which the entity frame lacks; add that column"
            )
        columns = [pl.col(key) for key in keys]
        asked = in_utc(rows.lazy().select(*columns, pl.col(at).alias(EVENT)), EVENT).collect()
        distinct = asked.drop_nulls().unique(maintain_order=True).with_row_index(ROW).cast({ROW: pl.Int64})
        got = self._joined(one, distinct, known_only) if len(distinct) else _nothing(one)
        twice = len(got) - got[ROW].n_unique()
        if twice or got[ROW].null_count():
            raise Refusal(
                f"offline store {self.name}: view {one.called} came back with {len(got):,} rows for {len(distinct):,}, "
                "so which are right can't be told; use another offline store"
            )
        number = asked.join(distinct, on=[*keys, EVENT], how="left", maintain_order="left").select(ROW)
        found = number.join(got.with_columns(pl.lit(True).alias("found")), on=ROW, how="left", maintain_order="left")
        lost = found.filter(pl.col(ROW).is_not_null() & pl.col("found").is_null()).height
        return Answer(values=found.select(column for _, column in one.features), lost=lost)

    def newest(self, view: Any, features: list[tuple[str, str]], start: datetime | None, end: datetime) -> View:
        """Each key's newest row of a view between two event times, both included, as the store tells ties."""
        return self._pulled("pull_latest_from_table_or_query", view, features, start, end)

    def all_rows(self, view: Any, features: Any, start: datetime | None, end: datetime) -> View:
        """All rows of a view between two event times, both included."""
        return self._pulled("pull_all_from_table_or_query", view, features, start, end)

    def write(self, view: Any, rows: pl.DataFrame) -> None:
        """Add rows, which have the source's columns by its names, to the view's source."""
        from feast.infra.offline_stores.offline_utils import get_pyarrow_schema_from_batch_source

        config = self.store.feast.config
        with self._asked(f"writing view {view.name}"):
            schema, names = get_pyarrow_schema_from_batch_source(config, view.batch_source)
        absent = [name for name in names if name not in rows.columns]
        if absent:
            raise InputError(f"view {view.name}: the rows have no column {absent[0]}, which its source has")
        table = plain(rows.select(names))
        columns = []
        for field in schema:
            try:
                columns.append(table[field.name].cast(field.type))
            except pa.ArrowException as error:
                raise InputError(
                    f"view {view.name}: column {field.name}, {field.type} in its source: {error}"
                ) from None
        with self._asked(f"writing view {view.name}"):
            self.offline.offline_write_batch(config, view, pa.table(columns, schema=schema), None)

    def _joined(self, one: Stored, distinct: pl.DataFrame, known_only: bool) -> pl.DataFrame:
        """The number of each row that came back, with its features in columns as they were asked for."""
        entities = plain(distinct).to_pandas()
        entities[EVENT] = entities[EVENT].dt.as_unit("ns")
        names = [name for name, _ in one.features]
        with self._asked(f"view {one.called}"):
            job = self.offline.get_historical_features(
                self.store.feast.config,
                [_without_stand_in(one.view)],
                [f"{one.called}:{name}" for name in dict.fromkeys(names)],
                entities,
                self.store.feast.registry,
                self.store.feast.project,
                full_feature_names=True,
                **({"filter_by_created_timestamp": True} if known_only else {}),
            )
            got = _frame(job.to_arrow())
        needed = [ROW, *(f"{one.called}__{name}" for name in names)]
        absent = [name for name in needed if name not in got.columns]
        if absent:
            raise Refusal(f"offline store {self.name}: view {one.called} came back without column {absent[0]}")
        kinds = {field.name: polars_kind(field.dtype) for field in one.view.features}
        return got.select(
            pl.col(ROW).cast(pl.Int64),
            *(_declared(got[f"{one.called}__{name}"], kinds[name]).alias(column) for name, column in one.features),
        )

    def _pulled(self, how: str, view: Any, features: Any, start: datetime | None, end: datetime) -> View:
        own = view_of(view, features, self.store.repo, source=pl.LazyFrame())
        keys = [theirs for _, theirs in own.keys]
        names = list(dict.fromkeys(old for old, _ in own.features))
        with self._asked(f"view {view.name}"):
            job = getattr(self.offline, how)(
                self.store.feast.config, view.batch_source, keys, names, own.event, own.created, start or _FIRST, end
            )
            rows = _frame(job.to_arrow())
        return view_of(view, features, self.store.repo, source=rows.lazy())

    @contextmanager
    def _asked(self, what: str) -> Iterator[None]:
        """Around a call of the store: its errors become ours, without secrets; what it prints goes to stderr."""
        try:
            with redirect_stdout(sys.stderr):
                yield
        except HotlapError:
            raise
        except NotImplementedError as error:
            raise InputError(
                f"offline store {self.name} can't do this ({what}); Feast has it for other stores"
            ) from error
        except ImportError as error:
            raise MissingExtra(f"offline store {self.name} needs {error.name}, which is not installed") from error
        except Exception as error:  # noqa: BLE001 - whatever the store's own client raises
            own = self.store.feast.config.offline_store
            raise of_a_client(error, own, f"offline store {self.name}, {what}", down=_DOWN, secret=_SECRET) from None


def other(store: Store) -> OtherOffline | None:
    """The repository's offline store, or None where it is hotlap's own."""
    from feast.infra.offline_stores.offline_utils import get_offline_store_from_config

    config = store.feast.config.offline_store
    if type(config).__name__ == _OWN:
        return None
    return OtherOffline(store=store, offline=get_offline_store_from_config(config), name=str(config.type))


def _without_stand_in(view: Any) -> Any:
    """The view without the key that Feast lets stand in where it has no entities: stores look for it in vain."""
    from feast.feature_view import DUMMY_ENTITY_ID

    if all(one.name != DUMMY_ENTITY_ID for one in view.entity_columns):
        return view
    view = copy(view)
    view.entities, view.entity_columns = [], []
    return view


def _nothing(one: Stored) -> pl.DataFrame:
    kinds = {field.name: polars_kind(field.dtype) for field in one.view.features}
    return pl.DataFrame(schema={ROW: pl.Int64, **{column: kinds[name] for name, column in one.features}})


def _frame(table: pa.Table) -> pl.DataFrame:
    """Without the index that pandas leaves."""
    kept = [name for name in table.column_names if not name.startswith("__index_level_")]
    frame = pl.from_arrow(table.select(kept))
    assert isinstance(frame, pl.DataFrame)
    return frame


def _declared(values: pl.Series, kind: pl.DataType) -> pl.Series:
    """Numbers in the type that the view declares, where it holds them: pandas makes floats of integers with gaps."""
    if values.dtype == kind or not (kind.is_numeric() and (values.dtype.is_numeric() or values.dtype == pl.Null)):
        return values.cast(kind) if values.dtype == pl.Null else values
    if kind.is_integer() and values.dtype.is_float() and not (values.drop_nulls() == values.drop_nulls().floor()).all():
        return values
    return values.cast(kind)
