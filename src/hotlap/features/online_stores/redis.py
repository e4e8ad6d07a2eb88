"""Feast's Redis hashes: one for each entity key, which holds the values of all its views and an event time of each.

A read is one HMGET a key for all views together, written as bytes in one go: redis-py's own packing of arguments
takes longer than the server does. Source: docs/specs/online_store_format.md in Feast's repository.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from itertools import islice
from typing import Any

import redis
from feast.infra.online_stores.helpers import _mmh3, _redis_key_prefix, compute_versioned_name
from feast.infra.online_stores.redis import RedisOnlineStore, RedisType
from google.protobuf.timestamp_pb2 import Timestamp

from hotlap.errors import InputError
from hotlap.features import times, wire
from hotlap.features.online_stores import MARK, Answer, Ask, OnlineStore, Reach, Rows

_DOWN = (redis.ConnectionError, redis.TimeoutError)
_REFUSED = (redis.ResponseError, redis.AuthenticationError)
_BATCH = 2_000
"""Rows written in one go."""

_NEWEST = """
local function micros(stamp)
  local at, fields, number, inverse, shift = 1, {0, 0}, 0, 0, 1
  local field = nil
  while at <= #stamp do
    local byte = string.byte(stamp, at)
    at = at + 1
    if field == nil then
      field = math.floor(byte / 8)
    else
      if shift == 128 ^ 9 then
        number = -inverse - 1
      else
        number, inverse = number + (byte % 128) * shift, inverse + (127 - byte % 128) * shift
      end
      shift = shift * 128
      if byte < 128 then
        fields[field], field, number, inverse, shift = number, nil, 0, 0, 1
      end
    end
  end
  return fields[1] * 1000000 + math.floor(fields[2] / 1000)
end
local held = redis.call('HMGET', KEYS[1], ARGV[1], ARGV[2])
if held[1] then
  local event, mine = micros(held[1]), tonumber(ARGV[3])
  local created = held[2] and tonumber(held[2]) or -9.3e18
  if event > mine or (event == mine and created > tonumber(ARGV[4])) then return 0 end
end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[4], unpack(ARGV, 6))
if tonumber(ARGV[5]) > 0 then redis.call('EXPIRE', KEYS[1], ARGV[5]) end
return 1
"""
_SHA = hashlib.sha1(_NEWEST.encode()).hexdigest().encode()
"""Keeps a row unless the hash has a newer one. Times are compared in microseconds, as Feast's are at most.

A negative number has ten bytes of seven bits. Lua's numbers hold 53 bits, so it is made of the inverse of its bits.
"""


def open_store(reach: Reach) -> OnlineStore:
    if reach.config.online_store.redis_type != RedisType.redis:
        from hotlap.features.online_stores import through_feast

        return through_feast.open_store(reach)
    return Redis(reach)


class Redis:
    """One server. A cluster or sentinels are reached through Feast."""

    def __init__(self, reach: Reach) -> None:
        own = reach.config.online_store
        nodes, given = RedisOnlineStore._parse_connection_string(own.connection_string)
        if not nodes or not nodes[0].get("port", "").isdecimal():
            raise InputError(
                f"{reach.config.repo_path}/feature_store.yaml: online_store.connection_string does not begin with "
                "host:port; write it as redis.example:6379,db=0,password=..."
            )
        secure = given.pop("ssl", False)
        options = {"socket_timeout": reach.timeout_s, "socket_connect_timeout": reach.timeout_s, **given}
        options |= {"max_connections": reach.connections, "timeout": reach.timeout_s}
        options |= {"retry": redis.retry.Retry(redis.backoff.NoBackoff(), 0)}
        self._place = f"redis at {nodes[0]['host']}:{nodes[0]['port']}"
        try:
            self._pool = redis.BlockingConnectionPool(
                connection_class=redis.SSLConnection if secure else redis.Connection,
                host=nodes[0]["host"],
                port=int(nodes[0]["port"]),
                **options,
            )
            self._pool.connection_class(**self._pool.connection_kwargs)  # connects to nothing yet
        except (TypeError, ValueError, redis.RedisError):  # whose message may hold a part of a password with a comma
            raise InputError(
                f"{reach.config.repo_path}/feature_store.yaml: online_store.connection_string has an option, or a "
                "value of one, that Redis connections don't know; a password with a comma can't be written there"
            ) from None
        self._reach, self._project = reach, reach.config.project.encode()
        self._versioned = reach.config.registry.enable_online_feature_view_versioning
        self._keep_seconds = own.key_ttl_seconds or 0

    def read(self, asks: tuple[Ask, ...], keys: Sequence[list[bytes]]) -> list[Answer]:
        requests = _requests(asks, self._versioned)
        commands = [
            b"%b$%d\r\n%b%b\r\n%b" % (head, len(key) + len(self._project), key, self._project, tail)
            for number, (head, tail) in requests.items()
            for key in keys[number]
        ]
        replies = self._asked_for(*commands)
        columns, start = {}, 0
        for number in requests:
            columns[number] = zip(*replies[start : start + len(keys[number])], strict=True)
            start += len(keys[number])
        held = [
            list(islice(columns[ask.keys], len(ask.features) + 1)) or [()] * (len(ask.features) + 1) for ask in asks
        ]
        # All views' times at once: each of NumPy's calls costs more than some stamps.
        events = iter(_events([stamp for own in held for stamp in own[-1]]))
        return [Answer(own[:-1], list(islice(events, len(own[-1])))) for own in held]

    def write(self, rows: Rows) -> None:
        view = self._name(rows.view)
        made = f"_ct:{view}".encode()
        *names, stamp = _fields(view, rows.features)
        columns = list(zip(*rows.values, strict=True)) if rows.values else [()] * len(rows.keys)
        for start in range(0, len(rows.keys), _BATCH):
            commands = [_packed(b"SCRIPT", b"LOAD", _NEWEST.encode())]
            for key, values, event, created in zip(
                rows.keys[start : start + _BATCH],
                columns[start : start + _BATCH],
                rows.events[start : start + _BATCH].tolist(),
                rows.created[start : start + _BATCH].tolist(),
                strict=True,
            ):
                pairs = [part for pair in zip(names, values, strict=True) for part in pair]
                numbers = (b"%d" % event, b"%d" % created, b"%d" % self._keep_seconds)
                parts = (key + self._project, stamp, made, *numbers, stamp, _stamp(event), *pairs)
                commands.append(_packed(b"EVALSHA", _SHA, b"1", *parts))
            self._asked_for(*commands)

    def clear(self, view: Any, table: str, features: list[str]) -> None:
        """The view's fields in every hash of the project; what other views have in them stays."""
        fields = [*_fields(self._name(view), features), f"_ct:{self._name(view)}".encode()]
        cursor = b"0"
        while True:
            ((cursor, keys),) = self._asked_for(_packed(b"SCAN", cursor, b"COUNT", b"%d" % _BATCH))
            own = [key for key in keys if _project(key) == self._project]
            if own:
                self._asked_for(*(_packed(b"HDEL", key, *fields) for key in own))
            if cursor == b"0":
                break
        self._asked_for(_packed(b"DEL", self._mark(view)))

    def life(self, view: Any, table: str) -> str:
        """The mark, and the server's run, which may have begun with what its disk kept of an earlier moment."""
        key, stamp = self._mark(view), f"_ts:{self._name(view)}".encode()
        told, _, _, mark = self._asked_for(
            _packed(b"INFO", b"server"),
            _packed(b"HSET", key, stamp, _stamp(0)),
            _packed(b"HSETNX", key, MARK, uuid.uuid4().hex.encode()),
            _packed(b"HGET", key, MARK),
        )
        run = next((line for line in told.decode().splitlines() if line.startswith("run_id:")), "")
        return f"{run} {mark.decode()}"

    def _mark(self, view: Any) -> bytes:
        """The key of a hash that Feast removes with the view's rows: by its beginning, its end, and its only view."""
        key: bytes = _redis_key_prefix(view.join_keys) + MARK + self._name(view).encode() + self._project
        return key

    def _asked_for(self, *commands: bytes) -> list[Any]:
        ask = partial(self._exchange, b"".join(commands), len(commands))
        return self._reach.asked(ask, self._place, _DOWN, _REFUSED)

    def _name(self, view: Any) -> str:
        name: str = compute_versioned_name(view, self._versioned)
        return name

    def _exchange(self, message: bytes, replies: int, again: bool) -> list[Any]:
        with self._connected() as connection:
            connection.send_packed_command([message])
            return [connection.read_response(disable_decoding=True) for _ in range(replies)]

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        connection = self._pool.get_connection()
        try:
            yield connection
        except BaseException:
            connection.disconnect()  # answers may still be on their way
            raise
        finally:
            self._pool.release(connection)


def _project(key: bytes) -> bytes | None:
    """What follows an entity's key: names and values, each with a type and a length. None where it is no such key."""
    at, parts = 4, 2 * int.from_bytes(key[:4], "little")
    if parts > len(key):
        return None
    for _ in range(parts):
        at += 8 + int.from_bytes(key[at + 4 : at + 8], "little")
    return key[at:]


@lru_cache(maxsize=128)
def _requests(asks: tuple[Ask, ...], versioned: bool) -> dict[int, tuple[bytes, bytes]]:
    """Of an HMGET of all that is asked of one key what stands before the key and after it, by its list of keys."""
    fields: dict[int, list[bytes]] = {}
    for ask in asks:
        fields.setdefault(ask.keys, []).extend(_fields(compute_versioned_name(ask.view, versioned), ask.features))
    return {
        number: (
            b"*%d\r\n$5\r\nHMGET\r\n" % (len(own) + 2),
            b"".join(b"$%d\r\n%b\r\n" % (len(field), field) for field in own),
        )
        for number, own in fields.items()
    }


def _fields(view: str, features: Sequence[str]) -> list[bytes]:
    return [*(_mmh3(f"{view}:{feature}") for feature in features), f"_ts:{view}".encode()]


def _packed(*parts: bytes) -> bytes:
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def _events(stamps: Sequence[bytes | None]) -> list[int]:
    known = iter(wire.moments([one for one in stamps if one is not None]))
    return [times.NEVER if one is None else next(known) for one in stamps]


def _stamp(event: int) -> bytes:
    data: bytes = Timestamp(seconds=event // 1_000_000, nanos=event % 1_000_000 * 1000).SerializeToString()
    return data
