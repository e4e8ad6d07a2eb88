"""Where training rows came from: the views' definitions by digest, and the files that were read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hotlap.core import Json

if TYPE_CHECKING:
    from hotlap.features.on_demand import OnDemand


def definition_digest(view: Any) -> str:
    """SHA-256 of a view's definition: its keys, features, types, time to live and source.

    What is no definition (when it was made, materialized, who owns it, descriptions, tags, what its entities are
    called) does not count.
    """
    return hashlib.sha256(_plain(view).SerializeToString(deterministic=True)).hexdigest()


def rows_digest(view: Any) -> str:
    """SHA-256 of what a view's rows are made of: its source, with its columns for times, and its keys."""
    spec = _plain(view)
    told = [one.SerializeToString(deterministic=True).hex() for one in (spec.batch_source, *spec.entity_columns)]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _plain(view: Any) -> Any:
    spec = view.to_proto().spec
    plain = type(spec).FromString(spec.SerializeToString())
    for field in ("tags", "owner", "description", "entities"):
        plain.ClearField(field)
    for column in (*plain.features, *plain.entity_columns):
        column.ClearField("description")
        for tag in [tag for tag in column.tags if not tag.startswith("feast:")]:
            del column.tags[tag]
    _clear(plain)
    return plain


def _clear(holder: Any) -> None:
    """Take from a view's sources, and those that a push source has, what is no definition."""
    for name in ("batch_source", "stream_source"):
        if name in holder.DESCRIPTOR.fields_by_name and holder.HasField(name):
            source = getattr(holder, name)
            for field in ("tags", "owner", "description", "meta"):
                source.ClearField(field)
            _clear(source)


def function_digest(view: OnDemand) -> str:
    """SHA-256 of an on-demand view's definition: its function's source, its mode, its inputs and the keys that they are
    looked up by, its results.
    """
    looked_up = [(one.name, one.name_to_use(), sorted(one.join_key_map.items())) for one in view.views]
    kinds = [{name: str(kind) for name, kind in each.items()} for each in (view.inputs, view.request, view.features)]
    told = json.dumps([view.name, view.mode, view.singleton, looked_up, *kinds, view.text])
    return hashlib.sha256(told.encode()).hexdigest()


def snapshot(path: Path) -> Json:
    """What lies at a source's path now: files, bytes, and a digest over each file's name, size and time of change."""
    from hotlap.features.source import files

    found = files(path) if path.is_dir() else [path]
    digest, size = hashlib.sha256(), 0
    for one in found:
        about = one.stat()
        size += about.st_size
        digest.update(f"{one.relative_to(path.parent)}\0{about.st_size}\0{about.st_mtime_ns}\n".encode())
    return {"path": str(path), "files": len(found), "bytes": size, "digest": digest.hexdigest()}
