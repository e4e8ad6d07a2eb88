"""Several streams: independent calls that run at the same time, each on threads of its own.

A call that waits for nobody keeps a core busy; two threads that share one call wait for each other after every layer.
So more examples come out in a second, and each call takes longer. Micro-batches do the same within one call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from hotlap.core import Array, Json, Session
from hotlap.errors import Unsupported

_WAITING = 2
"""Calls begun for each stream: one runs and one waits, so that no stream stands still."""
_MOST = 1024
_TIMED = 4
"""Calls for each stream that are timed as one, since the first to end waits for the last."""


def streams(options: Mapping[str, Json]) -> int:
    """How many calls the option `streams` runs at the same time; 1 where it is not given.

    Raises Unsupported for what is no such number: each stream takes memory, and an artifact may say anything.
    """
    count = options.get("streams", 1)
    if type(count) is not int or not 1 <= count <= _MOST:
        raise Unsupported(f"streams is {count!r:.40}, not a whole number from 1 to {_MOST:,}")
    return count


def threads_each(options: Mapping[str, Json], threads: int) -> int:
    """The threads of one stream."""
    return max(1, threads // streams(options))


class Streams:
    """Hands calls to a session from several threads at once. The session must allow that."""

    def __init__(self, session: Session, count: int) -> None:
        self._session, self._count = session, count
        self._pool = ThreadPoolExecutor(count) if count > 1 else None

    def map(self, calls: Iterable[list[Array]]) -> Iterator[list[Array]]:
        """Outputs in the order of the calls, which are taken as they are needed."""
        if self._pool is None:
            yield from map(self._session, calls)
            return
        begun: deque[Future[list[Array]]] = deque()
        try:
            for arrays in calls:
                begun.append(self._pool.submit(self._session, arrays))
                if len(begun) >= _WAITING * self._count:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            for waiting in begun:
                waiting.cancel()


def to_time(session: Session, options: Mapping[str, Json], arrays: list[Array]) -> tuple[Callable[[], Any], int]:
    """What to time of a session, and how many calls that is: as many as keep its streams busy, or one."""
    count = streams(options)
    if count == 1:
        alone = [array.copy() for array in arrays]
        return lambda: session(alone), 1
    lanes, calls = Streams(session, count), [[array.copy() for array in arrays] for _ in range(_TIMED * count)]
    return lambda: deque(lanes.map(calls), maxlen=0), len(calls)
