"""Online reads: the newest values of many keys, how old each is, and whether it may still be used."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import polars as pl
import pyarrow as pa

from hotlap.core import Array
from hotlap.errors import InputError, Refusal, StoreDown
from hotlap.features import keys as key_forms
from hotlap.features import times, wire
from hotlap.features.job import plain
from hotlap.features.online_stores import Answer, Ask
from hotlap.features.request import Request, check_list, requested

if TYPE_CHECKING:
    from feast.value_type import ValueType

    from hotlap.features.store import Store

Down = Literal["raise", "null"]
Expired = Literal["null", "keep"]
STATUS = ("present", "null", "missing", "expired", "unavailable")
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Online:
    """What an online store held at an instant.

    `table`: a row for each key asked, in order: the key columns as they were given, then a column for each feature,
    view by view, those of on-demand views last. A value that is not there, or is older than its view's time to live,
    is null. Types are those of the features' definitions (timestamps: microseconds, UTC).
    `events`: for each view int64[rows], the event time of the row's values in microseconds since 1970, UTC; where the
    view has no row for the key, `times.NEVER` (the least int64). An on-demand view's is that of its oldest input.
    `views`: the view of each feature's column.
    `ttl`: each view's time to live; None: its values don't expire. `at`: the instant that age and expiry were judged
    at. `unavailable`: why a view was not read, by view; filled only where the caller asked for nulls when the store
    is down.
    """

    table: pa.Table
    at: datetime
    events: dict[str, Array]
    views: dict[str, str]
    ttl: dict[str, timedelta | None]
    unavailable: dict[str, str]

    def age(self, feature: str) -> Array:
        """float64[rows]: seconds from the event time of a feature's values to `at`; NaN where there is no row.

        Negative where the event lies after `at`. Values that expired have an age too. `feature` is a column's name.
        """
        events = self.events[self.views[feature]]
        seconds: Array = (times.microseconds(self.at) - events) / 1e6
        seconds[events == times.NEVER] = np.nan
        return seconds

    def status(self, feature: str) -> list[str]:
        """For each row one of STATUS. `feature` is a column's name.

        present: there is a value. null: the row is there, and holds no value of this feature. missing: there is no row
        for the key, or the key is null. expired: older than the view's time to live; an age of just that counts.
        unavailable: the store was down.
        """
        view = self.views[feature]
        events = self.events[view]
        if view in self.unavailable:
            return ["unavailable"] * len(events)
        codes = np.asarray(self.table[feature].is_null()).astype(np.int8)
        codes[_expired(events, self.ttl[view], times.microseconds(self.at))] = STATUS.index("expired")
        codes[events == times.NEVER] = STATUS.index("missing")
        return [STATUS[code] for code in codes]


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """A view to read. `keys`: column of the caller, Feast's name, type. `features`: Feast's name, column, type.

    `names`: the features' names, each once: one may be wanted by itself and for an on-demand view.
    """

    name: str
    table: str
    view: Any
    ttl: timedelta | None
    keys: tuple[tuple[str, str, ValueType], ...]
    features: tuple[tuple[str, str, ValueType], ...]
    names: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a list of features means. `keys`: the type of each key column; `ttl`: each view's."""

    views: tuple[_View, ...]
    request: Request
    keys: dict[str, ValueType]
    ttl: dict[str, timedelta | None]


def read(
    store: Store,
    keys: Any,
    features: list[str] | str,
    *,
    at: datetime | None = None,
    full_feature_names: bool = False,
    down: Down = "raise",
    expired: Expired = "null",
) -> Online:
    """See Store.online."""
    for name, value, allowed in (("down", down, get_args(Down)), ("expired", expired, get_args(Expired))):
        if value not in allowed:
            raise InputError(f"{name} is {value!r}; give {' or '.join(allowed)}")
    if at is not None and not isinstance(at, datetime):
        raise InputError(f"at is {at!r}; give a datetime")
    given = key_forms.columns(keys)
    listed = features if isinstance(features, str) else tuple(check_list(features))
    asked = listed, full_feature_names, tuple(given)
    plan = store.plans.get(asked)
    if plan is None:
        plan = store.plans[asked] = _plan(store, features, full_feature_names, list(given))
    instant = datetime.now(UTC) if at is None else at.replace(tzinfo=UTC) if at.tzinfo is None else at
    rows = len(next(iter(given.values()))) if given else 1
    parts = _normal(plan, given, rows)
    encoded: dict[Any, tuple[list[bytes], Array | None]] = {}
    asks, places = [], []
    for view in plan.views:
        if view.keys not in encoded:
            encoded[view.keys] = _distinct(
                key_forms.encode([(name, parts[column], kind) for column, name, kind in view.keys])
            )
        distinct, place = encoded[view.keys]
        asks.append(Ask(view=view.view, table=view.table, keys=distinct, features=view.names))
        places.append(place)
    unavailable: dict[str, str] = {}
    try:
        answers = store.reach.store().read(asks)
    except StoreDown as error:
        if down == "raise":
            raise
        unavailable = dict.fromkeys((view.name for view in plan.views), str(error))
        answers = [_nothing(ask) for ask in asks]
    events: dict[str, Array] = {}
    raw: list[_Raw] = []
    for view, answer, place in zip(plan.views, answers, places, strict=True):
        events[view.name] = _events(answer, place)
        raw += _raw(view, answer, place, view.ttl if expired == "null" else None, times.microseconds(instant))
    made = _decoded(raw)
    key_columns = [_key_column(name, parts.get(name, column), plan.keys.get(name)) for name, column in given.items()]
    made = _computed(plan.request, made, dict(zip(given, key_columns, strict=True)))
    columns = plan.request.columns
    for one in plan.request.computed:
        inputs = [events[view.name_to_use()] for view in one.view.views]
        events[one.called] = np.minimum.reduce(inputs) if inputs else np.full(rows, times.microseconds(instant))
        if unavailable and inputs:
            unavailable[one.called] = next(iter(unavailable.values()))
    return Online(
        table=pa.Table.from_arrays([*key_columns, *(made[name] for name in columns)], [*given, *columns]),
        at=instant,
        events=events,
        views=plan.request.views,
        ttl=plan.ttl,
        unavailable=unavailable,
    )


def _plan(store: Store, features: list[str] | str, full_feature_names: bool, given: list[str]) -> Plan:
    from feast.infra.online_stores.helpers import compute_table_id

    config = store.feast.config
    if config.entity_key_serialization_version < 3:
        raise InputError(
            f"{store.repo}/feature_store.yaml: entity_key_serialization_version is "
            f"{config.entity_key_serialization_version}; set it to 3, and materialize again"
        )
    request = requested(store, features, given, full_feature_names=full_feature_names)
    views = []
    for stored in request.stored:
        view, renamed = stored.view, stored.view.projection.join_key_map
        kinds = {one.name: one.dtype.to_value_type() for one in view.features}
        views.append(
            _View(
                name=stored.called,
                table=compute_table_id(config.project, view, config.registry.enable_online_feature_view_versioning),
                view=view,
                ttl=view.ttl or None,
                keys=tuple(
                    (renamed.get(one.name, one.name), one.name, one.dtype.to_value_type())
                    for one in view.entity_columns
                ),
                features=tuple((name, column, kinds[name]) for name, column in stored.features),
                names=list(dict.fromkeys(name for name, _ in stored.features)),
            )
        )
    return Plan(
        views=tuple(views),
        request=request,
        keys={column: kind for view in views for column, _, kind in view.keys},
        ttl={**{view.name: view.ttl for view in views}, **{one.called: None for one in request.computed}},
    )


def _computed(request: Request, made: dict[str, pa.Array], keys: dict[str, pa.Array]) -> dict[str, pa.Array]:
    """The columns asked for, those of on-demand views among them."""
    if not request.computed:
        return made
    looked_up, rows = pl.from_arrow(pa.table(made)), pl.from_arrow(pa.table(keys))
    assert isinstance(looked_up, pl.DataFrame)
    assert isinstance(rows, pl.DataFrame)
    table = plain(request.features([looked_up], rows))
    return {name: table[name].combine_chunks() for name in table.column_names}


def _normal(plan: Plan, given: dict[str, list[Any]], rows: int) -> dict[str, list[Any]]:
    """The key columns that the views are joined on, as Feast writes keys."""
    from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL

    parts: dict[str, list[Any]] = {}
    for view in plan.views:
        for column, _, kind in view.keys:
            if column == DUMMY_ENTITY_ID:
                parts[column] = [DUMMY_ENTITY_VAL] * rows
            elif column not in given:
                raise InputError(f"view {view.name} is joined on {column}, which the keys lack; add that column")
            elif column not in parts:
                parts[column] = key_forms.normal(given[column], kind, column)
    return parts


def _distinct(encoded: list[bytes | None]) -> tuple[list[bytes], Array | None]:
    """The keys, each once; and each row's place among them, -1 for none, or None where they are the rows themselves."""
    place = {key: number for number, key in enumerate(dict.fromkeys(encoded)) if key is not None}
    if len(place) == len(encoded):
        return list(place), None
    place = {key: number for number, key in enumerate(place)}
    return list(place), np.array([-1 if key is None else place[key] for key in encoded], np.int64)


def _nothing(ask: Ask) -> Answer:
    return Answer(values=[[None] * len(ask.keys) for _ in ask.features], events=np.full(len(ask.keys), times.NEVER))


_Raw = tuple[str, "ValueType", list[bytes | None], pa.Array | None]
"""A column as the store holds it: name, type, values, and what makes rows of its distinct keys."""


def _events(answer: Answer, place: Array | None) -> Array:
    """The event time of each row."""
    if place is None:
        return answer.events
    events: Array = np.full(len(place), times.NEVER)
    events[place >= 0] = answer.events[place[place >= 0]]
    return events


def _raw(view: _View, answer: Answer, place: Array | None, ttl: timedelta | None, at: int) -> list[_Raw]:
    """The view's columns, without what is older than `ttl`."""
    gather = None if place is None else pa.array(place, mask=place < 0)
    columns = answer.values
    if ttl is not None and (answer.events < at - ttl // _MICROSECOND).any():  # or there is no row
        gone = _expired(answer.events, ttl, at)
        columns = [[None if old else one for one, old in zip(each, gone, strict=True)] for each in columns]
    by_name = dict(zip(view.names, columns, strict=True))
    return [(column, kind, by_name[name], gather) for name, column, kind in view.features]


def _decoded(raw: list[_Raw]) -> dict[str, pa.Array]:
    """The columns by name. Those of one type are decoded together, since each call costs more than some values."""
    made: dict[str, pa.Array] = {}
    by_kind: dict[ValueType, list[_Raw]] = {}
    for one in raw:
        by_kind.setdefault(one[1], []).append(one)
    for kind, members in by_kind.items():
        try:
            if wire.arrow_type(kind) is None:  # the type of such a column is its values'
                arrays = [wire.decode(values, kind, column) for column, _, values, _ in members]
            else:
                arrays = _together(members, kind)
        except Refusal:
            for column, _, values, _ in members:
                wire.decode(values, kind, column)  # raises again, with the name of the column it is in
            raise
        for (column, _, _, gather), array in zip(members, arrays, strict=True):
            made[column] = array if gather is None else array.take(gather)
    return made


def _together(members: list[_Raw], kind: ValueType) -> list[pa.Array]:
    whole = wire.decode([each for _, _, values, _ in members for each in values], kind, "")
    arrays, start = [], 0
    for _, _, values, _ in members:
        arrays.append(whole.slice(start, len(values)))
        start += len(values)
    return arrays


def _expired(events: Array, ttl: timedelta | None, at: int) -> Array:
    """bool[rows]: older than the time to live. An age of just that is not."""
    if ttl is None:
        return np.zeros(len(events), bool)
    old: Array = (events < at - ttl // _MICROSECOND) & (events != times.NEVER)
    return old


def _key_column(name: str, column: list[Any], kind: ValueType | None) -> pa.Array:
    try:
        return pa.array(column, key_forms.ARROW.get(kind) if kind else None)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(f"keys: column {name} mixes values of different types: {error}") from None
    except (OverflowError, UnicodeEncodeError) as error:
        raise InputError(f"keys: column {name} holds what no table can: {error}") from None
