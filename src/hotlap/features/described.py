"""How the views that a model takes features of are defined now, and what an artifact keeps of that."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hotlap.artifact.stored import TYPES, StoredFeature, StoredFeatures, StoredView, becomes, changed
from hotlap.core import Json, Signature
from hotlap.errors import InputError, Refusal
from hotlap.features import lineage
from hotlap.features.on_demand import OnDemand
from hotlap.features.request import requested
from hotlap.workload.features import Feature, Features

if TYPE_CHECKING:
    from hotlap.features.store import Store

_MOST_TOLD = 800
"""Characters of the inputs that an on-demand view's source is told with."""


def describe(store: Store, features: Features) -> StoredFeatures:
    """The features with their null rules, as the repository defines them. Raises InputError for what it lacks."""
    columns = {column.reference: column for columns in features.values() for column in columns}
    wanted: dict[str, dict[str, float | None]] = {}
    for column in columns.values():
        wanted.setdefault(column.view, {})[column.name] = column.fill
    for name, references in features.items():
        for one in references:
            kind = _types(store, one.reference)[one.name]
            if kind not in TYPES:
                raise InputError(
                    f"features: {one.reference} is {kind}, which can't become part of input {name!r}; it takes "
                    f"{', '.join(TYPES)}"
                )
    return StoredFeatures(
        inputs={name: tuple(column.reference for column in columns) for name, columns in features.items()},
        views=_views(store, wanted),
    )


def check_types(stored: StoredFeatures, signature: Signature) -> None:
    """Raise InputError for a feature of a type that can't become its input's."""
    dtypes = {spec.name: spec.dtype for spec in signature.inputs}
    for name, references in stored.inputs.items():
        for one in references:
            kind = stored.feature(one).type
            if not becomes(kind, dtypes[name]):
                raise InputError(
                    f"features: {one} is {kind}, which can't become input {name!r} of {dtypes[name]}; change the "
                    "feature's type in its view, or the input's in the model"
                )


def require_same(store: Store, stored: StoredFeatures) -> None:
    """Raise Refusal, saying what changed, where a view is not defined as it was when the model was made."""
    now = _views(store, {n: {f: one.fill for f, one in view.features.items()} for n, view in stored.views.items()})
    differences = changed(stored.views, now)
    if differences:
        raise Refusal(
            f"the model was trained on other definitions: {'; '.join(differences)}; its features would mean something "
            f"else, so put the definition back in {store.repo}, or train and optimize again"
        )


def of_workload(state: dict[str, Any], *, repo: str, features: Json, signature: Json) -> Json:
    """`describe` and, with a signature, `check_types`, as a call to a worker process."""
    from hotlap.features.store import open_store

    wanted = {name: tuple(Feature(**column) for column in columns) for name, columns in features.items()}
    stored = describe(open_store(Path(repo)), wanted)
    if signature is not None:
        check_types(stored, Signature.from_json(signature))
    return stored.to_json()


def _types(store: Store, reference: str) -> dict[str, str]:
    """Feast's types of the features of the view that is named. Raises InputError where it is not there."""
    request = requested(store, [reference], [], full_feature_names=True)
    view = request.computed[0].view if request.computed else request.stored[0].view
    return _kinds(view)


def _kinds(view: Any) -> dict[str, str]:
    if isinstance(view, OnDemand):
        return {name: str(kind) for name, kind in view.features.items()}
    return {field.name: str(field.dtype) for field in view.features}


def _views(store: Store, wanted: Mapping[str, Mapping[str, float | None]]) -> dict[str, StoredView]:
    """The views that are there, with those of the features that are."""
    stored = {view.name: view for view in store.feast.registry.list_feature_views(store.feast.project)}
    found = {}
    for name, features in wanted.items():
        if name in store.on_demand:
            found[name] = _computed(store.on_demand[name], stored, features)
        elif name in stored:
            found[name] = _stored(stored[name], features)
    return found


def _stored(view: Any, features: Mapping[str, float | None]) -> StoredView:
    source = view.batch_source
    return StoredView(
        definition=lineage.definition_digest(view),
        keys=tuple(field.name for field in view.entity_columns),
        ttl_seconds=view.ttl.total_seconds() if view.ttl else None,
        source=getattr(source, "path", "") or source.name,
        event=source.timestamp_field or None,
        created=source.created_timestamp_column or None,
        features=_features(_kinds(view), features),
    )


def _computed(view: OnDemand, stored: Mapping[str, Any], features: Mapping[str, float | None]) -> StoredView:
    """An on-demand view, whose definition is its function's and its input views'."""
    inputs = {one.name: lineage.definition_digest(stored[one.name]) for one in view.views if one.name in stored}
    parts = [lineage.function_digest(view), *inputs.values()]
    told = _shortened([f"{name} as {digest[:16]}" for name, digest in inputs.items()])
    return StoredView(
        definition=hashlib.sha256("".join(parts).encode()).hexdigest(),
        keys=tuple(view.request),
        ttl_seconds=None,
        source=f"a function of {told or 'the request'}",
        event=None,
        created=None,
        features=_features(_kinds(view), features),
    )


def _shortened(inputs: list[str]) -> str:
    """The first inputs, and how many more: a manifest takes no longer text. The definition's digest is of all."""
    told: list[str] = []
    length = 0
    for one in inputs:
        length += len(one) + 2
        if length > _MOST_TOLD:
            return ", ".join([*told, f"{len(inputs) - len(told)} more"])
        told.append(one)
    return ", ".join(told)


def _features(types: Mapping[str, str], features: Mapping[str, float | None]) -> dict[str, StoredFeature]:
    return {name: StoredFeature(type=types[name], fill=fill) for name, fill in features.items() if name in types}
