"""An online store for Feast in one SQLite file, laid out to be read fast: a plain Feast plugin.

    online_store:
      type: hotlap.features.EmbeddedOnlineStore
      path: data/online.db

A row for each key of a view, where Feast's own SQLite store has one for each value; event times to the microsecond,
where that has seconds; and an older row never replaces a newer one, by event time and then by created time, whatever
order they are written in. Readers are not held up by a writer (write-ahead log). For one machine; not for a network
drive. A view has at most 1,990 features.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import compute_table_id
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from pydantic import StrictStr

from hotlap.errors import InputError
from hotlap.features import times
from hotlap.features.online_stores import Ask, Reach, Rows
from hotlap.features.online_stores.embedded import Embedded, column_name, open_store, table_name
from hotlap.features.online_stores.sqlite import path_of, quoted

MOST_FEATURES = 1_990
"""SQLite's tables and results have at most 2,000 columns."""
_Row = tuple[EntityKey, dict[str, Value], datetime, datetime | None]


class EmbeddedOnlineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """`path`: the database file, from the repository's folder."""

    type: Literal["hotlap.features.EmbeddedOnlineStore"] = "hotlap.features.EmbeddedOnlineStore"
    path: StrictStr = "data/online.db"


class EmbeddedOnlineStore(OnlineStore):  # type: ignore[misc]
    """See the module. hotlap reads and writes the same tables with `hotlap.features.online_stores.embedded`."""

    def __init__(self) -> None:
        self._opened: tuple[Path, Embedded] | None = None

    def online_read(
        self,
        config: RepoConfig,
        table: Any,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        """Each key's event time (UTC) and values; (None, None) where there is no row."""
        features = requested_features if requested_features is not None else [one.name for one in table.features]
        keys = [serialize_entity_key(one, config.entity_key_serialization_version) for one in entity_keys]
        ask = _ask(_table_id(config, table), tuple(features))
        distinct = list(dict.fromkeys(keys))
        (answer,) = self._store(config).read((ask,), [distinct])
        rows = dict(zip(distinct, zip(answer.events, *answer.values, strict=True), strict=True))
        return [_read(features, *rows[key]) for key in keys]

    def online_write_batch(
        self, config: RepoConfig, table: Any, data: list[_Row], progress: Callable[[int], Any] | None
    ) -> None:
        """Keep each row unless the store has a newer one of its key."""
        by_names: dict[tuple[str, ...], list[_Row]] = {}
        for row in data:
            by_names.setdefault(tuple(row[1]), []).append(row)
        for names, members in by_names.items():
            keys = [serialize_entity_key(key, config.entity_key_serialization_version) for key, *_ in members]
            values = [[one[name].SerializeToString() for _, one, _, _ in members] for name in names]
            rows = Rows(
                view=table,
                table=_table_id(config, table),
                keys=keys,
                features=list(names),
                values=values,
                events=np.array([times.microseconds(event) for *_, event, _ in members], np.int64),
                created=np.array(
                    [times.NEVER if made is None else times.microseconds(made) for *_, made in members], np.int64
                ),
            )
            self._store(config).write(rows)
            if progress:
                progress(len(members))

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[Any],
        tables_to_keep: Sequence[Any],
        entities_to_delete: Sequence[Any],
        entities_to_keep: Sequence[Any],
        partial: bool,
    ) -> None:
        """Make the tables of the views to keep, and the columns that they lack; drop the others."""
        path = path_of(config)
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("BEGIN IMMEDIATE")
            for view in tables_to_keep:
                _make(connection, table_name(_table_id(config, view)), view)
            for view in tables_to_delete:
                connection.execute(f"DROP TABLE IF EXISTS {quoted(table_name(_table_id(config, view)))}")
            connection.execute("COMMIT")

    def teardown(self, config: RepoConfig, tables: Sequence[Any], entities: Sequence[Any]) -> None:
        """Drop the views' tables."""
        if path_of(config).exists():
            self.update(config, tables, [], entities, [], partial=False)

    def _store(self, config: RepoConfig) -> Embedded:
        path = path_of(config)
        if self._opened is None or self._opened[0] != path:
            self._opened = path, open_store(Reach(config=config, timeout_s=5.0, retries=1, connections=8))
        return self._opened[1]


@lru_cache(maxsize=128)
def _ask(table: str, features: tuple[str, ...]) -> Ask:
    """The same one each time, for the store keeps the query that it makes of it. It does not look at the view."""
    return Ask(view=None, table=table, features=features)


def _make(connection: sqlite3.Connection, table: str, view: Any) -> None:
    features = [one.name for one in view.features]
    if len(features) > MOST_FEATURES:
        raise InputError(f"view {view.name} has {len(features)} features; this store holds {MOST_FEATURES} a view")
    connection.execute(
        f"CREATE TABLE IF NOT EXISTS {quoted(table)} (entity_key BLOB PRIMARY KEY, event INTEGER NOT NULL, "
        "created INTEGER) WITHOUT ROWID"
    )
    have = {name for _, name, *_ in connection.execute(f"PRAGMA table_info({quoted(table)})")}
    for name in map(column_name, features):
        if name not in have:
            connection.execute(f"ALTER TABLE {quoted(table)} ADD COLUMN {quoted(name)} BLOB")


def _table_id(config: RepoConfig, view: Any) -> str:
    name: str = compute_table_id(config.project, view, config.registry.enable_online_feature_view_versioning)
    return name


def _read(
    features: Sequence[str], event: int, *values: bytes | None
) -> tuple[datetime | None, dict[str, Value] | None]:
    if event == times.NEVER:
        return None, None
    known = {name: Value.FromString(one or b"") for name, one in zip(features, values, strict=True)}
    return times.moment(event), known
