"""Online stores: read and written for many keys at once, in the tables that Feast itself keeps there.

Each file holds one store with `read` and `write`. Which one a repository has, its `feature_store.yaml` says; a store
without a file of its own here is reached through Feast.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from hotlap.core import Array
from hotlap.errors import HotlapError, InputError, MissingExtra, StoreDown
from hotlap.features.variables import check_set

STORES = {
    "EmbeddedOnlineStoreConfig": "embedded",
    "SqliteOnlineStoreConfig": "sqlite",
    "RedisOnlineStoreConfig": "redis",
    "PostgreSQLOnlineStoreConfig": "postgres",
}
_WAYS_OUT = {
    "used memory > 'maxmemory'": "give it more memory (maxmemory), or let keys expire (key_ttl_seconds)",
    "can't write against a read only replica": "it is a replica; give the address of the primary",
    "read-only transaction": "it is a replica, or its user may only read; give the primary, or a user that may write",
    "NOREPLICAS": "it takes no writes while it has too few replicas; start them",
    "MISCONF": "it can't save to its disk, and so takes no writes; its log says why",
    "No permissions": "give its user the right to it",
    "NOPERM": "give its user the right to it",
    "permission denied": "give its user the right to it",
    "remaining connection slots": "lower `connections` of those who read, or raise the server's limit",
    "too many connections": "lower `connections` of those who read, or raise the limit of its user or database",
    "No connection available": "all of this process's own are in use; raise `connections`, or read from fewer threads",
    "too many clients": "lower `connections` of those who read, or raise the server's limit",
    "max number of clients": "lower `connections` of those who read, or raise the server's limit",
    "does not support SSL": "set `sslmode: disable` in online_store: Feast asks for SSL unless it is told not to",
    "password authentication failed": "give the user and password that the server knows",
    "WRONGPASS": "give the user and password that the server knows",
    "NOAUTH": "give its password in connection_string",
    "Authentication required": "give its password in connection_string",
    "invalid username-password": "give the user and password that the server knows",
    "DB index is out of range": "give a `db` that the server has: 0 to 15, unless it was told otherwise",
    "no pg_hba.conf entry": "its pg_hba.conf lets this user in from elsewhere only, or by another `sslmode`",
    "root certificate file": "give the file as `sslrootcert_path` in online_store, or another `sslmode`",
    '" does not exist': "give a user and a database that the server has",
    "Connection refused": "start the server, or give its host and port",
    "No space left": "free space on the server's disk",
    "database is locked": "another process writes it all the while; wait for that one, or end it",
    "disk I/O error": "its disk may be full or gone; make room",
    "disk is full": "make room",
    "readonly database": "let this user write the file and its folder",
}
"""What helps, by what a server's message has in it."""
_SECRET = ("password", "token", "secret", "access_key", "api_key")
"""Parts of the names of settings that no message tells."""
MARK = b"hotlap:life"
"""The key of the mark that `life` keeps. No entity's key begins so: that is the number of its parts. In Redis the key
begins with the names of the view's keys, and this follows where an entity's values would.
"""
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ask:
    """What to read of one view again and again: `table` is its name as the store knows it, `keys` the place of its keys
    among the lists of keys of a read. It equals nothing but itself, so that a store may keep what it makes of it.
    """

    view: Any
    table: str
    features: tuple[str, ...]
    keys: int = 0

    @property
    def named(self) -> list[str]:
        """The features to ask for by name in a table of one row a value; none where most of the view's are wanted: all
        of a key's rows are found sooner, and the others are left out afterwards.
        """
        return list(self.features) if len(self.features) * 2 < len(self.view.features) else []


class Answer(NamedTuple):
    """What a view holds. `values` has for each feature asked the serialized value of each key, or None; `events` for
    each key the event time of its row in microseconds since 1970, UTC, or times.NEVER.
    """

    values: Sequence[Sequence[bytes | None]]
    events: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Rows of a view to write, of distinct keys: for each feature a column of serialized values, b"" for null.

    `events` and `created`: int64[rows], microseconds since 1970, UTC; a row without a created time has times.NEVER.
    """

    view: Any
    table: str
    keys: list[bytes]
    features: list[str]
    values: list[list[bytes]]
    events: Array
    created: Array


class OnlineStore(Protocol):
    """An online store. All its methods may be called from several threads, and raise StoreDown."""

    def read(self, asks: tuple[Ask, ...], keys: Sequence[list[bytes]]) -> list[Answer]:
        """Each view's rows of its keys, all views as of one moment where the store can do that.

        keys: lists of distinct keys, to which the asks point.
        """

    def write(self, rows: Rows) -> None:
        """Keep each row, unless the store has one of its key that is newer: by event time, then by created time."""

    def clear(self, view: Any, table: str, features: list[str]) -> None:
        """Remove all rows of the view, which may have these features."""

    def life(self, view: Any, table: str) -> str:
        """What changes where rows once written to the table may be gone; the same text as long as they are not.

        A random mark is kept among the rows, so that it goes when they do. No read of keys finds it.
        """


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
                yaml = Path(self.config.repo_path or ".") / "feature_store.yaml"
                check_set(self.config.online_store.model_dump(), yaml, "online_store")
                home = STORES.get(type(self.config.online_store).__name__, "through_feast")
                try:
                    made = import_module(f"hotlap.features.online_stores.{home}")
                except ModuleNotFoundError as error:
                    told = f"this online store needs {error.name}, which is not installed"
                    raise MissingExtra(f"{told}: pip install 'hotlap[{home}]'") from error
                self._store = made.open_store(self)
            return self._store

    def asked(
        self,
        ask: Callable[[bool], _Result],
        place: str,
        down: tuple[type[Exception], ...],
        refused: tuple[type[Exception], ...] = (),
    ) -> _Result:
        """`ask(again)`, tried `retries` times more where it raises one of `down`; then StoreDown, without secrets.

        `refused`: what the server answers with where it won't do it, which asking again does not change.
        """
        for again in range(self.retries + 1):
            try:
                return ask(again > 0)
            except refused as error:
                told = hidden(self.config.online_store, " ".join(str(error).split()))
                raise StoreDown(f"online store {place} refuses: {told}{way_out(told)}") from None
            except down as error:
                failed = error
        told = hidden(self.config.online_store, " ".join(str(failed).split())) or type(failed).__name__
        told += way_out(told)
        times_ = "once" if not self.retries else f"{self.retries + 1} times, each within {self.timeout_s:g} s"
        raise StoreDown(f"online store {place} does not answer; asked {times_}: {told}") from None


def hidden(store: Any, text: str, words: tuple[str, ...] = _SECRET) -> str:
    """The text without what a store's configuration keeps secret: settings with one of `words` in their names."""
    secrets = [value for name, value in vars(store).items() if any(word in name for word in words)]
    for part in str(getattr(store, "connection_string", "")).split(","):
        name, _, value = part.partition("=")
        secrets += [value.strip('"')] if name.strip() in ("password", "username") else []
    for secret in secrets:
        text = text.replace(secret, "***") if secret and isinstance(secret, str) else text
    return text


def of_a_client(
    error: Exception, store: Any, place: str, *, down: Sequence[str], secret: tuple[str, ...] = _SECRET
) -> HotlapError:
    """What a store's own client raised as ours, to be raised: without secrets, and with what helps.

    store: its configuration. down: names of classes that stand for a server that does not answer; theirs, and what is
    below them, becomes StoreDown, all else InputError: no client is imported for that.
    """
    told = hidden(store, " ".join(str(error).split()), secret)[:400] or "no reason given"
    kind = StoreDown if {one.__name__ for one in type(error).__mro__} & {*down} else InputError
    return kind(f"{place}: {type(error).__name__}: {told}{way_out(told)}")


def way_out(told: str) -> str:
    """What helps, after a semicolon, where a server's message is a known one."""
    return next((f"; {helps}" for part, helps in _WAYS_OUT.items() if part.lower() in told.lower()), "")
