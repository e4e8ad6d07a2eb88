"""How far a view's materialization is, kept beside the registry, so that a run that was killed goes on where it was."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hotlap.core import Json
from hotlap.errors import InputError, OutputError
from hotlap.features import made_as
from hotlap.search.folder import written_whole

if TYPE_CHECKING:
    from hotlap.features.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Rows to take: events from `start` (None: from the first) to `end`, both included, and later-made ones too."""

    start: datetime | None
    end: datetime


@dataclass(slots=True)
class Journal:
    """Which shares of a window are through, a line each, flushed to the disk; its lock goes with the process."""

    path: Path

    def unfinished(self) -> Window | None:
        """The window of a run that did not end. It is still to be done where the source has changed since, whole."""
        lines = self._lines()
        if not lines:
            return None
        start = lines[0]["start"]
        return Window(
            start=datetime.fromisoformat(start) if start else None, end=datetime.fromisoformat(lines[0]["end"])
        )

    def begin(self, window: Window, shares: int, identity: str) -> tuple[int, set[int]]:
        """How many shares there are, and which are through; none are once the view or its source are others."""
        lines = self._lines()
        if lines and lines[0]["identity"] == identity and self.unfinished() == window:
            self._whole_lines_only(lines)
            return lines[0]["shares"], {line["share"] for line in lines[1:]}
        start = None if window.start is None else window.start.isoformat()
        head = {"identity": identity, "start": start, "end": window.end.isoformat(), "shares": shares}
        self.path.write_text("")
        self._add(head)
        return shares, set()

    def passed(self, share: int) -> None:
        self._add({"share": share})

    def end(self) -> None:
        self.path.unlink()

    def forget(self) -> None:
        """What a run of another definition left."""
        self.path.unlink(missing_ok=True)

    def _add(self, line: Json) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _whole_lines_only(self, lines: list[Any]) -> None:
        """Drop what was cut off, so that the next line does not follow it on the same one."""
        whole = "".join(json.dumps(line) + "\n" for line in lines)
        if self.path.read_text() != whole:
            with written_whole(self.path) as part:
                part.write_text(whole)

    def _lines(self) -> list[Any]:
        """The whole lines; what was cut off by a kill is none."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text().split("\n")[:-1]]


@contextmanager
def journal_of(store: Store, view: str) -> Iterator[Journal]:
    """The view's journal, beside the registry, for one process at a time."""
    place = made_as.place(store.registry_path, store.feast.project, view)
    try:
        lock = os.open(place.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise OutputError(
            f"{place.parent}: can't be written ({error.strerror}); the journal of what is materialized is kept there"
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"view {view} is being materialized by another process; wait for it") from None
        yield Journal(place.with_suffix(".jsonl"))
    finally:
        os.close(lock)
