"""`features materialize`: each key's newest row into the online store."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hotlap.core import Json
from hotlap.errors import InputError

if TYPE_CHECKING:
    from hotlap.features.materialize import Progress


def materialize(
    repo: Path | str,
    views: list[str] | None = None,
    *,
    start: str | None = None,
    end: str | None = None,
    progress: Progress | None = None,
) -> Json:
    """See hotlap.features.store.Store.materialize. start, end: ISO 8601."""
    from hotlap import features

    store = features.open(repo)
    return store.materialize(views, start=_moment(start, "--from"), end=_moment(end, "--to"), progress=progress)


def _moment(text: str | None, flag: str) -> datetime | None:
    try:
        return None if text is None else datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"{flag} {text}: not a time; write it as 2026-11-25T08:00:00+00:00") from None
