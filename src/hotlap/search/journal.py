"""The journal: one JSON line an event, on disk before the next thing begins, so that `--resume` can take it up."""

from __future__ import annotations

import json
import os
from pathlib import Path

from hotlap.core import Json
from hotlap.errors import OutputError


class Journal:
    """Appends events to `journal.jsonl`, and gives those that an earlier run left there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.events = _read(path)
        try:
            self._file = path.open("ab")
        except OSError as error:
            raise OutputError(f"{path} can't be written: {error.strerror}") from error

    def append(self, event: str, **details: Json) -> None:
        """Write one event through to the disk."""
        line = json.dumps({"event": event, **details}, allow_nan=False).encode() + b"\n"
        self.events.append(json.loads(line))
        try:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OutputError(
                f"{self._path} can't be written ({error.strerror}); make room and go on with --resume"
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _read(path: Path) -> list[Json]:
    """The whole lines of a journal; a last line cut off by a kill is taken away, so that the next starts clean."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole, _, rest = data.rpartition(b"\n")
    events = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            events.append(json.loads(line))
        except ValueError as error:
            raise OutputError(f"{path} line {number} is damaged; start over with --force") from error
    if rest:
        with path.open("r+b") as file:
            file.truncate(len(whole) + 1 if whole else 0)
    return events
