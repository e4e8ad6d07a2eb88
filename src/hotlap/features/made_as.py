"""By which definition a view's online rows were made, kept beside the registry: Feast keeps only until when.

A view whose definition is another since is materialized from the start. Where its rows would mean something else
(another source, other keys, a feature of another type) those of before are removed first: they might be newer than
all of the new source's, or of keys that it lacks.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from hotlap.core import Json
from hotlap.errors import OutputError
from hotlap.features import lineage
from hotlap.search.folder import written_whole

Change = Literal["none", "unknown", "more", "other"]
"""unknown: by plain Feast, or before hotlap kept this. more: the rows there are stay right, and lack something."""


def place(registry: Path, project: str, view: str) -> Path:
    """Where what is known of a view's materialization lies, without a suffix. Raises OutputError where it can't."""
    folder = registry.parent / ".hotlap-materialize"
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder}: can't be written ({error.strerror}); the journal of what is materialized is kept there"
        ) from error
    return folder / hashlib.sha256(f"{project}\0{view}".encode()).hexdigest()[:16]


def note(at: Path, view: Any) -> None:
    """Keep that the rows are of this definition."""
    _keep(at, _told(view))


def begin(at: Path, view: Any, change: Change) -> None:
    """Keep, before rows of this definition are written, that there may be some: a run may be killed.

    Beside rows of another one they are of no definition, until all are written anew.
    """
    if change == "none" and not known(at):
        note(at, view)
    elif change in ("more", "other"):
        mixed = {"definition": "", "features": _features(at) | _told(view)["features"]}
        _keep(at, _told(view) | mixed | ({"rows": ""} if change == "other" else {}))


def known(at: Path) -> bool:
    return at.with_suffix(".json").exists()


def change(at: Path, view: Any) -> Change:
    """What the definition is to that of the rows."""
    if not known(at):
        return "unknown"
    before, now = json.loads(at.with_suffix(".json").read_text()), _told(view)
    if before["definition"] == now["definition"]:
        return "none"
    kinds = now["features"]
    same = before["rows"] == now["rows"] and all(
        kinds.get(name, kind) == kind for name, kind in before["features"].items()
    )
    return "more" if same else "other"


def features(at: Path, view: Any) -> list[str]:
    """The names of the features that rows may have, of before and of now."""
    return list(_features(at) | _told(view)["features"])


def _features(at: Path) -> Json:
    """Those that rows of before may have, with their types."""
    own: Json = json.loads(at.with_suffix(".json").read_text())["features"] if known(at) else {}
    return own


def _keep(at: Path, told: Json) -> None:
    with written_whole(at.with_suffix(".json")) as part:
        part.write_text(json.dumps(told))


def _told(view: Any) -> Json:
    return {
        "definition": lineage.definition_digest(view),
        "rows": lineage.rows_digest(view),
        "features": {one.name: str(one.dtype) for one in view.features},
    }
