"""Whether serving gives what training saw: online reads replayed against the offline join at the same instants."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from hotlap.core import Array, Json
from hotlap.errors import InputError
from hotlap.features import consistency, read_log, times
from hotlap.features.asof import look_up
from hotlap.features.consistency import Breach, Compared, Limits
from hotlap.features.in_json import in_json
from hotlap.features.joined import Joins, joins, stamps_in_utc
from hotlap.features.read_log import AT, Reads
from hotlap.features.request import Request, requested
from hotlap.features.source import collected

if TYPE_CHECKING:
    from hotlap.features.store import Store

LIVE_READS = 1000
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What a check found. `report` has for each `view:feature` the reads and the rates with their intervals, and a few
    of the reads that differ; `not_compared` says which features a service got or lost since a log was written. `values`
    has what was served, a column for each `view:feature`, for a comparison with training's.
    """

    report: Json
    values: dict[str, pl.Series]

    def breaches(self, limits: Limits | None = None) -> list[Breach]:
        """The figures above their limits, the furthest first."""
        return consistency.breaches(self.report["features"], limits or Limits())


def check(
    store: Store,
    features: list[str] | str | None = None,
    *,
    log: Path | str | None = None,
    keys: Any = None,
    at: datetime | None = None,
    sample: int | None = None,
    known_only: bool | None = None,
    tolerance: float = consistency.TOLERANCE,
    seed: int = 0,
) -> Check:
    """See Store.check."""
    if (log is None) == (features is None):
        raise InputError("check: give either a log of reads, or features to read now")
    if sample is not None and sample < 1:
        raise InputError(f"check: a sample of {sample} reads says nothing; give 1 or more")
    if not 0 <= tolerance < math.inf:
        raise InputError(f"check: a tolerance of {tolerance:g}; give a share of a value's size, 0 or more")
    if log is not None and (keys is not None or at is not None):
        raise InputError("check: a log has its own keys and instants; give keys and at with features to read now")
    by = joins(store, known_only)
    parts: Iterable[Reads]
    if log is not None:
        parts = read_log.reads(log, sample=sample, seed=seed)
    else:
        assert features is not None
        parts = [_live(store, features, keys, at, sample or LIVE_READS, seed)]
    found: dict[str, list[tuple[Compared, list[Json], pl.Series]]] = {}
    not_compared: list[str] = []
    for part in parts:
        request = requested(store, part.features, part.given.columns, full_feature_names=part.full_feature_names)
        both = [name for name, view in request.views.items() if name in part.values and view in part.events]
        not_compared += _only_one_has(request, part, both)
        replayed = _replayed(request.only(both), part, by, tolerance) if both else {}
        for name, told in replayed.items():
            found.setdefault(name, []).append(told)
    if not any(len(one.mismatch) for parts in found.values() for one, _, _ in parts):
        whose = log if log is not None else "the keys given"
        if not_compared and not found:
            raise InputError(
                f"check: the reads in {whose} have no feature to compare, so nothing can be said; give reads made "
                f"since: {'; '.join(not_compared)}"
            )
        raise InputError(f"check: no reads in {whose}, so nothing can be said")
    report = {
        "reads_of": "log" if log is not None else "now",
        "known_only": by.known_only,
        "tolerance": tolerance,
        "confidence": consistency.CONFIDENCE,
        "features": {
            name: {
                **_together([one for one, _, _ in parts]).report(),
                "examples": [shown for _, some, _ in parts for shown in some][:_SHOWN],
            }
            for name, parts in found.items()
        },
        "not_compared": not_compared,
    }
    values = {name: pl.concat([served for _, _, served in parts]) for name, parts in found.items()}
    return Check(report=report, values=values)


def _only_one_has(request: Request, reads: Reads, both: list[str]) -> list[str]:
    """What a feature service got or lost since the reads were made, as sentences."""
    new = [f"{view}:{request.names[name]}" for name, view in request.views.items() if name not in both]
    gone = [name for name in reads.values.columns if name not in both]
    whose = f"{len(reads.at):,} reads of service {reads.features}"
    told = [f"{whose} lack {', '.join(new)}, which it has now"] if new else []
    return [*told, f"{whose} have {', '.join(gone)}, which it has no more"] if gone else told


def _replayed(
    request: Request, reads: Reads, by: Joins, tolerance: float
) -> dict[str, tuple[Compared, list[Json], pl.Series]]:
    """Each feature's online values beside those that the offline join gives for the same keys and instants."""
    rows = reads.given.with_columns(reads.at.alias(AT))
    looked_up = []
    # The event of what is made of the request alone is the read itself.
    events = {one.called: reads.events[one.called] for one in request.computed if not one.view.views}
    for one in request.stored:
        view = by.rows(one.view, one.features, *_span(one.view, reads.at))
        found = look_up(rows, AT, view, known_only=by.known_only, memory_bytes=by.memory_bytes)
        looked_up.append(stamps_in_utc(found.values, one))
        events[one.called] = times.integers(found.event.dt.cast_time_unit("us"), "us")
    offline = request.features(looked_up, reads.given)
    told = {}
    for column, called in request.views.items():
        served, right = reads.values[column], offline[column]
        mine, theirs = _event(request, called, reads.events), _event(request, called, events)
        compared = consistency.compare(served, right, mine, theirs, tolerance=tolerance)
        told[f"{called}:{request.names[column]}"] = (
            compared,
            _examples(compared, rows, served, right, mine, theirs),
            served,
        )
    return told


def _span(view: Any, at: pl.Series) -> tuple[datetime | None, datetime]:
    """The event times that any of the instants may need."""
    instants = at.drop_nulls().dt.convert_time_zone("UTC")
    if not len(instants):
        return (now := datetime.now(UTC)), now
    first, last = instants.min(), instants.max()
    assert isinstance(first, datetime)
    assert isinstance(last, datetime)
    return first - view.ttl if view.ttl else None, last


def _event(request: Request, called: str, events: dict[str, Array]) -> Array:
    """The event time of a view's values; of computed ones, that of the oldest input."""
    if called in events:
        return events[called]
    (view,) = (one.view for one in request.computed if one.called == called)
    oldest: Array = np.minimum.reduce([events[one.name_to_use()] for one in view.views])
    return oldest


def _together(parts: list[Compared]) -> Compared:
    def all_of(name: str) -> Array:
        return np.concatenate([getattr(one, name) for one in parts])

    smape = None if any(one.smape is None for one in parts) else all_of("smape")
    flags = {name: all_of(name) for name in (*consistency.RATES, "newer")}
    return Compared(both=sum(one.both for one in parts), smape=smape, **flags)


def _examples(
    compared: Compared, rows: pl.DataFrame, served: pl.Series, right: pl.Series, mine: Array, theirs: Array
) -> list[Json]:
    """The first reads that differ, each with what was asked and what either side said."""
    wrong = compared.mismatch | compared.missing | compared.extra | compared.stale
    shown = []
    for row in np.flatnonzero(wrong)[:_SHOWN].tolist():
        asked = rows.row(row, named=True)
        shown.append(
            {
                "kinds": [name for name in consistency.RATES if getattr(compared, name)[row]],
                "keys": {name: in_json(value) for name, value in asked.items() if name != AT},
                "at": asked[AT].isoformat(),
                "online": in_json(served.slice(row, 1).to_list()[0]),
                "offline": in_json(right.slice(row, 1).to_list()[0]),
                "online_event": _moment(mine[row]),
                "offline_event": _moment(theirs[row]),
            }
        )
    return shown


def _moment(microseconds: int) -> str | None:
    if microseconds == times.NEVER:
        return None
    return str(pl.Series([microseconds]).cast(pl.Datetime("us", "UTC")).dt.strftime("%Y-%m-%dT%H:%M:%S%.fZ")[0])


def _live(store: Store, features: list[str] | str, keys: Any, at: datetime | None, sample: int, seed: int) -> Reads:
    """Reads made now, of the keys given, or of some that the sources know."""
    asked = keys
    if keys is None:
        request = requested(store, features, [])
        needed = {name for one in request.computed for name in one.view.request}
        if needed:
            raise InputError(f"check: {', '.join(sorted(needed))} come with a request; give keys that have them")
        asked = _drawn(joins(store), request, sample, seed)
    return read_log.of(store.online(asked, features, at=at, full_feature_names=True), features, True)


def _drawn(by: Joins, request: Request, sample: int, seed: int) -> pl.DataFrame:
    """Keys that the views' sources have, drawn at random; the views with most join keys first."""
    columns: dict[str, pl.Series] = {}
    now = datetime.now(UTC)
    views = [by.rows(one.view, one.features, None, now) for one in request.stored]
    for view in sorted(views, key=lambda view: -len(view.keys)):
        wanted = [(mine, theirs) for mine, theirs in view.keys if mine not in columns]
        if not wanted:
            continue
        known = view.source.select(pl.col(theirs).alias(mine) for mine, theirs in wanted).drop_nulls().unique()
        found = collected(known, f"view {view.name}", view.place).sort(pl.all())
        if not len(found):
            raise InputError(f"view {view.name}: its source has no keys to draw from; give keys")
        drawn = found.sample(sample, with_replacement=len(found) < sample, seed=seed, shuffle=True)
        columns.update({name: drawn[name] for name in drawn.columns})
    if not columns:
        return pl.DataFrame({"__row": [0]})
    return pl.DataFrame(list(columns.values()))
