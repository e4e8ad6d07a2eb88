"""Feast's SQLite tables: a row for each key and feature, its value serialized.

Feast keeps event times in whole seconds, and as if they were local time (so does this file, for Feast to read them).
"""

from __future__ import annotations

import queue
import sqlite3
import time
from calendar import timegm
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from hotlap.core import Array
from hotlap.errors import InputError, StoreDown
from hotlap.features import times
from hotlap.features.online_stores import Answer, Ask, Reach

_VARIABLES = 30_000
"""Bound values in one statement; SQLite allows 32,766."""


def open_store(reach: Reach) -> Sqlite:
    own = reach.config.online_store
    path = Path(own.path)
    if reach.config.repo_path and not path.is_absolute():
        path = Path(reach.config.repo_path) / path
    return Sqlite(path, reach.timeout_s, reach.connections)


class Sqlite:
    """One database file. Connections are made as threads need them, and kept."""

    def __init__(self, path: Path, timeout_s: float, connections: int) -> None:
        self._path, self._timeout_s = path, timeout_s
        self._idle: queue.LifoQueue[sqlite3.Connection] = queue.LifoQueue(connections)

    def read(self, asks: list[Ask]) -> list[Answer]:
        """All views in one statement, or in one transaction where there are too many keys for that."""
        found = [_Rows(ask) for ask in asks]
        statements = list(_statements(asks))
        with self._connected() as connection:
            if len(statements) > 1:
                connection.execute("BEGIN")
            for query, values in statements:
                for view, key, feature, value, event in connection.execute(query, values):
                    found[view].add(key, feature, value, event)
            if len(statements) > 1:
                connection.execute("COMMIT")
        return [one.answer() for one in found]

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        try:
            connection = self._idle.get_nowait()
        except queue.Empty:
            connection = self._connect()
        try:
            yield connection
        except sqlite3.OperationalError as error:
            connection.close()
            raise self._told(error) from error
        except BaseException:
            connection.close()
            raise
        try:
            self._idle.put_nowait(connection)
        except queue.Full:
            connection.close()

    def _connect(self) -> sqlite3.Connection:
        if not self._path.exists():
            raise InputError(f"online store {self._path}: no such file; run `hotlap features apply` and `materialize`")
        return sqlite3.connect(self._path, timeout=self._timeout_s, isolation_level=None, check_same_thread=False)

    def _told(self, error: sqlite3.OperationalError) -> Exception:
        text = str(error)
        if text.startswith("no such table: "):
            return InputError(
                f"online store {self._path}: {text}; run `hotlap features apply`, and materialize the view"
            )
        return StoreDown(f"online store {self._path} did not answer within {self._timeout_s:g} s: {text}")


class _Rows:
    """The rows of one view, put in the order of the keys asked."""

    def __init__(self, ask: Ask) -> None:
        self._place = {key: place for place, key in enumerate(ask.keys)}
        self._values: dict[str, list[bytes | None]] = {name: [None] * len(ask.keys) for name in ask.features}
        self._events: list[Any] = [None] * len(ask.keys)

    def add(self, key: bytes, feature: str, value: bytes, event: Any) -> None:
        column = self._values.get(feature)
        if column is not None:
            place = self._place[key]
            column[place] = value
            known = self._events[place]
            self._events[place] = event if known is None or event < known else known

    def answer(self) -> Answer:
        return Answer(values=list(self._values.values()), events=microseconds(self._events))


def _statements(asks: list[Ask]) -> Iterator[tuple[str, list[Any]]]:
    """Queries with their values. Names of tables are quoted; keys and features are bound."""
    most = max((len(ask.keys) for ask in asks), default=0)
    step = max(1, (_VARIABLES - sum(len(ask.features) for ask in asks)) // max(1, len(asks)))
    for start in range(0, most, step):
        parts: list[str] = []
        values: list[Any] = []
        for view, ask in enumerate(asks):
            keys = ask.keys[start : start + step]
            if not keys:
                continue
            part = (
                f"SELECT {view}, entity_key, feature_name, value, event_ts FROM {quoted(ask.table)} "
                f"WHERE entity_key IN ({','.join('?' * len(keys))})"
            )
            values += keys
            if len(ask.features) * 2 < len(ask.view.features):
                part += f" AND feature_name IN ({','.join('?' * len(ask.features))})"
                values += ask.features
            parts.append(part)
        yield " UNION ALL ".join(parts), values


def quoted(name: str) -> str:
    """A name for SQL, whatever it holds."""
    if "\0" in name:
        raise InputError(f"{name!r}: a name with a zero byte can't be a table's")
    return '"' + name.replace('"', '""') + '"'


def microseconds(stored: list[Any]) -> Array:
    """int64: Feast's whole seconds of seeming local time as microseconds since 1970, UTC; NEVER for None.

    Stores that older versions wrote hold text in ISO 8601.
    """
    return np.array([times.NEVER if one is None else _utc(one) * 1_000_000 for one in stored], np.int64)


def _utc(stored: Any) -> int:
    if isinstance(stored, str):
        moment = datetime.fromisoformat(stored)
        return timegm((moment if moment.tzinfo is None else moment.astimezone(UTC)).timetuple())
    return stored if _LOCAL_IS_UTC else timegm(time.localtime(stored))


_LOCAL_IS_UTC = time.timezone == 0 and not time.daylight
