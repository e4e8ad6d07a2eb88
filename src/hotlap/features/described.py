"""How the views that a model takes features of are defined now, and what an artifact keeps of that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hotlap.artifact.stored import StoredFeature, StoredFeatures, StoredView, becomes, changed
from hotlap.core import Json, Signature
from hotlap.errors import InputError, Refusal
from hotlap.features import lineage
from hotlap.workload.features import Feature, Features

if TYPE_CHECKING:
    from hotlap.features.store import Store


def describe(store: Store, features: Features) -> StoredFeatures:
    """The features with their null rules, as the repository defines them. Raises InputError for what it lacks."""
    from hotlap.features.training import _known

    columns = {column.reference: column for columns in features.values() for column in columns}
    _known(store, list(columns))
    wanted: dict[str, dict[str, float | None]] = {}
    for column in columns.values():
        wanted.setdefault(column.view, {})[column.name] = column.fill
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


def _views(store: Store, wanted: Mapping[str, Mapping[str, float | None]]) -> dict[str, StoredView]:
    """The views that are there, with those of the features that are."""
    known = {view.name: view for view in store.feast.registry.list_feature_views(store.feast.project)}
    return {name: _view(known[name], features) for name, features in wanted.items() if name in known}


def _view(view: Any, features: Mapping[str, float | None]) -> StoredView:
    source = view.batch_source
    types = {field.name: str(field.dtype) for field in view.features}
    return StoredView(
        definition=lineage.definition_digest(view),
        keys=tuple(_names(view.entity_columns)),
        ttl_seconds=view.ttl.total_seconds() if view.ttl else None,
        source=getattr(source, "path", "") or source.name,
        event=source.timestamp_field or None,
        created=source.created_timestamp_column or None,
        features={name: StoredFeature(type=types[name], fill=fill) for name, fill in features.items() if name in types},
    )


def _names(fields: Iterable[Any]) -> list[str]:
    return [field.name for field in fields]
