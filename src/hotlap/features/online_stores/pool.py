"""Connections that are made when they are needed, kept, and handed from thread to thread."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Pool:
    """At most `connections` are kept open; more may be in use at a time. One that failed is closed."""

    def __init__(self, connect: Callable[[], Any], connections: int) -> None:
        self._connect = connect
        self._idle: queue.LifoQueue[Any] = queue.LifoQueue(connections)

    @contextmanager
    def connection(self, *, fresh: bool = False) -> Iterator[Any]:
        """fresh: a new one, and all that were kept are closed first, since the server may have gone with them."""
        connection = None
        while connection is None:
            try:
                connection = self._idle.get_nowait()
            except queue.Empty:
                connection = self._connect()
                break
            if fresh:
                connection.close()
                connection = None
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        try:
            self._idle.put_nowait(connection)
        except queue.Full:
            connection.close()
