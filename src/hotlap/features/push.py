"""Pushed rows: new events, to the online store, to the source that training reads, or to both."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from hotlap.core import Json
from hotlap.errors import InputError
from hotlap.features import entities, fitting, rules, write
from hotlap.features import keys as key_forms
from hotlap.features.job import plain
from hotlap.features.materialize import rows_of
from hotlap.features.on_demand import polars_kind
from hotlap.features.other_offline import other
from hotlap.features.source import collected, files, scan

if TYPE_CHECKING:
    from hotlap.features.online_stores import Rows
    from hotlap.features.store import Store

To = Literal["online", "offline", "both"]
_AHEAD = timedelta(days=1)
"""How far an event time may lie ahead: clocks differ, and so do zones."""


def push(store: Store, source: str, rows: Any, *, to: To = "both") -> Json:
    """See Store.push. All is checked before anything is written; offline comes first, since it keeps history."""
    from feast.infra.online_stores.helpers import compute_table_id

    if to not in ("online", "offline", "both"):
        raise InputError(f"push to {to!r}; give online, offline or both")
    frame = collected(entities.read(rows), "push", str(rows) if isinstance(rows, str | Path) else "the rows")
    config = store.feast.config
    online: list[Rows] = []
    offline: dict[Path, pl.DataFrame] = {}
    elsewhere: list[tuple[Any, pl.DataFrame]] = []
    views, others = views_of(store, source), other(store)
    for view in views:
        mine, stamped = _stamped(view, frame)
        rules.held_for(store.repo, view, mine, f"push {source}:")
        if to != "offline":
            table = compute_table_id(config.project, view, config.registry.enable_online_feature_view_versioning)
            online.append(rows_of(view, table, _for_view(view, mine)))
        if to != "online" and others:
            back = {new: old for old, new in view.batch_source.field_mapping.items() if new in mine.columns}
            elsewhere.append((view, mine.rename(back)))
        elif to != "online":
            path = write.local(view.batch_source.path, store.repo)
            offline[path] = _for_source(store, view, mine, path, stamped=stamped)
    for path, part in offline.items():
        write.append(plain(part), path)
    for view, part in elsewhere:
        assert others is not None
        others.write(view, part)
    for one in online:
        store.reach.store().write(one)
    known = {name for view in views for name in _names(view)}
    known |= {name for part in (*offline.values(), *(part for _, part in elsewhere)) for name in part.columns}
    return {
        "source": source,
        "rows": len(frame),
        "views": [view.name for view in views],
        "to": to,
        "left_out": [name for name in frame.columns if name not in known],
    }


def _names(view: Any) -> list[str]:
    """Every name that a column of the view's may go by."""
    batch = view.batch_source
    own = [*(one.name for one in (*view.entity_columns, *view.features)), batch.timestamp_field]
    return [*own, batch.created_timestamp_column, *batch.field_mapping, *batch.field_mapping.values()]


def views_of(store: Store, source: str) -> list[Any]:
    from feast.data_source import PushSource

    every = store.feast.registry.list_feature_views(store.feast.project)
    pushed = [view for view in every if isinstance(view.stream_source, PushSource)]
    found = [view for view in pushed if view.stream_source.name == source]
    if not found:
        there = ", ".join(sorted({view.stream_source.name for view in pushed})) or "none"
        raise InputError(f"push: no view has a push source {source!r}; there are {there}")
    return found


def _stamped(view: Any, frame: pl.DataFrame) -> tuple[pl.DataFrame, bool]:
    """The rows by the view's own names; where the source keeps a created time and they have none, it is now, and True.

    Raises InputError for a row without an event time or a key, which nothing could ever find.
    """
    batch = view.batch_source
    here = set(frame.columns)
    frame = frame.rename({old: new for old, new in batch.field_mapping.items() if old in here and new not in here})
    if batch.timestamp_field not in frame.columns:
        raise InputError(
            f"view {view.name}: the pushed rows have no column {batch.timestamp_field}, the time of the event; they "
            f"have {', '.join(frame.columns)}"
        )
    keys = [one.name for one in view.entity_columns if one.name in frame.columns]
    for name, what in ((batch.timestamp_field, "the time of the event"), *((key, "a key") for key in keys)):
        absent = frame[name].null_count()
        if absent:
            raise InputError(f"view {view.name}: {absent} pushed rows have no {name}, {what}; nothing would find them")
    for one in view.entity_columns:
        if one.name in keys:
            kind = one.dtype.to_value_type()
            try:
                key_forms.encode([(one.name, key_forms.normal(frame[one.name].to_list(), kind, one.name), kind)])
            except InputError as error:
                raise InputError(f"view {view.name}: {error}") from None
    _for_view(view, frame)
    for one in (batch.timestamp_field, batch.created_timestamp_column):
        if one in frame.columns:
            frame = entities.in_utc(frame.lazy(), one).collect()
    ahead = frame[batch.timestamp_field].max()
    if ahead is not None and ahead > datetime.now(UTC) + _AHEAD:
        raise InputError(
            f"view {view.name}: column {batch.timestamp_field} has {ahead}, more than a day ahead of now, where "
            "it would hold back every event of its key until then; give the time at which it was"
        )
    created = batch.created_timestamp_column
    if not created or created in frame.columns:
        return frame, False
    return frame.with_columns(pl.lit(datetime.now(UTC), pl.Datetime("us", "UTC")).alias(created)), True


def _for_view(view: Any, frame: pl.DataFrame) -> pl.DataFrame:
    """The rows with features of the types that the view declares."""
    return frame.with_columns(
        _fitted(view, frame[one.name], polars_kind(one.dtype), "the view")
        for one in view.features
        if one.name in frame.columns
    )


def _for_source(store: Store, view: Any, frame: pl.DataFrame, path: Path, *, stamped: bool) -> pl.DataFrame:
    """The rows with the source's columns, by its names, in its order and types; further columns are left out.

    stamped: the created time is ours, and is cut to the source's unit.
    """
    schema = scan(view.batch_source, store.repo).collect_schema()
    if path.is_dir() and any("=" in part for one in files(path) for part in one.relative_to(path).parts[:-1]):
        raise InputError(
            f"view {view.name}: its source {path} is split into folders by column; push online, and add files"
        )
    back = {new: old for old, new in view.batch_source.field_mapping.items() if new in frame.columns}
    frame = frame.rename(back)
    absent = [name for name in schema if name not in frame.columns]
    if absent:
        raise InputError(f"view {view.name}: the pushed rows have no column {absent[0]}, which its source {path} has")
    created = back.get(view.batch_source.created_timestamp_column, view.batch_source.created_timestamp_column)
    unit = schema.get(created)
    if stamped and isinstance(unit, pl.Datetime):
        frame = frame.with_columns(fitting.instants(frame[created], unit))
    return frame.select(_fitted(view, frame[name], kind, "its source") for name, kind in schema.items())


def _fitted(view: Any, column: pl.Series, kind: pl.DataType, of: str) -> pl.Series:
    """The column in the type that it has in `of`. Raises InputError where a value would become another to fit."""
    try:
        return fitting.fitted(column, kind)
    except fitting.Unfit as error:
        raise InputError(
            f"view {view.name}: column {column.name} has {error} in {of}; push what fits, or change the type there"
        ) from None
