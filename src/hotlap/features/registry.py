"""Feast's registry, read as data: what it holds of code never runs.

Feast keeps user functions in its registry as dill blobs and as source text, and runs either when it loads a view. A
registry is shared, often in a bucket, so whoever can write to it could run code in every process that reads it. Here
its proto is read first, and whatever carries a function is left out before Feast sees it, with a reason that is told
when somebody asks for it. On-demand views come back with the function that the repository's own source has, where its
text is the registered one. The classes that a data source may name are Feast's own.
"""

from __future__ import annotations

import fcntl
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from feast.infra.registry.file import FileRegistryStore
from feast.protos.feast.core.Registry_pb2 import Registry
from google.protobuf.message import DecodeError, Message

from hotlap.errors import InputError, OutputError
from hotlap.search.folder import written_whole

if TYPE_CHECKING:
    from hotlap.features.on_demand import OnDemand

_FUNCTIONS = ("UserDefinedFunction", "UserDefinedFunctionV2", "SubstraitTransformationV2")
_CODE = ("on_demand_feature_views", "stream_feature_views", "validation_references")
"""Sections that hold functions; left out whole, and so is the history of views, which are packed into bytes there."""
_CHECKED = ("feature_views", "label_views", "data_sources", "feature_services", "saved_datasets")
PATIENCE_S = 60.0
"""How long to wait for another process that changes the registry."""
_FUNCTION = "it is computed by a function that the registry holds"


class CheckedRegistryStore(FileRegistryStore):  # type: ignore[misc]
    """A registry file that is only read, and only as data."""

    def get_registry_proto(self) -> Registry:
        proto: Any = harmless(read(self._filepath))
        # Feast keeps what it lists by the proto's id(), which another one may have once this is gone, and its version.
        proto.version_id = uuid4().hex
        return proto  # type: ignore[no-any-return]

    def update_registry_proto(self, registry_proto: Registry) -> None:
        raise InputError("this store was opened to read; change its definitions with `feast apply`")


def read(path: Path) -> Registry:
    """The registry's proto, nothing of it interpreted. Raises InputError where there is none."""
    if not path.exists():
        raise InputError(f"{path}: no registry there; run `hotlap features apply` in the feature repository first")
    proto = Registry()
    try:
        proto.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise InputError(f"{path} is not a Feast registry: {error}") from error
    except OSError as error:
        raise InputError(
            f"{path}: the registry can't be read ({error.strerror}); name a file in feature_store.yaml"
        ) from None
    return proto


@contextmanager
def changing(path: Path) -> Iterator[None]:
    """For one process at a time: reading the registry file, changing what was read and writing it again.

    A lock file beside it, since the registry itself is replaced. Feast's own commands don't know it.
    """
    path = path.resolve()  # a link and what it leads to are one registry
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(f".{path.name}.lock").open("w")
    except OSError as error:
        raise OutputError(f"{path}: can't be changed ({error.strerror}); its folder must be writable") from error
    with lock:
        began = time.monotonic()
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() - began > PATIENCE_S:
                    raise OutputError(
                        f"{path}: another process has been changing it for {PATIENCE_S:g} s; wait for it, or end it"
                    ) from None
                time.sleep(0.02)
        yield


def materialized_until(path: Path, project: str, view: str) -> datetime | None:
    """The latest end of a view's materializations, as Feast and hotlap note them.

    An end that lies ahead, as Feast notes it where it was given one, says nothing of rows that came since: only what
    lies before such a run's start is sure to be through.
    """
    now = datetime.now(UTC)
    ends = []
    for one in _meta(read(path), project, view).materialization_intervals:
        start, end = (moment.ToDatetime(tzinfo=UTC) for moment in (one.start_time, one.end_time))
        ends.append(end if end <= now else min(start, now))
    return max(ends, default=None)


def note_materialized(path: Path, project: str, view: str, start: datetime, end: datetime) -> None:
    """Note that a view was materialized, where Feast notes it. The rest of the registry stays as it is, unread."""
    with changing(path):
        proto: Any = read(path)
        interval = _meta(proto, project, view).materialization_intervals.add()
        interval.start_time.FromDatetime(start)
        interval.end_time.FromDatetime(end)
        proto.version_id = str(uuid.uuid4())
        proto.last_updated.FromDatetime(datetime.now(UTC))
        with written_whole(path.resolve()) as part:  # where it is a link, that stays one
            part.write_bytes(proto.SerializeToString())


def _meta(proto: Any, project: str, view: str) -> Any:
    for one in proto.feature_views:
        if (one.spec.project, one.spec.name) == (project, view):
            return one.meta
    raise InputError(f"view {view} is gone from the registry; apply it again")


def harmless(registry: Registry) -> Any:
    """A copy without anything that runs when it is loaded."""
    clean: Any = Registry()
    clean.CopyFrom(registry)
    clean.ClearField("feature_view_version_history")
    for section in _CODE:
        clean.ClearField(section)
    for section in _CHECKED:
        kept = [one for one in getattr(clean, section) if _reason(one) is None]
        copies = [type(one).FromString(one.SerializeToString()) for one in kept]
        clean.ClearField(section)
        getattr(clean, section).extend(copies)
    return clean


def left_out(registry: Registry, project: str) -> dict[str, str]:
    """The name of each thing of the project that `harmless` leaves out, with the reason."""
    reasons = {}
    for section in (*_CODE, *_CHECKED):
        for one in getattr(registry, section):
            if section == "validation_references":
                continue  # no view: nobody asks for it by name
            spec = getattr(one, "spec", one)
            reason = _FUNCTION if section in _CODE else _reason(one)
            if reason is not None and spec.project == project:
                reasons[spec.name] = reason
    return reasons


def on_demand(registry: Registry, repo: Path, project: str) -> tuple[dict[str, OnDemand], dict[str, str]]:
    """The project's on-demand views whose function the repository's own source has; and those left out, each with the
    reason.

    The source is imported only where the registry has such views.
    """
    from feast.on_demand_feature_view import OnDemandFeatureView

    from hotlap.features import definitions
    from hotlap.features.on_demand import from_registry

    own: Any = [one for one in registry.on_demand_feature_views if one.spec.project == project]
    declared = [one for one in own if not _names_a_class(one)]
    if not declared:
        return {}, {}
    try:
        found = [one for module in definitions.modules(repo) for one in vars(module).values()]
    except InputError as error:
        return {}, {one.spec.name: f"its function is not there: {error}" for one in declared}
    source = {one.name: one for one in found if isinstance(one, OnDemandFeatureView)}
    views = {one.spec.name: from_registry(one, source) for one in declared}
    usable = {name: view for name, view in views.items() if not isinstance(view, str)}
    return usable, {name: reason for name, reason in views.items() if isinstance(reason, str)}


def _reason(one: Message) -> str | None:
    for message in _messages(one):
        kind = message.DESCRIPTOR.name
        if kind in _FUNCTIONS:
            return _FUNCTION
    named = _names_a_class(one)
    return f"its source is read by {named}, a class outside Feast that the registry names" if named else None


def _names_a_class(one: Message) -> str | None:
    """The class outside Feast that a data source of the message would be read by, if there is one."""
    for message in _messages(one):
        named: str = getattr(message, "data_source_class_type", "")
        if message.DESCRIPTOR.name == "DataSource" and named and not named.startswith("feast."):
            return named
    return None


def _messages(message: Any) -> Iterator[Message]:
    """The message and all that it holds."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            values = [one for one in value.values() if isinstance(one, Message)]
        else:
            values = [value] if isinstance(value, Message) else list(value)
        for one in values:
            yield from _messages(one)
