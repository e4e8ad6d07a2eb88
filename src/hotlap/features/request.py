"""What was asked for, by names: which views to look up, which functions to call, and the columns that come of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import polars as pl

from hotlap.errors import InputError
from hotlap.features.on_demand import OnDemand

if TYPE_CHECKING:
    from feast import FeatureView

    from hotlap.features.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A stored view: Feast's own with its projection, and the features wanted of it, each with its column.

    `called` is its name or its alias.
    """

    called: str
    view: FeatureView
    features: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Computed:
    """An on-demand view and the results wanted of it, each with its column. `called` is its name or its alias."""

    called: str
    view: OnDemand
    features: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """`stored` are to be looked up, and `computed` called with what was found.

    What `computed` alone need is looked up too, in columns that `columns` leaves out: those are the features asked
    for, the stored ones view by view, then the computed ones. `views` has each column's view, by its name or alias,
    and `names` its feature's own name.
    """

    stored: tuple[Stored, ...]
    computed: tuple[Computed, ...]
    columns: tuple[str, ...]
    views: dict[str, str]
    names: dict[str, str]

    def features(self, looked_up: list[pl.DataFrame], rows: pl.DataFrame) -> pl.DataFrame:
        """`columns`, from what was looked up in each view, and from `rows` with the keys and the request's columns.

        Raises InputError where a function fails, or `rows` lack a column that it needs.
        """
        made = list(looked_up)
        if self.computed:
            found = [name for one in looked_up for name in one.columns]
            given = pl.concat([*looked_up, rows.drop(found, strict=False)], how="horizontal")
            for one in self.computed:
                made.append(one.view.compute(given).select(pl.col(name).alias(new) for name, new in one.features))
        return pl.concat(made, how="horizontal").select(self.columns)

    def only(self, columns: list[str]) -> Request:
        """The same for some of `columns`, with nothing looked up that they don't need."""
        computed = tuple(replace(one, features=_of(one, columns)) for one in self.computed if _of(one, columns))
        needed = [*columns, *(name for one in computed for name in one.view.inputs)]
        return Request(
            stored=tuple(replace(one, features=_of(one, needed)) for one in self.stored if _of(one, needed)),
            computed=computed,
            columns=tuple(columns),
            views={column: self.views[column] for column in columns},
            names={column: self.names[column] for column in columns},
        )


def _of(one: Stored | Computed, columns: list[str]) -> tuple[tuple[str, str], ...]:
    """Its features that have one of the columns."""
    return tuple(pair for pair in one.features if pair[1] in columns)


def requested(
    store: Store, features: list[str] | str, taken: list[str], *, full_feature_names: bool = False
) -> Request:
    """The plan for `view:feature` each, or for the name of a feature service.

    taken: the columns that there are already. Raises InputError for a view or feature that is not there or is left
    out, and where two columns would have one name.
    """
    stored: dict[str, Stored] = {}
    computed: list[Computed] = []
    for called, view, names in _of_service(store, features) if isinstance(features, str) else _of_list(store, features):
        pairs = tuple((name, f"{called}__{name}" if full_feature_names else name) for name in names)
        if isinstance(view, OnDemand):
            computed.append(Computed(called=called, view=view, features=pairs))
        else:
            stored[called] = Stored(called=called, view=view, features=pairs)
    wanted: list[Stored | Computed] = [*stored.values(), *computed]
    views: dict[str, str] = {}
    own: dict[str, str] = {}
    for one in wanted:
        for name, column in one.features:
            if column in taken or column in views:
                raise InputError(
                    f"view {one.called}: there is a column {column} already; drop it from the entities, or ask for "
                    "full feature names"
                )
            views[column], own[column] = one.called, name
    for projection in (projection for each in computed for projection in each.view.views):
        _add_input(store, stored, projection)
    _check_inputs(stored, own)
    return Request(
        stored=tuple(stored.values()), computed=tuple(computed), columns=tuple(views), views=views, names=own
    )


def _add_input(store: Store, stored: dict[str, Stored], projection: Any) -> None:
    """Look up what an on-demand view needs of a stored view too, as `view__feature`."""
    called = projection.name_to_use()
    pairs = tuple((field.name, f"{called}__{field.name}") for field in projection.features)
    if called not in stored:
        view = _stored(store, projection.name).with_projection(projection)
        stored[called] = Stored(called=called, view=view, features=pairs)
        return
    own = stored[called]
    if own.view.projection.join_key_map != projection.join_key_map:
        raise InputError(f"view {called} is asked for with two lists of join keys; give one of them an alias")
    stored[called] = replace(own, features=tuple(dict.fromkeys((*own.features, *pairs))))


def _check_inputs(stored: dict[str, Stored], asked: dict[str, str]) -> None:
    """Raise InputError where a feature that is asked for has the very column that an on-demand view's input needs."""
    seen: dict[str, str] = {}
    for one in stored.values():
        for name, column in one.features:
            other = seen.setdefault(column, f"{one.called}:{name}")
            if other != f"{one.called}:{name}" and column in asked:
                raise InputError(
                    f"features: {other} and {one.called}:{name}, which an on-demand view needs, would both be the "
                    f"column {column}; ask for full feature names"
                )


def check_list(features: Any) -> list[str]:
    """The list. Raises InputError where it is none of texts."""
    if not isinstance(features, list | tuple):
        raise InputError(f"features: a {type(features).__name__}; give a list of view:feature")
    if not features:
        raise InputError("features: none given; name them as view:feature")
    for one in features:
        if not isinstance(one, str):
            raise InputError(f"features: {one!r} is a {type(one).__name__}; name it as view:feature")
    return list(features)


def _of_list(store: Store, features: list[str]) -> list[tuple[str, Any, list[str]]]:
    """(name, view, features) for each view named."""
    check_list(features)
    names: dict[str, list[str]] = {}
    for one in features:
        name, _, feature = one.partition(":")
        view = _found(store, name, f" (in {one!r})")
        known = [*view.features] if isinstance(view, OnDemand) else [each.name for each in view.features]
        if feature not in known:
            raise InputError(f"features: view {name} has no feature {feature!r}; it has {', '.join(known)}")
        names.setdefault(name, []).append(feature)
    return [(name, _found(store, name), list(dict.fromkeys(wanted))) for name, wanted in names.items()]


def _of_service(store: Store, name: str) -> list[tuple[str, Any, list[str]]]:
    from feast.errors import FeastObjectNotFoundException

    try:
        service = store.feast.get_feature_service(name)
    except FeastObjectNotFoundException:
        raise InputError(f"no feature service {name}; give one, or a list of view:feature") from None
    asked: dict[str, tuple[str, Any, list[str]]] = {}
    seen: dict[str, Any] = {}
    for projection in service.feature_view_projections:
        called, names = projection.name_to_use(), [field.name for field in projection.features]
        if projection.version_tag is not None:
            raise InputError(
                f"feature service {name} has view {called}; only the newest version of a view is read, so leave the "
                "version out of the service"
            )
        before = seen.setdefault(called, projection)
        if (before.name, before.join_key_map) != (projection.name, projection.join_key_map):
            raise InputError(f"feature service {name} has two views called {called}; give one of them an alias")
        view = _found(store, projection.name)
        if not isinstance(view, OnDemand):
            view = view.with_projection(projection)
        earlier = asked[called][2] if called in asked else []
        asked[called] = (called, view, list(dict.fromkeys([*earlier, *names])))
    return list(asked.values())


def _found(store: Store, name: str, where: str = "") -> Any:
    """The on-demand view, or Feast's own."""
    if name in store.on_demand:
        return store.on_demand[name]
    return _stored(store, name, where)


def _stored(store: Store, name: str, where: str = "") -> Any:
    if name in store.left_out:
        raise InputError(f"view {name} is left out: {store.left_out[name]}, and what a registry holds is never run")
    views = {view.name: view for view in store.feast.registry.list_feature_views(store.feast.project)}
    if name not in views:
        there = ", ".join(sorted({*views, *store.on_demand})) or "none"
        raise InputError(f"features: no view {name!r}{where}; there are {there}")
    if not views[name].enabled:
        raise InputError(f"view {name} is disabled; `feast feature-views enable {name}` lets it be read again")
    return views[name]
