"""Online reads: the newest values of many keys, how old each is, and whether it may still be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import polars as pl
import pyarrow as pa

from hotlap.core import Array
from hotlap.errors import InputError, StoreDown
from hotlap.features import keys as key_forms
from hotlap.features import times
from hotlap.features.columns import Columns, Held
from hotlap.features.job import plain
from hotlap.features.online_stores import Answer, Ask
from hotlap.features.request import Request, check_list, requested

if TYPE_CHECKING:
    from feast.value_type import ValueType

    from hotlap.features.store import Store

Down = Literal["raise", "null"]
Expired = Literal["null", "keep"]
STATUS = ("present", "null", "missing", "expired", "unavailable")
_DOWN, _EXPIRED = get_args(Down), get_args(Expired)
_MICROSECOND = timedelta(microseconds=1)
_LookedUp = tuple[list[bytes], "Array | None"]


@dataclass(frozen=True, kw_only=True)
class Online:
    """What an online store held at an instant.

    `table` and `to_dict()`: a row for each key asked, in order: the key columns as they were given, then a column for
    each feature, view by view, those of on-demand views last. A value that is not there, or is older than its view's
    time to live, is null. Types are those of the features' definitions (timestamps: microseconds, UTC).
    `events`: for each view int64[rows], the event time of the row's values in microseconds since 1970, UTC; where the
    view has no row for the key, `times.NEVER` (the least int64). An on-demand view's is that of its oldest input.
    `views`: the view of each feature's column.
    `ttl`: each view's time to live; None: its values don't expire. `at`: the instant that age and expiry were judged
    at. `unavailable`: why a view was not read, by view; filled only where the caller asked for nulls when the store
    is down.
    """

    held: pa.Table | Held
    at: datetime
    views: dict[str, str]
    ttl: dict[str, timedelta | None]
    unavailable: dict[str, str]
    found: tuple[tuple[str, Sequence[int], Array | None], ...]
    """Each stored view's name, the event times of its keys, and each row's place among these."""
    computed: dict[str, tuple[str, ...]]
    """Each on-demand view's inputs."""

    @cached_property
    def events(self) -> dict[str, Array]:
        """See the class. Put together once they are asked for: that takes a tenth of the time of a short read."""
        made = {view: _events(np.array(events, np.int64), place) for view, events, place in self.found}
        for view, inputs in self.computed.items():
            own = [made[one] for one in inputs]
            now = times.microseconds(self.at)
            made[view] = np.minimum.reduce(own) if own else np.full(self.table.num_rows, now)
        return made

    @property
    def table(self) -> pa.Table:
        """The columns as Arrow has them."""
        return self.held.table if isinstance(self.held, Held) else self.held

    def to_dict(self) -> dict[str, list[Any]]:
        """Each column's Python values; for few keys faster than by way of the table."""
        made: dict[str, list[Any]] = self.held.to_dict() if isinstance(self.held, Held) else self.held.to_pydict()
        return made

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
    """A view that is read. `ttl`: microseconds. `columns`: which of the features asked each of its columns has: one may
    be wanted by itself and for an on-demand view, and is asked once.
    """

    name: str
    ttl: int | None
    columns: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a list of features means.

    `asks`: what is read of each of `views`. `keys`: what views are looked up by, each once: column of the caller,
    Feast's name, type. `kinds`: the type of each key column. `columns`: the stored features' columns, view by view.
    `ttl`: each view's.
    """

    views: tuple[_View, ...]
    asks: tuple[Ask, ...]
    request: Request
    keys: tuple[tuple[tuple[str, str, ValueType], ...], ...]
    kinds: dict[str, ValueType]
    columns: Columns
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
    for name, value, allowed in (("down", down, _DOWN), ("expired", expired, _EXPIRED)):
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
    looked_up = [
        _distinct(key_forms.encode([(name, parts[one], kind) for one, name, kind in own])) for own in plan.keys
    ]
    wanted = [keys for keys, _ in looked_up]
    unavailable: dict[str, str] = {}
    try:
        answers = store.reach.store().read(plan.asks, wanted)
    except StoreDown as error:
        if down == "raise":
            raise
        unavailable = dict.fromkeys((view.name for view in plan.views), str(error))
        answers = [_nothing(ask, len(wanted[ask.keys])) for ask in plan.asks]
    raw: list[Sequence[bytes | None]] = []
    now = times.microseconds(instant)
    for view, answer in zip(plan.views, answers, strict=True):
        values = answer.values if view.ttl is None or expired == "keep" else _living(answer, now - view.ttl)
        raw += [values[place] for place in view.columns]
    held = _held(plan, {name: parts.get(name, column) for name, column in given.items()}, raw, looked_up)
    computed = {one.called: tuple(view.name_to_use() for view in one.view.views) for one in plan.request.computed}
    if unavailable:
        why = next(iter(unavailable.values()))
        unavailable |= {called: why for called, inputs in computed.items() if inputs}
    found = zip(plan.views, plan.asks, answers, strict=True)
    return Online(
        held=held,
        at=instant,
        views=plan.request.views,
        ttl=plan.ttl,
        unavailable=unavailable,
        found=tuple((view.name, answer.events, looked_up[ask.keys][1]) for view, ask, answer in found),
        computed=computed,
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
    views: list[_View] = []
    asks: list[Ask] = []
    keys: list[tuple[tuple[str, str, ValueType], ...]] = []
    columns: list[tuple[str, ValueType]] = []
    for stored in request.stored:
        view, renamed = stored.view, stored.view.projection.join_key_map
        own = tuple(
            (renamed.get(one.name, one.name), one.name, one.dtype.to_value_type()) for one in view.entity_columns
        )
        if own not in keys:
            keys.append(own)
        own_kinds = {one.name: one.dtype.to_value_type() for one in view.features}
        names = list(dict.fromkeys(name for name, _ in stored.features))
        columns += [(column, own_kinds[name]) for name, column in stored.features]
        table = compute_table_id(config.project, view, config.registry.enable_online_feature_view_versioning)
        asks.append(Ask(view=view, table=table, features=tuple(names), keys=keys.index(own)))
        views.append(
            _View(
                name=stored.called,
                ttl=view.ttl // _MICROSECOND if view.ttl else None,
                columns=tuple(names.index(name) for name, _ in stored.features),
            )
        )
    kinds = {column: kind for own in keys for column, _, kind in own}
    known = not request.computed and all(kinds.get(name) in key_forms.ARROW for name in given)
    return Plan(
        views=tuple(views),
        asks=tuple(asks),
        request=request,
        keys=tuple(keys),
        kinds=kinds,
        columns=Columns(columns, [(name, key_forms.ARROW[kinds[name]]) for name in given] if known else None),
        ttl={
            **{one.called: one.view.ttl or None for one in request.stored},
            **{one.called: None for one in request.computed},
        },
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
    for number, own in enumerate(plan.keys):
        for column, _, kind in own:
            if column == DUMMY_ENTITY_ID:
                parts[column] = [DUMMY_ENTITY_VAL] * rows
            elif column not in given:
                name = next(view.name for view, ask in zip(plan.views, plan.asks, strict=True) if ask.keys == number)
                raise InputError(f"view {name} is joined on {column}, which the keys lack; add that column")
            elif column not in parts:
                parts[column] = key_forms.normal(given[column], kind, column)
    return parts


def _distinct(encoded: list[bytes | None]) -> _LookedUp:
    """The keys, each once; and each row's place among them, -1 for none, or None where they are the rows themselves."""
    place = {key: number for number, key in enumerate(dict.fromkeys(encoded)) if key is not None}
    if len(place) == len(encoded):
        return list(place), None
    place = {key: number for number, key in enumerate(place)}
    return list(place), np.array([-1 if key is None else place[key] for key in encoded], np.int64)


def _nothing(ask: Ask, keys: int) -> Answer:
    return Answer([[None] * keys for _ in ask.features], [times.NEVER] * keys)


def _events(of_keys: Array, place: Array | None) -> Array:
    """The event time of each row."""
    if place is None:
        return of_keys
    events: Array = np.full(len(place), times.NEVER)
    events[place >= 0] = of_keys[place[place >= 0]]
    return events


def _living(answer: Answer, oldest: int) -> Sequence[Sequence[bytes | None]]:
    """The columns, without the values of rows that are older than `oldest`, microseconds since 1970, UTC."""
    if min(answer.events, default=oldest) >= oldest:
        return answer.values
    gone = [event < oldest for event in answer.events]  # or there is no row
    return [[None if old else one for one, old in zip(each, gone, strict=True)] for each in answer.values]


def _held(
    plan: Plan, given: dict[str, list[Any]], raw: list[Sequence[bytes | None]], looked_up: list[_LookedUp]
) -> pa.Table | Held:
    """The columns given, and those of the features: `raw` has their values for each key of `looked_up`."""
    plain = all(place is None for _, place in looked_up)
    few = plan.columns.few(list(given.values()), raw) if plain else None
    if few is not None:
        return few
    keys = {name: _key_column(name, column, plan.kinds.get(name)) for name, column in given.items()}
    made = dict(zip(plan.columns.names, plan.columns.decode(raw), strict=True))
    made = _computed(plan.request, made if plain else _rows(plan, made, looked_up), keys)
    columns = plan.request.columns
    return pa.Table.from_arrays([*keys.values(), *(made[name] for name in columns)], [*keys, *columns])


def _rows(plan: Plan, made: dict[str, pa.Array], looked_up: list[_LookedUp]) -> dict[str, pa.Array]:
    """The columns with a value for each row, made of those that have one for each key."""
    takes = [None if place is None else pa.array(place, mask=place < 0) for _, place in looked_up]
    owners = [takes[ask.keys] for view, ask in zip(plan.views, plan.asks, strict=True) for _ in view.columns]
    return {
        name: array if take is None else array.take(take)
        for (name, array), take in zip(made.items(), owners, strict=True)
    }


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
