"""Materialization: each key's newest row, from a view's source into the online store.

A view's keys are taken in shares, so that no more than one share's rows are held; each share's source rows are read in
a pass of their own. A journal says which shares are through, so that a run that was killed goes on where it was. That
only saves work: the store keeps the newest row of a key whatever is written twice or late.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa

from hotlap.core import Json
from hotlap.errors import InputError, StoreDown
from hotlap.features import keys as key_forms
from hotlap.features import lineage, made_as, registry, rules, times, wire
from hotlap.features.job import plain
from hotlap.features.journal import Journal, Window, journal_of
from hotlap.features.offline import view_of
from hotlap.features.online_stores import Rows
from hotlap.features.other_offline import other
from hotlap.features.source import collected

if TYPE_CHECKING:
    from hotlap.features.asof import View
    from hotlap.features.store import Store

SHARE_ROWS = 1_000_000
"""Source rows that a share of the keys has, about."""
BATCH_ROWS = 5_000
"""Keys written in one go: short enough that those who read never wait long for a lock."""
_EVENT, _CREATED = "__hotlap_event", "__hotlap_created"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Progress = Callable[[str, int, int], None]
"""Called with a view, how many of its shares are through, and how many there are."""


def run(
    store: Store,
    views: list[str] | None = None,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    progress: Progress | None = None,
    share_rows: int = SHARE_ROWS,
) -> Json:
    """See Store.materialize."""
    end = _in_utc(end) if end else datetime.now(UTC)
    if start is not None and _in_utc(start) > end:
        raise InputError(f"start {start} lies after end {end}; swap them")
    chosen = _chosen(store, views)
    told: dict[str, Any] = {}
    for view in chosen:
        begun = time.monotonic()
        with journal_of(store, view.name) as journal:
            until = registry.materialized_until(store.registry_path, store.feast.project, view.name)
            begun_before = until is not None or made_as.known(journal.path)
            change = made_as.change(journal.path, view) if begun_before else "none"
            anew = change != "none" and start is None
            if until is None or anew:
                since = min(end - view.ttl, until or end) if view.ttl else None
                window = Window(start=_in_utc(start) if start else since, end=max(end, until or end))
            else:
                window = Window(start=_in_utc(start) if start else until, end=end)
            left = None if anew else journal.unfinished()
            rows = skipped = 0
            first = window.start
            if left is not None and start is None and left.end <= window.end:
                rows, skipped = _materialized(store, view, left, journal, share_rows, progress, change)
                first, window = left.start, Window(start=left.end, end=window.end)
            if anew:
                journal.forget()
            clear = anew and change == "other"
            more, _ = _materialized(store, view, window, journal, share_rows, progress, change, clear=clear)
            if anew or change == "none":
                made_as.note(journal.path, view)
        told[view.name] = {
            "rows": rows + more,
            "start": None if first is None else first.isoformat(),
            "end": window.end.isoformat(),
            "resumed_after_shares": skipped,
            "anew": anew,
            "definition": change if anew else "none",
            "seconds": round(time.monotonic() - begun, 3),
        }
    return {"views": told}


def rows_of(view: Any, table: str, frame: pl.DataFrame) -> Rows:
    """Rows to write, from a frame with the view's join keys and features by its names for them, its timestamp field
    and, if it has one, its created column. Of rows with one key the newest counts: by event time, created time and
    place. Rows without a key or an event time are left out.

    Raises InputError where a column is missing, or a feature's values are not of its type.
    """
    batch = view.batch_source
    created = batch.created_timestamp_column
    joins = [one.name for one in view.entity_columns]
    for name in [*joins, batch.timestamp_field, *(one.name for one in view.features)]:
        if name not in frame.columns and not _stands_in(name):
            raise InputError(f"view {view.name}: the rows have no column {name}; they have {', '.join(frame.columns)}")
    stamped, per_microsecond = _stamped(_stood_in(frame.lazy(), joins), batch.timestamp_field, created)
    newest = _newest(stamped, joins).collect()
    same = {one.name: one.name for one in view.features}
    return _rows(view, table, newest, {name: name for name in joins}, same, per_microsecond)


def _stamped(rows: pl.LazyFrame, event: str, created: str | None) -> tuple[pl.LazyFrame, int]:
    """With event and created time as whole numbers, exact; and how many of them make a microsecond."""
    schema = rows.collect_schema()
    made = created if created in schema else None
    unit = times.unit(schema, schema, (event, made), event)
    stamps = (
        times.expression(event, schema, unit).alias(_EVENT),
        (times.expression(made, schema, unit) if made else pl.lit(None, pl.Int64))
        .fill_null(times.NEVER)
        .alias(_CREATED),
    )
    return rows.with_columns(*stamps), 1000 if unit == "ns" else 1


def _rows(
    view: Any,
    table: str,
    frame: pl.DataFrame,
    joins: dict[str, str],
    columns: dict[str, str],
    per_microsecond: int,
) -> Rows:
    parts = []
    for one in view.entity_columns:
        kind = one.dtype.to_value_type()
        parts.append((one.name, key_forms.normal(frame[joins[one.name]].to_list(), kind, one.name), kind))
    encoded = key_forms.encode(parts)
    kept = np.array([key is not None for key in encoded], bool)
    arrow = plain(frame)
    values = []
    for one in view.features:
        array = arrow[columns[one.name]].combine_chunks()
        values.append(wire.encode(array.filter(pa.array(kept)), one.dtype.to_value_type(), one.name))
    created = frame[_CREATED].to_numpy()[kept]
    return Rows(
        view=view,
        table=table,
        keys=[key for key in encoded if key is not None],
        features=[one.name for one in view.features],
        values=values,
        events=frame[_EVENT].to_numpy()[kept] // per_microsecond,
        created=np.where(created == times.NEVER, times.NEVER, created // per_microsecond),
    )


def _newest(rows: pl.LazyFrame, joins: list[str]) -> pl.LazyFrame:
    """Each key's newest row; ties as in the point-in-time join."""
    rows = rows.filter(pl.col(_EVENT).is_not_null()).drop_nulls(joins)
    ordered = rows.sort(_EVENT, _CREATED, maintain_order=True)
    return ordered.unique(joins, keep="last", maintain_order=True)


def _stands_in(name: str) -> bool:
    from feast.feature_view import DUMMY_ENTITY_ID

    return bool(name == DUMMY_ENTITY_ID)


def _stood_in(frame: pl.LazyFrame, joins: list[str]) -> pl.LazyFrame:
    """With the key that Feast gives views that have none."""
    from feast.feature_view import DUMMY_ENTITY_VAL

    return frame.with_columns(pl.lit(DUMMY_ENTITY_VAL).alias(name) for name in joins if _stands_in(name))


def _chosen(store: Store, names: list[str] | None) -> list[Any]:
    feast = store.feast
    views = {one.name: one for one in feast.registry.list_feature_views(feast.project)}
    for name in names or []:
        if name in store.left_out:
            raise InputError(f"view {name} is left out: {store.left_out[name]}")
        if name not in views:
            raise InputError(f"no view {name}; there are {', '.join(sorted(views)) or 'none'}")
        if not views[name].enabled:
            raise InputError(f"view {name} is disabled; `feast feature-views enable {name}` lets it be materialized")
        if not views[name].online:
            raise InputError(f"view {name} has online=False; set it in its definition, and apply")
    chosen = [views[name] for name in names] if names else [one for one in views.values() if one.online and one.enabled]
    if not chosen:
        why = f"; left out is {', '.join(store.left_out)}" if store.left_out else ""
        disabled = [name for name, one in views.items() if not one.enabled]
        why += f"; disabled is {', '.join(disabled)}" if disabled else ""
        raise InputError(
            f"{store.repo}: no views {'with online=True ' if views else ''}are registered{why}; define them, and run "
            "`hotlap features apply`"
        )
    return chosen


def _materialized(
    store: Store,
    view: Any,
    window: Window,
    journal: Journal,
    share_rows: int,
    progress: Progress | None,
    change: made_as.Change,
    *,
    clear: bool = False,
) -> tuple[int, int]:
    """Write the window's rows, and note in the registry that it is through. Gives rows written, shares passed over.

    change: what the definition is to that of the rows that are there. clear: remove those first.
    """
    from feast.infra.online_stores.helpers import compute_table_id

    features = [(one.name, one.name) for one in view.features]
    elsewhere = other(store)
    if elsewhere is None:
        own = view_of(view, features, store.repo)
    else:
        own = elsewhere.newest(view, features, window.start, window.end)
    config = store.feast.config
    table = compute_table_id(config.project, view, config.registry.enable_online_feature_view_versioning)
    theirs = dict(own.keys)  # without the key that stands in where a view has none
    joins = {one.name: theirs.get(one.name, one.name) for one in view.entity_columns}
    taken, per_microsecond = _within(own, window, list(joins.values()))
    count = int(collected(taken.select(pl.len()), f"view {view.name}", own.place).item())
    parts = _Parts(view.name, own.place, taken, list(joins.values()), max(1, -(-count // share_rows)))
    if view.name in rules.of(store.repo):
        for share in range(parts.shares):  # all of them before anything is written
            _held(store, view, parts.newest(share), 0)
    made_as.begin(journal.path, view, change)
    if clear:
        store.reach.store().clear(view, table, made_as.features(journal.path, view))
    life = store.reach.store().life(view, table)
    shares, done = journal.begin(window, parts.shares, _identity(store, view, life))
    parts, written = replace(parts, shares=shares), 0
    for share in range(shares):
        if share not in done:
            written += _one_share(store, view, table, parts.newest(share), joins, own, per_microsecond, written)
            journal.passed(share)
        if progress:
            progress(view.name, share + 1, shares)
    if store.reach.store().life(view, table) != life:
        # The journal stays, and begins anew: its identity is another now.
        raise StoreDown(
            f"view {view.name}: the online store was started or made anew while rows were written, and may have lost "
            "those of before; run `hotlap features materialize` again"
        )
    # What lies after now is not all there yet: the next run begins where this one can have seen everything.
    end = max(min(window.end, datetime.now(UTC)), window.start or _EPOCH)
    registry.note_materialized(store.registry_path, config.project, view.name, window.start or _EPOCH, end)
    journal.end()
    return written, len(done)


@dataclass(frozen=True, slots=True)
class _Parts:
    """Rows in shares of their keys."""

    view: str
    place: str
    rows: pl.LazyFrame
    keys: list[str]
    shares: int

    def newest(self, share: int) -> pl.DataFrame:
        """Each key's newest row."""
        part = self.rows
        if self.shares > 1:
            schema = part.collect_schema()
            texts = [
                pl.col(key).bin.encode("hex") if schema[key] == pl.Binary else pl.col(key).cast(pl.String)
                for key in self.keys
            ]
            part = part.filter(pl.concat_str(texts).hash(0) % self.shares == share)
        return collected(_newest(part, self.keys), f"view {self.view}", self.place)


def _held(store: Store, view: Any, frame: pl.DataFrame, written: int) -> None:
    rules.held_for(store.repo, view, frame.drop(_EVENT, _CREATED), "materialize", written=written)


def _one_share(
    store: Store,
    view: Any,
    table: str,
    frame: pl.DataFrame,
    joins: dict[str, str],
    own: View,
    per_microsecond: int,
    written: int,
) -> int:
    _held(store, view, frame, written)  # again: the source may have changed since all shares were looked at
    columns = {new: old for old, new in own.features}
    for start in range(0, len(frame), BATCH_ROWS):
        batch = frame.slice(start, BATCH_ROWS)
        store.reach.store().write(_rows(view, table, batch, joins, columns, per_microsecond))
    return len(frame)


def _within(view: View, window: Window, joins: list[str]) -> tuple[pl.LazyFrame, int]:
    """The source's rows whose event lies in the window, and those of before that were made in it, which came late;
    and how many of their times' units make a microsecond.
    """
    rows = _stood_in(view.source, joins)
    schema = rows.collect_schema()
    for column in [*joins, view.event, *([view.created] if view.created else []), *(old for old, _ in view.features)]:
        if column not in schema:
            raise InputError(f"view {view.name}: its source has no column {column}; it has {', '.join(schema)}")
    rows, per_microsecond = _stamped(rows, view.event, view.created)
    kept = pl.col(_EVENT) < (times.microseconds(window.end) + 1) * per_microsecond
    if window.start is not None:
        first = times.microseconds(window.start) * per_microsecond
        kept = kept & ((pl.col(_EVENT) >= first) | (pl.col(_CREATED) >= first))
    stamps = [view.event, *([view.created] if view.created else [])]  # for the rules
    columns = [*joins, *(old for old, _ in view.features), *stamps, _EVENT, _CREATED]
    return rows.filter(kept).select(*dict.fromkeys(columns)), per_microsecond


def _identity(store: Store, view: Any, life: str) -> str:
    """A digest of what shares depend on: definition, source files, versions, and the store that they were written to,
    which loses them where its `life` is another. A table that no file holds may change between two runs, so that what
    is left of one is not taken up.
    """
    from feast.infra.offline_stores.file_source import FileSource

    if isinstance(view.batch_source, FileSource):
        place = Path(FileSource.get_uri_for_file_path(store.repo, view.batch_source.path))
        rows = lineage.snapshot(place)["digest"] if place.exists() else str(place)
    else:
        rows = uuid.uuid4().hex
    told = json.dumps([lineage.definition_digest(view), rows, pl.__version__, life])
    return hashlib.sha256(told.encode()).hexdigest()


def _in_utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
