"""Training rows: features as of each row's instant, with where they came from and how complete and old they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from hotlap import __version__
from hotlap.core import Array, Json
from hotlap.errors import OutputError
from hotlap.features import entities as frames
from hotlap.features import lineage, rules
from hotlap.features.job import METADATA, plain
from hotlap.features.joined import Join, Joined, joins
from hotlap.features.request import Computed, Request, Stored, requested
from hotlap.features.source import collected
from hotlap.search.folder import written_whole

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from hotlap.features.store import Store

SLICE_ROWS = 2_000_000
"""Entity rows that are joined at a time where they come from a file."""
_NAMED_ROWS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """Training rows and what is known of them.

    `table`: the rows, or None where they were written to `path`. `report` has `rows`, `lineage`, for each view its
    missing and leaking values and the ages of its values in seconds, for each feature its share of nulls, and the
    rows that no view had a value for.
    """

    table: pa.Table | None
    path: Path | None
    report: Json

    def read(self) -> pa.Table:
        """The rows, from memory or from the file."""
        return self.table if self.table is not None else pq.read_table(self.path)

    def dataset(self, inputs: list[str], target: str | None = None) -> Dataset[Any]:
        """A map-style PyTorch dataset over columns of the rows, which share the table's memory; see dataset.Columns."""
        from hotlap.features.dataset import Columns

        return Columns(self.read(), inputs, target)


@dataclass(slots=True)
class _Tally:
    """What is counted while slices go by."""

    rows: int = 0
    nulls: dict[str, int] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    created_after: dict[str, int | None] = field(default_factory=dict)
    ages: dict[str, list[Array]] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    empty: list[int] = field(default_factory=list)
    empty_rows: int = 0


def make(
    store: Store,
    entities: Any,
    features: list[str] | str,
    *,
    at: str | None = None,
    out: Path | str | None = None,
    known_only: bool | None = None,
    full_feature_names: bool = False,
    slice_rows: int = SLICE_ROWS,
) -> Training:
    """See Store.training. `slice_rows`: how many entity rows are joined at a time."""
    path = None if out is None else Path(out)
    if path is not None:
        _check_free(path)
    frame = frames.read(entities)
    column = frames.event_column(frame.collect_schema(), at)
    frame = frames.in_utc(frame, column)
    made_by = joins(store, known_only)
    names = frame.collect_schema().names()
    request = requested(store, features, names, full_feature_names=full_feature_names)
    tally, made_at = _Tally(), datetime.now(UTC)
    views = [made_by.of(one) for one in request.stored]
    begun = [_described(store, one) for one in request.stored]
    begun += [_computed(one) for one in request.computed]
    schema = rules.of(store.repo).get(features) if isinstance(features, str) else None
    given = str(entities) if isinstance(entities, str | Path) else "the frame given"
    slices = _slices(frame, given, column, request, views, slice_rows, tally)
    if schema is not None:
        slices = _held(schema, slices, f"training rows of {features}")

    def report() -> Json:
        return {
            **_report(tally),
            "lineage": {
                "made_at": made_at.isoformat(),
                "entities": str(entities) if isinstance(entities, str | Path) else type(entities).__name__,
                "at": column,
                "known_only": made_by.known_only,
                "offline_store": made_by.name,
                "views": begun,
                "versions": {"hotlap": __version__, **{name: version(name) for name in ("feast", "polars", "pyarrow")}},
            },
        }

    if path is None:
        table = pa.concat_tables(list(slices)).combine_chunks()
        told = report()
        return Training(table=_marked(table, told), path=None, report=told)
    return Training(table=None, path=path, report=_written(slices, path, report))


def _check_free(path: Path) -> None:
    """Raise OutputError where a file is there, or none can be."""
    if "\0" in str(path):
        raise OutputError(f"--out {str(path)!r}: a name with a zero byte can't be a file's; name another")
    try:
        taken, has_folder = path.exists(), path.parent.is_dir()
    except OSError as error:
        raise OutputError(f"--out {path}: can't be written ({error.strerror}); name another place") from error
    if taken:
        raise OutputError(f"--out {path} exists; name another file, or remove it")
    if not has_folder:
        raise OutputError(f"--out {path}: no folder {path.parent}; make it first")


def _held(schema: Any, slices: Iterator[pa.Table], what: str) -> Iterator[pa.Table]:
    """The slices, each held to the rules before it goes on. A rule on the rows together sees a slice at a time."""
    first = 0
    for one in slices:
        rows = pl.from_arrow(one)
        assert isinstance(rows, pl.DataFrame)
        rules.held(schema, rows, what, first_row=first)
        yield one
        first += one.num_rows


def _written(slices: Iterator[pa.Table], path: Path, report: Any) -> Json:
    """Write slice after slice to a file that gets its name when it is whole and on disk; the report goes into its
    footer.
    """
    first = next(slices)
    with written_whole(path, overwrite=False) as part:
        writer = pq.ParquetWriter(part, first.schema)
        try:
            for one in chain([first], slices):
                writer.write_table(one.cast(first.schema))
            told: Json = report()
            writer.add_key_value_metadata({METADATA: json.dumps(told).encode()})
            writer.close()
        finally:
            with suppress(OSError):  # what could not be closed can't be closed afterwards either
                writer.close()
    return told


def _marked(table: pa.Table, report: Json) -> pa.Table:
    return table.replace_schema_metadata({**(table.schema.metadata or {}), METADATA: json.dumps(report).encode()})


def _described(store: Store, one: Stored) -> Json:
    ttl = one.view.ttl or None
    return {
        "view": one.called,
        "definition": lineage.definition_digest(one.view),
        "features": [column for _, column in one.features],
        "ttl_seconds": None if ttl is None else ttl.total_seconds(),
        "snapshot": _snapshot(store, one.view.batch_source),
    }


def _snapshot(store: Store, source: Any) -> Json:
    """What the source's files are now. A table has no such thing: its name is kept."""
    from feast.infra.offline_stores.file_source import FileSource

    if not isinstance(source, FileSource):
        return {"source": source.name, "kind": type(source).__name__}
    location = FileSource.get_uri_for_file_path(store.repo, source.path)
    return lineage.snapshot(Path(location)) if Path(location).exists() else {"path": location}


def _computed(one: Computed) -> Json:
    columns = [column for _, column in one.features]
    return {"view": one.called, "definition": lineage.function_digest(one.view), "features": columns}


def _slices(
    frame: pl.LazyFrame,
    given: str,
    at: str,
    request: Request,
    views: list[Join],
    rows: int,
    tally: _Tally,
) -> Iterator[pa.Table]:
    """The joined rows in the frame's order, a slice at a time; at least one slice, be it empty."""
    start = 0
    while True:
        part = collected(frame.slice(start, rows), "entities", given)
        if start and not len(part):
            return
        looked_up, any_found = [], np.full(len(part), not views)
        for view in views:
            found = view(part, at)
            looked_up.append(found.values)
            any_found |= found.there
            _count(tally, view.stored.called, found)
        features = request.features(looked_up, part)
        for name in features.columns:
            tally.nulls[name] = tally.nulls.get(name, 0) + features[name].null_count()
        empty = np.flatnonzero(~any_found)
        tally.empty_rows += len(empty)
        tally.empty += (start + empty[: _NAMED_ROWS - len(tally.empty)]).tolist()
        tally.rows += len(part)
        yield plain(pl.concat([part, features], how="horizontal"))
        start += rows
        if len(part) < rows:
            return


def _count(tally: _Tally, view: str, found: Joined) -> None:
    tally.missing[view] = tally.missing.get(view, 0) + int((~found.there).sum())
    after = found.created_after
    tally.created_after[view] = None if after is None else (tally.created_after.get(view) or 0) + after
    tally.ages.setdefault(view, []).extend([] if found.ages is None else [found.ages])
    tally.lost[view] = tally.lost.get(view, 0) + found.lost


def _report(tally: _Tally) -> Json:
    def ages(view: str) -> Json:
        known = np.concatenate([np.empty(0, np.float32), *tally.ages[view]])
        if not len(known):
            return None
        median, high, most = np.quantile(known, [0.5, 0.95, 1.0])
        return {"median": float(median), "p95": float(high), "max": float(most)}

    def of(view: str) -> Json:
        found, after = tally.rows - tally.missing[view], tally.created_after[view]
        return {
            "missing": tally.missing[view],
            "created_after": after,
            "leak_share": None if after is None else after / found if found else 0.0,
            "age_seconds": ages(view),
            "lost_rows": tally.lost[view],
        }

    return {
        "rows": tally.rows,
        "views": {view: of(view) for view in tally.missing},
        "null_share": {name: count / tally.rows if tally.rows else 0.0 for name, count in tally.nulls.items()},
        "rows_without_features": tally.empty_rows,
        "first_rows_without_features": tally.empty,
    }
