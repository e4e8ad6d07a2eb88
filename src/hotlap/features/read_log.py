"""What the online store answered, kept as Parquet: the reads that `check` replays.

A folder of files, each whole. A file holds reads of one list of features: the key columns, the request's columns, a
column for each feature, `__at` (the instant, microseconds UTC), and for each view `__event:VIEW` (the event time of its
values in microseconds since 1970, null where it had none). Its footer has, under `hotlap`, the features asked for.

Reading comes first. `add` hands the answer over and returns: a thread of its own writes. It never waits, and raises
nothing: where the writer is behind or can't write, reads are left out of the log, and counted.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import random
import threading
import time
import uuid
import weakref
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from hotlap.core import Array
from hotlap.errors import HotlapError, InputError, OutputError
from hotlap.features import times, write
from hotlap.features.job import METADATA
from hotlap.features.source import collected

if TYPE_CHECKING:
    from hotlap.features.online import Online

AT, EVENT = "__at", "__event:"
_FORMAT = 1
_WAITING_ROWS = 200_000
"""Rows that may wait for the writer; beyond them reads are left out."""
_FILE_ROWS = 100_000
_FILE_SECONDS = 60.0
_log = logging.getLogger("hotlap.features")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reads:
    """Reads of one list of features.

    `given`: what was asked with, keys and request columns. `at`: the instants, microseconds UTC. `values`: the
    features' columns. `events`: for each view int64[reads], microseconds since 1970, `times.NEVER` where it had none.
    """

    features: list[str] | str
    full_feature_names: bool
    given: pl.DataFrame
    at: pl.Series
    values: pl.DataFrame
    events: dict[str, Array]


_Waiting = tuple["Online", list[str] | str, bool]


class ReadLog:
    """Writes reads to a folder: `with ReadLog("reads") as log: store.online(..., log=log)`.

    share: the share of calls that are kept, drawn at random; 1 keeps all. `left_out` counts rows that were not kept
    because the writer was behind or failed; `error` says why it failed. One log may take reads of several threads.
    """

    def __init__(self, folder: Path | str, *, share: float = 1.0) -> None:
        if not 0 < share <= 1:
            raise InputError(f"share {share}: give a share of the calls to keep, above 0 and at most 1")
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder}: no reads can be logged there: {error.strerror}") from error
        self.left_out, self.error = 0, ""
        self._share, self._random = share, random.Random()
        self._waiting: deque[_Waiting] = deque()
        self._rows, self._closing, self._pid = 0, False, os.getpid()
        self._wake = threading.Condition()
        self._writer = threading.Thread(target=self._write, name="hotlap-read-log", daemon=True)
        self._writer.start()
        self._at_exit = partial(_close, weakref.WeakMethod(self.close))
        atexit.register(self._at_exit)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, read: Online, features: list[str] | str, full_feature_names: bool) -> None:
        """Keep a read. What a store that was down did not answer is no read, and is left out."""
        if read.unavailable or (self._share < 1 and self._random.random() >= self._share):
            return
        rows = read.table.num_rows
        with self._wake:
            if self._closing or self._pid != os.getpid() or self._rows + rows > _WAITING_ROWS:
                self.left_out += rows
                return
            self._waiting.append((read, features, full_feature_names))
            self._rows += rows
            if self._rows >= _FILE_ROWS:
                self._wake.notify()

    def close(self) -> None:
        """Write what waits, and stop. Reads that come later are left out."""
        with self._wake:
            if self._closing or self._pid != os.getpid():
                return
            self._closing = True
            self._wake.notify()
        self._writer.join()
        atexit.unregister(self._at_exit)  # its own: other logs are still open

    def _write(self) -> None:
        begun = time.monotonic()
        while True:
            with self._wake:
                due = begun + _FILE_SECONDS - time.monotonic()
                while not self._closing and self._rows < _FILE_ROWS and due > 0:
                    self._wake.wait(due)
                    due = begun + _FILE_SECONDS - time.monotonic()
                batch, self._waiting = self._waiting, deque()
                rows, closing = self._rows, self._closing
            begun = time.monotonic()
            try:
                self._write_files(batch)
            finally:
                with self._wake:
                    self._rows -= rows
            if closing:
                return

    def _write_files(self, batch: deque[_Waiting]) -> None:
        """One file for each list of features and kind of columns."""
        alike: dict[tuple[str, str], list[pa.Table]] = {}
        for read, features, full in batch:
            asked = {"format": _FORMAT, "features": features, "full_feature_names": full, "columns": [*read.views]}
            table = _table(read)
            alike.setdefault((json.dumps(asked), str(table.schema)), []).append(table)
        for (told, _), tables in alike.items():
            name = f"{time.time_ns():020d}-{uuid.uuid4().hex}.parquet"
            try:
                table = pa.concat_tables(tables).replace_schema_metadata({METADATA: told})
                write.parquet(table, self.folder / name)
            except (HotlapError, OSError, pa.ArrowException) as error:
                with self._wake:
                    self.left_out += sum(one.num_rows for one in tables)
                if not self.error:
                    _log.warning("reads are not logged: %s", error)
                self.error = str(error)


def _close(method: weakref.WeakMethod[Any]) -> None:
    """At the interpreter's end, if the log still lives."""
    close = method()
    if close is not None:
        close()


def _table(read: Online) -> pa.Table:
    table = read.table
    columns = dict(zip(table.column_names, table.columns, strict=True))
    instant = pa.scalar(read.at, pa.timestamp("us", "UTC"))
    columns[AT] = pa.repeat(instant, table.num_rows)
    for view, events in read.events.items():
        columns[f"{EVENT}{view}"] = pa.array(events, mask=events == times.NEVER)
    return pa.table(columns)


def reads(folder: Path | str, *, sample: int | None = None, seed: int = 0) -> Iterator[Reads]:
    """The reads of a log, those of each list of features together; `sample`: so many of all, drawn at random.

    Raises InputError where there is no log, or a file is none of a log.
    """
    found = sorted(Path(folder).glob("*.parquet")) if Path(folder).is_dir() else []
    if not found:
        raise InputError(f"log {folder}: no logged reads there; give the folder that a ReadLog writes to")
    alike: dict[tuple[str, tuple[str, ...]], list[Path]] = {}
    total = 0
    for path in found:
        try:
            about = pq.read_metadata(path)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"log {path}: can't be read as Parquet: {error}") from error
        asked = (about.metadata or {}).get(METADATA)
        if asked is None or json.loads(asked).get("format") != _FORMAT:
            raise InputError(f"log {path}: not a file of logged reads of this version")
        alike.setdefault((asked.decode(), tuple(about.schema.names)), []).append(path)
        total += about.num_rows
    kept = np.ones(total, bool)
    if sample is not None and sample < total:
        kept = np.zeros(total, bool)
        kept[np.random.default_rng(seed).choice(total, sample, replace=False)] = True
    begin = 0
    for (asked_text, _), paths in alike.items():
        frame = pl.concat([_frame(path) for path in paths], how="vertical_relaxed")
        mine = frame.filter(pl.Series(kept[begin : begin + len(frame)]))
        begin += len(frame)
        if len(mine):
            yield _reads(mine, json.loads(asked_text))


def _frame(path: Path) -> pl.DataFrame:
    return collected(pl.scan_parquet(path, hive_partitioning=False, glob=False), "log", str(path))


def _reads(frame: pl.DataFrame, asked: dict[str, Any]) -> Reads:
    events = [name for name in frame.columns if name.startswith(EVENT)]
    return Reads(
        features=asked["features"],
        full_feature_names=asked["full_feature_names"],
        given=frame.drop(AT, *events, *asked["columns"]),
        at=frame[AT],
        values=frame.select(asked["columns"]),
        events={name.removeprefix(EVENT): frame[name].fill_null(times.NEVER).to_numpy() for name in events},
    )


def of(read: Online, features: list[str] | str, full_feature_names: bool) -> Reads:
    """A read that was just made, as one of a log is."""
    frame = pl.from_arrow(read.table)
    assert isinstance(frame, pl.DataFrame)
    return Reads(
        features=features,
        full_feature_names=full_feature_names,
        given=frame.drop(read.views),
        at=pl.Series(AT, [read.at], dtype=pl.Datetime("us", "UTC")).new_from_index(0, len(frame)),
        values=frame.select(list(read.views)),
        events=read.events,
    )
