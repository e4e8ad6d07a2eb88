"""Feast's SQLite tables: a row for each key and feature, its value serialized.

Feast keeps event times in whole seconds, and as if they were local time (so does this file, for Feast to read them).
"""

from __future__ import annotations

import os
import sqlite3
import time
import uuid
from calendar import timegm
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from hotlap.errors import InputError
from hotlap.features import times
from hotlap.features.online_stores import MARK, Answer, Ask, OnlineStore, Reach, Rows
from hotlap.features.online_stores.found import Found
from hotlap.features.online_stores.pool import Pool

_Result = TypeVar("_Result")

VARIABLES = 30_000
"""Bound values in one statement; SQLite allows 32,766."""


def open_store(reach: Reach) -> OnlineStore:
    own = reach.config.online_store
    if own.vector_enabled or own.text_search_enabled or own.enable_openai_compatible_store:
        from hotlap.features.online_stores import through_feast

        return through_feast.open_store(reach)  # more columns to fill
    return Sqlite(path_of(reach.config), reach)


def path_of(config: Any) -> Path:
    """The database file that a configuration names."""
    path = Path(config.online_store.path)
    return Path(config.repo_path) / path if config.repo_path and not path.is_absolute() else path


class Sqlite:
    """One database file."""

    def __init__(self, path: Path, reach: Reach) -> None:
        self._path, self._reach, self._place = path, reach, f"sqlite {path}"
        self._pool = Pool(self._connect, reach.connections, lambda one: one.file == self._file())

    def read(self, asks: tuple[Ask, ...], keys: Sequence[list[bytes]]) -> list[Answer]:
        """All views in one statement, or in one transaction where there are too many keys for that."""
        found = [Found(ask, keys[ask.keys]) for ask in asks]
        utc: dict[Any, int] = {}
        for view, key, feature, value, event in self._rows(_statements(asks, keys)):
            at = utc.get(event)
            if at is None:
                at = utc[event] = microseconds(event)
            found[view].add(key, feature, value, at)
        return [one.answer() for one in found]

    def write(self, rows: Rows) -> None:
        """In one transaction. Times are compared in whole seconds, which is all that Feast's table keeps."""
        table = quoted(rows.table)
        query = (
            f"INSERT INTO {table} (entity_key, feature_name, value, event_ts, created_ts) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (entity_key, feature_name) DO UPDATE SET value = excluded.value, value_text = NULL, "
            "event_ts = excluded.event_ts, created_ts = excluded.created_ts WHERE "
            f"(excluded.event_ts, IFNULL(excluded.created_ts, {times.NEVER})) >= "
            f"({_number(f'{table}.event_ts')}, IFNULL({_number(f'{table}.created_ts')}, {times.NEVER}))"
        )
        events, created = [stored(one) for one in rows.events.tolist()], [stored(one) for one in rows.created.tolist()]
        values = [
            (key, feature, value, event, made)
            for feature, column in zip(rows.features, rows.values, strict=True)
            for key, value, event, made in zip(rows.keys, column, events, created, strict=True)
        ]
        self._written(query, values)

    def _rows(self, statements: Iterable[tuple[str, list[Any]]]) -> list[Any]:
        """All rows of queries with their values, as of one moment."""
        statements = list(statements)

        def run(again: bool) -> list[Any]:
            with self._pool.connection(fresh=again) as connection:
                if len(statements) == 1:
                    return list(connection.execute(*statements[0]))
                connection.execute("BEGIN")
                rows = [row for query, values in statements for row in connection.execute(query, values)]
                connection.execute("COMMIT")
                return rows

        return self._asked(run)

    def _written(self, query: str, values: list[Any]) -> None:
        """Run for each of the values, in one transaction."""

        def run(again: bool) -> None:
            with self._pool.connection(fresh=again) as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(query, values)
                connection.execute("COMMIT")

        self._asked(run)

    def clear(self, view: Any, table: str, features: list[str]) -> None:
        self._written(f"DELETE FROM {quoted(table)}", [()])

    def life(self, view: Any, table: str) -> str:
        """The mark, and the file: an older copy with the same mark may have taken its place."""
        own, mark = quoted(table), self._mark_row()
        *_, drawn = mark
        places = ", ".join("?" * len(mark))
        self._written(f"INSERT OR IGNORE INTO {own} ({', '.join(mark)}) VALUES ({places})", [tuple(mark.values())])
        ((kept,),) = self._rows([(f"SELECT {drawn} FROM {own} WHERE entity_key = ?", [MARK])])
        return f"{self._file()} {kept!r}"

    def _mark_row(self) -> dict[str, Any]:
        """A row with a new mark: values by their columns, the one that is drawn at random last."""
        return {"entity_key": MARK, "feature_name": "", "value": uuid.uuid4().bytes}

    def _asked(self, run: Callable[[bool], _Result]) -> _Result:
        def tried(again: bool) -> _Result:
            try:
                return run(again)
            except sqlite3.OperationalError as error:
                if not str(error).startswith(("no such table", "no such column")) and "has no column" not in str(error):
                    raise
                told = f"{error}; run `hotlap features apply`, and materialize the view"
            except sqlite3.DatabaseError as error:
                told = f"{error}; move that file away, apply and materialize again"
            raise InputError(f"online store {self._place}: {told}")

        return self._reach.asked(tried, self._place, (sqlite3.OperationalError,))

    def _connect(self) -> Connection:
        file = self._file()
        if file is None:
            raise InputError(f"online store {self._path}: no such file; run `hotlap features apply` and `materialize`")
        connection = sqlite3.connect(
            self._path,
            timeout=self._reach.timeout_s,
            isolation_level=None,
            check_same_thread=False,
            factory=Connection,
        )
        connection.file = file
        connection.create_function("hotlap_number", 1, lambda text: stored(microseconds(text)), deterministic=True)
        return connection

    def _file(self) -> tuple[int, int] | None:
        """Which file lies at the path: a connection to one that was removed or replaced would go on with that."""
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino


class Connection(sqlite3.Connection):
    """`file`: what it was opened on."""

    file: tuple[int, int]


def _statements(asks: tuple[Ask, ...], keys: Sequence[list[bytes]]) -> Iterator[tuple[str, list[Any]]]:
    """Queries with their values. Names of tables are quoted; keys and features are bound."""
    for counts, slices in sliced(asks, keys, sum(len(ask.features) for ask in asks)):
        values: list[Any] = []
        for ask, own in zip(asks, slices, strict=True):
            values += own
            values += ask.named if own else ()
        yield _query(asks, counts), values


def sliced(
    asks: tuple[Ask, ...], keys: Sequence[list[bytes]], others: int = 0
) -> Iterator[tuple[tuple[int, ...], list[list[bytes]]]]:
    """Each view's keys, as many as one statement takes beside `others`; and their numbers."""
    own = [keys[ask.keys] for ask in asks]
    most = max(map(len, own), default=0)
    step = max(1, (VARIABLES - others) // max(1, len(asks)))
    for start in range(0, most, step):
        slices = own if most <= step else [one[start : start + step] for one in own]
        yield tuple(map(len, slices)), slices


@lru_cache(maxsize=128)
def _query(asks: tuple[Ask, ...], counts: tuple[int, ...]) -> str:
    """counts: how many keys are asked for of each view."""
    return " UNION ALL ".join(
        f"SELECT {view}, entity_key, feature_name, value, event_ts FROM {quoted(ask.table)} "
        f"WHERE entity_key IN ({','.join('?' * count)})"
        + (f" AND feature_name IN ({','.join('?' * len(ask.named))})" if ask.named else "")
        for view, (ask, count) in enumerate(zip(asks, counts, strict=True))
        if count
    )


def quoted(name: str) -> str:
    """A name for SQL, whatever it holds."""
    if "\0" in name:
        raise InputError(f"{name!r}: a name with a zero byte can't be a table's")
    return '"' + name.replace('"', '""') + '"'


def _number(column: str) -> str:
    """A time's column as stores have it now; old ones hold text, which to SQLite is more than any number."""
    return f"CASE typeof({column}) WHEN 'text' THEN hotlap_number({column}) ELSE {column} END"


def microseconds(event: int | str) -> int:
    """Feast's whole seconds of seeming local time as microseconds since 1970, UTC. Old stores hold ISO 8601."""
    if isinstance(event, str):
        moment = datetime.fromisoformat(event)
        return timegm((moment if moment.tzinfo is None else moment.astimezone(UTC)).timetuple()) * 1_000_000
    return timegm(time.localtime(event)) * 1_000_000


def stored(event: int) -> int | None:
    """The inverse: what Feast would write for microseconds since 1970, UTC; None for NEVER."""
    if event == times.NEVER:
        return None
    return int((_EPOCH + timedelta(seconds=event // 1_000_000)).timestamp())


_EPOCH = datetime(1970, 1, 1)
"""Without a zone: `timestamp` takes it for local time, as Feast does."""
