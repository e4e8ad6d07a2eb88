"""SQLite as hotlap's own store lays it out: a row for each key of a view, a column for each feature.

Feast's SQLite table has a row for each value, so that a read of three features looks three rows up. Values are
serialized as Feast's are; event times are whole microseconds since 1970, UTC. See hotlap.features.embedded.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain, repeat
from typing import Any

from hotlap.features import times
from hotlap.features.online_stores import MARK, Answer, Ask, Reach, Rows
from hotlap.features.online_stores.sqlite import Connection, Sqlite, path_of, quoted, sliced

_CACHE_KIB = 32_768
"""Of each connection, as far as pages are read: SQLite's own 2 MiB send most lookups to the system."""


def open_store(reach: Reach) -> Embedded:
    return Embedded(path_of(reach.config), reach)


class Embedded(Sqlite):
    """One database file."""

    def read(self, asks: tuple[Ask, ...], keys: Sequence[list[bytes]]) -> list[Answer]:
        """All views in one statement, or in one transaction where there are too many keys for that."""
        if all(len(own) == 1 for own in keys) and _fit_one_row(asks):
            ((*row,),) = self._rows([(_query_of_one(asks), [keys[ask.keys][0] for ask in asks])])
            return _answers_of_one(asks, row)
        found: list[dict[bytes, Any]] = [{} for _ in asks]
        for row in self._rows(_statements(asks, keys)):
            found[row[0]][row[1]] = row
        return [_answer(ask, keys[ask.keys], rows) for ask, rows in zip(asks, found, strict=True)]

    def _connect(self) -> Connection:
        connection = super()._connect()
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        return connection

    def write(self, rows: Rows) -> None:
        """In one transaction."""
        query = _insert(table_name(rows.table), tuple(map(column_name, rows.features)))
        created = [None if one == times.NEVER else one for one in rows.created.tolist()]
        self._written(query, list(zip(rows.keys, rows.events.tolist(), created, *rows.values, strict=True)))

    def clear(self, view: Any, table: str, features: list[str]) -> None:
        super().clear(view, table_name(table), features)

    def life(self, view: Any, table: str) -> str:
        return super().life(view, table_name(table))

    def _mark_row(self) -> dict[str, Any]:
        """The mark stands where rows have an event time."""
        return {"entity_key": MARK, "event": secrets.randbits(62)}


def table_name(table: str) -> str:
    """Another than Feast's own SQLite store has, which may lie in the same file."""
    return f"{table}:rows"


def column_name(feature: str) -> str:
    """A feature's column. SQLite takes names that differ in case alone for one."""
    same = feature == feature.lower()
    return f"f:{feature}" if same else f"f:{feature}:{hashlib.sha256(feature.encode()).hexdigest()[:8]}"


def _answer(ask: Ask, keys: list[bytes], found: dict[bytes, Any]) -> Answer:
    width = len(ask.features)
    if len(found) == len(keys):
        rows = list(map(found.__getitem__, keys))
    else:
        absent = (None, None, times.NEVER, *repeat(None, width))
        rows = [found.get(key, absent) for key in keys]
    columns = list(zip(*rows, strict=False)) or [()] * (3 + width)
    return Answer(columns[3 : 3 + width], columns[2])


def _statements(asks: tuple[Ask, ...], keys: Sequence[list[bytes]]) -> Iterator[tuple[str, list[bytes]]]:
    """Queries with their values. Names are quoted, keys are bound."""
    for counts, slices in sliced(asks, keys):
        yield _query(asks, counts), list(chain.from_iterable(slices))


@lru_cache(maxsize=128)
def _query(asks: tuple[Ask, ...], counts: tuple[int, ...]) -> str:
    """counts: how many keys are asked for of each view."""
    width = max(len(ask.features) for ask in asks)
    return " UNION ALL ".join(
        f"SELECT {view}, entity_key, event"
        # Of its table: a quoted name that stands alone is a text to SQLite where there is no such column.
        + "".join(f", own.{quoted(column_name(one))}" for one in ask.features)
        + ", NULL" * (width - len(ask.features))
        + f" FROM {quoted(table_name(ask.table))} AS own WHERE entity_key IN ({','.join('?' * count)})"
        for view, (ask, count) in enumerate(zip(asks, counts, strict=True))
        if count
    )


@lru_cache(maxsize=128)
def _fit_one_row(asks: tuple[Ask, ...]) -> bool:
    """SQLite joins 64 tables at most, and gives 2,000 columns."""
    return 0 < len(asks) <= 60 and sum(1 + len(ask.features) for ask in asks) <= 1_990


@lru_cache(maxsize=128)
def _query_of_one(asks: tuple[Ask, ...]) -> str:
    """One key of each view: a row of all views' event times and features. A row each takes a third longer."""
    columns = (
        f"v{place}.{name}"
        for place, ask in enumerate(asks)
        for name in ("event", *(quoted(column_name(one)) for one in ask.features))
    )
    tables = (
        f" LEFT JOIN {quoted(table_name(ask.table))} AS v{place} ON v{place}.entity_key = ?"
        for place, ask in enumerate(asks)
    )
    return f"SELECT {', '.join(columns)} FROM (SELECT 1){''.join(tables)}"


def _answers_of_one(asks: tuple[Ask, ...], row: list[Any]) -> list[Answer]:
    answers, start = [], 0
    for ask in asks:
        end = start + 1 + len(ask.features)
        event = row[start]
        answers.append(Answer([(one,) for one in row[start + 1 : end]], (times.NEVER if event is None else event,)))
        start = end
    return answers


@lru_cache(maxsize=128)
def _insert(table: str, columns: tuple[str, ...]) -> str:
    names = ["entity_key", "event", "created", *map(quoted, columns)]
    updates = ", ".join(f"{name} = excluded.{name}" for name in names[1:])
    own = quoted(table)
    return (
        f"INSERT INTO {own} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))}) "
        f"ON CONFLICT (entity_key) DO UPDATE SET {updates} WHERE "
        f"(excluded.event, IFNULL(excluded.created, {times.NEVER})) >= "
        f"({own}.event, IFNULL({own}.created, {times.NEVER}))"
    )
