"""Any other online store that Feast knows, through Feast's own reads and writes, and no faster than they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from feast.infra.key_encoding_utils import deserialize_entity_key
from feast.infra.online_stores.helpers import get_online_store_from_config
from feast.protos.feast.types.Value_pb2 import Value

from hotlap.errors import HotlapError
from hotlap.features import times
from hotlap.features.online_stores import Answer, Ask, Reach, Rows, of_a_client

_DOWN = ("OSError", "RedisError", "OperationalError", "InterfaceError", "BotoCoreError", "ClientError", "RpcError",
         "GoogleAPIError", "DriverException", "NoHostAvailable", "PyMongoError", "TimeoutError")  # fmt: skip
"""What the clients of Feast's stores raise where a server does not answer or refuses."""


def open_store(reach: Reach) -> ThroughFeast:
    return ThroughFeast(reach)


class ThroughFeast:
    """Timeouts and the pool are the store's own, and nothing is asked again."""

    def __init__(self, reach: Reach) -> None:
        self._config = reach.config
        with self._asked():
            self._store = get_online_store_from_config(reach.config.online_store)

    def read(self, asks: tuple[Ask, ...], keys: Sequence[list[bytes]]) -> list[Answer]:
        return [self._read(ask.view, ask.features, keys[ask.keys]) for ask in asks]

    def _read(self, view: Any, features: Sequence[str], serialized: list[bytes]) -> Answer:
        keys = [deserialize_entity_key(key) for key in serialized]
        with self._asked():
            rows = self._store.online_read(self._config, view, keys, list(features)) if keys else []
        return Answer(
            [[_serialized(values, name) for _, values in rows] for name in features],
            [times.NEVER if at is None else times.microseconds(at) for at, _ in rows],
        )

    def write(self, rows: Rows) -> None:
        """Rows older than the store's are left out, by event time: Feast gives no created time back. That is looked up
        first: a row written meanwhile may be lost.
        """
        known = self._read(rows.view, rows.features, rows.keys).events
        kept = np.flatnonzero(rows.events >= known)
        data = [
            (
                deserialize_entity_key(rows.keys[row]),
                {name: Value.FromString(column[row]) for name, column in zip(rows.features, rows.values, strict=True)},
                times.moment(int(rows.events[row])),
                None if rows.created[row] == times.NEVER else times.moment(int(rows.created[row])),
            )
            for row in kept
        ]
        with self._asked():
            self._store.online_write_batch(self._config, rows.view, data, None)

    def clear(self, view: Any, table: str, features: list[str]) -> None:
        """The view's table is dropped and made anew, as far as the store does that."""
        for gone, kept in (([view], []), ([], [view])):
            with self._asked():
                self._store.update(self._config, gone, kept, [], [], partial=True)

    def life(self, view: Any, table: str) -> str:
        """Feast has nothing to tell it by."""
        return ""

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """Around a call of the store: its errors become ours, without secrets."""
        try:
            yield
        except HotlapError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the store's own client raises
            store = self._config.online_store
            raise of_a_client(error, store, f"online store {store.type}, through Feast", down=_DOWN) from None


def _serialized(values: Any, name: str) -> bytes | None:
    return values[name].SerializeToString() if values and name in values else None
