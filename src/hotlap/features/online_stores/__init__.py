"""Online stores: read and written for many keys at once, in the tables that Feast itself keeps there.

Each file holds one store with `read` and `write`. Which one a repository has, its `feature_store.yaml` says; a store
without a file of its own here is read through Feast.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol

from hotlap.core import Array
from hotlap.errors import MissingExtra

STORES = {
    "SqliteOnlineStoreConfig": "hotlap.features.online_stores.sqlite",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What to read of one view: `table` is its name as the store knows it, `keys` are distinct."""

    view: Any
    table: str
    keys: list[bytes]
    features: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a view holds. `values` has for each feature asked the serialized value of each key, or None; `events` is
    int64[keys], the event time of each key's row in microseconds since 1970, UTC, or times.NEVER.
    """

    values: list[list[bytes | None]]
    events: Array


class OnlineStore(Protocol):
    """An online store. All its methods may be called from several threads."""

    def read(self, asks: list[Ask]) -> list[Answer]:
        """Each view's rows, all views as of one moment where the store can do that. Raises StoreDown."""


@dataclass(slots=True)
class Reach:
    """How to get at a repository's online store: it is connected to when first used.

    timeout_s: seconds to wait for a connection, and for each answer. retries: how often to ask again when a connection
    breaks or an answer does not come. connections: how many are kept open at most.
    """

    config: Any
    timeout_s: float
    retries: int
    connections: int
    _store: OnlineStore | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def store(self) -> OnlineStore:
        with self._lock:
            if self._store is None:
                home = STORES.get(type(self.config.online_store).__name__)
                try:
                    made = import_module(home or "hotlap.features.online_stores.any")
                except ModuleNotFoundError as error:
                    raise MissingExtra(f"this online store needs {error.name}: pip install {error.name}") from error
                self._store = made.open_store(self)
            return self._store
