"""How parent and worker talk: a frame is a magic, two lengths, JSON, then the raw bytes of its arrays.

Nothing is unpickled, so that a worker which writes rubbish makes an error and not a surprise.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import time
from typing import Any

import numpy as np

from hotlap.core import Json
from hotlap.errors import WorkerDied, WorkerTimeout

_HEAD = struct.Struct("<4sIQ")
_MAGIC = b"HLW1"
_JSON_LIMIT = 256 * 2**20
_ARRAYS_LIMIT = 64 * 2**30


def send(connection: socket.socket, value: Any) -> None:
    """Send a value of JSON kinds and NumPy arrays."""
    arrays: list[np.ndarray[Any, Any]] = []
    text = json.dumps(_pack(value, arrays)).encode()
    connection.sendall(_HEAD.pack(_MAGIC, len(text), sum(array.nbytes for array in arrays)))
    connection.sendall(text)
    for array in arrays:
        connection.sendall(array.data.cast("B") if array.nbytes else b"")


def receive(connection: socket.socket, timeout: float | None = None) -> Any:
    """Receive one value. Raises ConnectionError (the other end is gone), WorkerTimeout, WorkerDied (rubbish)."""
    deadline = None if timeout is None else time.monotonic() + timeout
    magic, text_length, arrays_length = _HEAD.unpack(_read(connection, _HEAD.size, deadline))
    if magic != _MAGIC or text_length > _JSON_LIMIT or arrays_length > _ARRAYS_LIMIT:
        raise WorkerDied("the process answered with something that is no message")
    try:
        value = json.loads(bytes(_read(connection, text_length, deadline)))
    except (ValueError, RecursionError) as error:
        raise WorkerDied("the process answered with something that is no message") from error
    return _unpack(value, memoryview(_read(connection, arrays_length, deadline)))


def _read(connection: socket.socket, length: int, deadline: float | None) -> bytearray:
    data = bytearray(length)
    view, done = memoryview(data), 0
    while done < length:
        wait = None if deadline is None else deadline - time.monotonic()
        if wait is not None and (wait <= 0 or not select.select([connection], [], [], wait)[0]):
            raise WorkerTimeout("no answer in time")
        try:
            count = connection.recv_into(view[done:])
        except ConnectionError:
            count = 0
        if count == 0:
            raise ConnectionError("the other end is gone")
        done += count
    return data


def _pack(value: Any, arrays: list[np.ndarray[Any, Any]]) -> Json:
    if isinstance(value, np.ndarray):
        start = sum(array.nbytes for array in arrays)
        arrays.append(np.ascontiguousarray(value))
        return {"__array__": [value.dtype.str, list(value.shape), start]}
    if isinstance(value, dict):
        return {str(key): _pack(item, arrays) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_pack(item, arrays) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


def _unpack(value: Json, data: memoryview) -> Any:
    if isinstance(value, dict):
        if "__array__" in value:
            dtype, shape, start = value["__array__"]
            count = int(np.prod(shape, dtype=np.int64))
            return np.frombuffer(data, np.dtype(dtype), count, start).reshape(shape)
        return {key: _unpack(item, data) for key, item in value.items()}
    if isinstance(value, list):
        return [_unpack(item, data) for item in value]
    return value
