"""Connections that are made when they are needed, kept, and handed from thread to thread."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Any


class Pool:
    """At most `connections` are kept open; more may be in use at a time. One that failed is closed.

    usable: whether one that was kept may still be used. A process that was forked makes connections of its own.
    """

    def __init__(
        self, connect: Callable[[], Any], connections: int, usable: Callable[[Any], bool] = lambda _: True
    ) -> None:
        self._connect, self._most, self._usable = connect, connections, usable
        self._idle: deque[Any] = deque()
        self._process = os.getpid()
        self._parents: list[deque[Any]] = []

    def connection(self, *, fresh: bool = False) -> _Lent:
        """One for a `with` block. fresh: a new one, and all that were kept are closed first, since the server may have
        gone with them.
        """
        return _Lent(self, fresh)

    def take(self, fresh: bool) -> Any:
        if self._process != os.getpid():
            self._parents.append(self._idle)  # closing them would end them for the parent too
            self._idle, self._process = deque(), os.getpid()
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return self._connect()
            if not fresh and self._usable(connection):
                return connection
            connection.close()

    def give_back(self, connection: Any, broken: bool) -> None:
        if broken or len(self._idle) >= self._most:  # one more is kept for each thread that looks at the same moment
            connection.close()
        else:
            self._idle.append(connection)


class _Lent:
    """A generator would take longer than the rest of the pool."""

    __slots__ = ("_connection", "_fresh", "_pool")

    def __init__(self, pool: Pool, fresh: bool) -> None:
        self._pool, self._fresh = pool, fresh

    def __enter__(self) -> Any:
        self._connection = self._pool.take(self._fresh)
        return self._connection

    def __exit__(self, kind: object, *_: object) -> None:
        self._pool.give_back(self._connection, kind is not None)
