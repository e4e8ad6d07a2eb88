"""Pushed rows: new events, to the online store, to the source that training reads, or to both."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from hotlap.core import Json
from hotlap.errors import InputError
from hotlap.features import entities, rules, write
from hotlap.features.job import plain
from hotlap.features.materialize import rows_of
from hotlap.features.on_demand import polars_kind
from hotlap.features.other_offline import other
from hotlap.features.source import files, scan

if TYPE_CHECKING:
    from pathlib import Path

    from hotlap.features.online_stores import Rows
    from hotlap.features.store import Store

To = Literal["online", "offline", "both"]
_CALLED = {"Boolean": "true or false", "Int32": "whole numbers (Int32)", "Int64": "whole numbers (Int64)"}


def push(store: Store, source: str, rows: Any, *, to: To = "both") -> Json:
    """See Store.push. All is checked before anything is written; offline comes first, since it keeps history."""
    from feast.infra.online_stores.helpers import compute_table_id

    if to not in ("online", "offline", "both"):
        raise InputError(f"push to {to!r}; give online, offline or both")
    frame = entities.read(rows).collect()
    config = store.feast.config
    online: list[Rows] = []
    offline: dict[Path, pl.DataFrame] = {}
    elsewhere: list[tuple[Any, pl.DataFrame]] = []
    views, others = views_of(store, source), other(store)
    for view in views:
        mine = _stamped(view, frame)
        rules.held_for(store.repo, view, mine, f"push {source}:")
        if to != "offline":
            table = compute_table_id(config.project, view, config.registry.enable_online_feature_view_versioning)
            online.append(rows_of(view, table, mine))
        if to != "online" and others:
            back = {new: old for old, new in view.batch_source.field_mapping.items() if new in mine.columns}
            elsewhere.append((view, mine.rename(back)))
        elif to != "online":
            path = write.local(view.batch_source.path, store.repo)
            offline[path] = _for_source(store, view, mine, path)
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


def _stamped(view: Any, frame: pl.DataFrame) -> pl.DataFrame:
    """The rows by the view's own names; where the source keeps a created time and they have none, it is now.

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
    for field in view.features:
        if field.name in frame.columns:
            _check_fits(view, frame[field.name], polars_kind(field.dtype), "the view")
    for one in (batch.timestamp_field, batch.created_timestamp_column):
        if one in frame.columns:
            frame = entities.in_utc(frame.lazy(), one).collect()
    created = batch.created_timestamp_column
    if created and created not in frame.columns:
        frame = frame.with_columns(pl.lit(datetime.now(UTC), pl.Datetime("us", "UTC")).alias(created))
    return frame


def _for_source(store: Store, view: Any, frame: pl.DataFrame, path: Path) -> pl.DataFrame:
    """The rows with the source's columns, by its names, in its order and types; further columns are left out."""
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
    for name, kind in schema.items():
        _check_fits(view, frame[name], kind, "its source")
    try:
        return frame.select(_like(frame.schema[name], kind, name) for name, kind in schema.items())
    except pl.exceptions.PolarsError as error:
        first = str(error).splitlines()[0]
        raise InputError(f"view {view.name}: the pushed rows are not of its source's types: {first}") from None


def _check_fits(view: Any, column: pl.Series, kind: pl.DataType, of: str) -> None:
    """Raises InputError where a number would become another to fit a type: a fraction or NaN a whole one, a large one
    infinity, 2 true.
    """
    if not column.dtype.is_numeric():
        return
    values = column.drop_nulls()
    if kind.is_integer() and column.dtype.is_float():
        wrong = values.filter(values != values.floor())
    elif kind == pl.Boolean:
        wrong = values.filter(~values.is_in([0, 1]))
    elif kind == pl.Float32:
        wrong = values.filter(values.cast(pl.Float32).is_infinite() & values.cast(pl.Float64).is_finite())
    else:
        return
    if len(wrong):
        raise InputError(
            f"view {view.name}: column {column.name} has {wrong[0]:g}, and {of} holds {_CALLED.get(str(kind), kind)}; "
            "push what fits, or change the type there"
        )


def _like(mine: pl.DataType, theirs: pl.DataType, name: str) -> pl.Expr:
    own = pl.col(name)
    if isinstance(mine, pl.Datetime) and isinstance(theirs, pl.Datetime):
        own = own.dt.convert_time_zone("UTC") if mine.time_zone else own.dt.replace_time_zone("UTC")
        zone = own.dt.convert_time_zone(theirs.time_zone) if theirs.time_zone else own.dt.replace_time_zone(None)
        return zone.dt.cast_time_unit(theirs.time_unit)
    return own.cast(theirs)
