"""Feast's PostgreSQL tables: a row for each key and feature, its value serialized.

Feast writes UTC without a zone into columns that have one, so that times stand there in the session's zone; they are
read and written the same way here.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

import numpy as np
import psycopg
from feast.infra.utils.postgres.connection_utils import _get_conn_kwargs, _get_conninfo
from psycopg import sql

from hotlap.core import Array
from hotlap.errors import InputError
from hotlap.features import times
from hotlap.features.online_stores import MARK, Answer, Ask, Reach, Rows
from hotlap.features.online_stores.found import Found
from hotlap.features.online_stores.pool import Pool


class _NotLetIn(Exception):
    """The server answered, and does not let this user in."""


_REFUSED = (_NotLetIn, psycopg.errors.ReadOnlySqlTransaction, psycopg.errors.InsufficientPrivilege)
_NOT_LET_IN = re.compile(
    "authentication failed|no password supplied|no pg_hba.conf entry|not permitted|does not support SSL|"
    "FATAL: .* does not exist"
)
"""What is said of a connection that trying again does not change. psycopg gives such errors no code."""
_PLANNING = {"enable_seqscan": "off", "max_parallel_workers_per_gather": 0, "plan_cache_mode": "force_generic_plan"}
"""Keys are looked up: where a table was not analyzed yet the planner would rather read all of it, and for several views
start processes to do so, which takes longer than the rest. Planning each read anew takes longer than a lookup."""
_EPOCH = datetime(1970, 1, 1)
_CREATED = sql.SQL("COALESCE({}.created_ts, '-infinity')")


def open_store(reach: Reach) -> Postgres:
    return Postgres(reach)


class Postgres:
    """One database. Statements that take longer than the timeout are given up, by the server and by the client."""

    def __init__(self, reach: Reach) -> None:
        own = reach.config.online_store
        self._reach = reach
        self._place = f"postgres at {own.host}:{own.port}, database {own.database}"
        self._pool = Pool(self._connect, reach.connections)

    def read(self, asks: tuple[Ask, ...], keys: Sequence[list[bytes]]) -> list[Answer]:
        """All views in one statement."""
        if not asks:
            return []
        query = _query(asks)
        values = [one for ask in asks for one in ((keys[ask.keys], ask.named) if ask.named else (keys[ask.keys],))]

        def run(again: bool) -> Any:
            with self._pool.connection(fresh=again) as connection, connection.cursor(binary=True) as cursor:
                return cursor.execute(query, values).fetchall()

        found = [Found(ask, keys[ask.keys]) for ask in asks]
        for number, key, feature, value, event in self._asked(run):
            found[number].add(key, feature, value, event)
        return [one.answer() for one in found]

    def write(self, rows: Rows) -> None:
        """One statement a feature, in one transaction."""
        own = sql.Identifier(rows.table)
        query = sql.SQL(
            "INSERT INTO {own} AS own (entity_key, feature_name, value, event_ts, created_ts) "
            "SELECT key, %s, value, event, created FROM unnest(%s::bytea[], %s::bytea[], %s::timestamp[], "
            "%s::timestamp[]) AS given (key, value, event, created) ORDER BY key "
            "ON CONFLICT (entity_key, feature_name) DO UPDATE SET value = EXCLUDED.value, value_text = NULL, "
            "event_ts = EXCLUDED.event_ts, created_ts = EXCLUDED.created_ts "
            "WHERE (EXCLUDED.event_ts, {new}) >= (own.event_ts, {old})"
        ).format(own=own, new=_CREATED.format(sql.SQL("EXCLUDED")), old=_CREATED.format(sql.SQL("own")))
        events, created = _moments(rows.events), _moments(rows.created)

        def run(again: bool) -> None:
            with self._pool.connection(fresh=again) as connection, connection.transaction():
                for feature, column in zip(rows.features, rows.values, strict=True):
                    connection.execute(query, [feature, rows.keys, column, events, created])

        self._asked(run)

    def clear(self, view: Any, table: str, features: list[str]) -> None:
        def run(again: bool) -> None:
            with self._pool.connection(fresh=again) as connection:
                connection.execute(sql.SQL("TRUNCATE {}").format(sql.Identifier(table)))

        self._asked(run)

    def life(self, view: Any, table: str) -> str:
        """The mark, and the file that the server keeps the table in: a dump that is restored has the mark too."""
        own = sql.Identifier(table)
        keep = sql.SQL("INSERT INTO {} (entity_key, feature_name, value) VALUES (%s, '', %s) ON CONFLICT DO NOTHING")
        find = sql.SQL(
            "SELECT pg_relation_filenode(tableoid), value FROM {} WHERE entity_key = %s AND feature_name = ''"
        )

        def run(again: bool) -> Any:
            with self._pool.connection(fresh=again) as connection:
                connection.execute(keep.format(own), [MARK, uuid.uuid4().bytes])
                return connection.execute(find.format(own), [MARK]).fetchone()

        file, mark = self._asked(run)
        return f"{file} {bytes(mark).hex()}"

    def _asked(self, run: Any) -> Any:
        try:
            return self._reach.asked(run, self._place, (psycopg.OperationalError, TimeoutError), _REFUSED)
        except psycopg.errors.UndefinedTable as error:
            first = str(error).splitlines()[0]
            raise InputError(
                f"online store {self._place}: {first}; run `hotlap features apply`, and materialize the view"
            ) from None

    def _connect(self) -> _Connection:
        own, seconds = self._reach.config.online_store, self._reach.timeout_s
        options = _get_conn_kwargs(own)
        settings = {"statement_timeout": max(1, round(1000 * seconds)), **_PLANNING}
        options["options"] += "".join(f" -c {name}={value}" for name, value in settings.items())
        try:
            connection = _Connection.connect(
                _get_conninfo(own), autocommit=True, connect_timeout=max(2, round(seconds)), **options
            )
        except psycopg.OperationalError as error:
            if _NOT_LET_IN.search(str(error)):
                raise _NotLetIn(str(error)) from None
            raise
        connection.seconds = seconds
        return connection


@lru_cache(maxsize=128)
def _query(asks: tuple[Ask, ...]) -> bytes:
    return (
        sql.SQL(" UNION ALL ")
        .join(
            sql.SQL(
                "SELECT {}::int4, entity_key, feature_name, value, (date_part('epoch', event_ts AT TIME ZONE "
                "current_setting('TimeZone')) * 1000000)::int8 FROM {} "
                "WHERE entity_key = ANY(%b)" + (" AND feature_name = ANY(%b)" if ask.named else "")
            ).format(sql.Literal(number), sql.Identifier(ask.table))
            for number, ask in enumerate(asks)
        )
        .as_bytes(None)
    )


class _Connection(psycopg.Connection[Any]):
    """A connection that gives up on a server that says nothing."""

    seconds = 2.0
    _pool = None
    """psycopg warns of a connection that goes with its process unless it knows that it is in a pool, as these are."""

    def wait(self, gen: Any, interval: float = 0.05, timeout: float | None = None) -> Any:
        return super().wait(gen, interval=interval, timeout=timeout or 1.5 * self.seconds)


def _moments(microseconds: Array) -> list[datetime | None]:
    return [
        None if one == times.NEVER else _EPOCH + timedelta(microseconds=one)
        for one in np.asarray(microseconds).tolist()
    ]
