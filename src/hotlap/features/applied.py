"""What the repository's own files define, written into its registry and its online store."""

from __future__ import annotations

import sqlite3
import sys
import warnings
from pathlib import Path
from typing import Any

import pyarrow as pa
from feast.protos.feast.core.Registry_pb2 import Registry

from hotlap.core import Json
from hotlap.errors import HotlapError, InputError, StoreDown
from hotlap.features import definitions, lineage, made_as, times, trial
from hotlap.features.online_stores import hidden, way_out
from hotlap.features.registry import CheckedRegistryStore, changing, harmless, read
from hotlap.features.source import scan
from hotlap.features.variables import check_set
from hotlap.search.folder import written_whole

_KEPT = ("validation_references", "feature_view_version_history")
"""What a registry holds that no file of the repository defines and that is not read here: it stays as it is."""


_PROJECTS = ("on_demand_feature_views", "stream_feature_views", "feature_views", "label_views", "data_sources",
             "feature_services", "saved_datasets")  # fmt: skip
"""Where what carries code is left out when the registry is read; that of other projects is not for us to drop."""


class AppliedRegistryStore(CheckedRegistryStore):
    """A registry file that is read as data and written whole; one that does not exist is empty."""

    def __init__(self, registry_config: Any, repo_path: Path) -> None:
        super().__init__(registry_config, repo_path)
        self._project = registry_config.project

    def get_registry_proto(self) -> Registry:
        if not self._filepath.exists():
            raise FileNotFoundError(self._filepath)  # Feast then makes one
        return super().get_registry_proto()

    def update_registry_proto(self, registry_proto: Registry) -> None:
        proto: Any = Registry()
        proto.CopyFrom(registry_proto)
        if self._filepath.exists():
            before: Any = read(self._filepath)
            for section in _KEPT:
                _keep(getattr(before, section), getattr(proto, section))
            for section in _PROJECTS:
                theirs = [one for one in getattr(before, section) if getattr(one, "spec", one).project != self._project]
                _keep(theirs, getattr(proto, section))
        self._filepath.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(self._filepath.resolve()) as part:
            part.write_bytes(proto.SerializeToString())


def _keep(before: Any, now: Any) -> None:
    if hasattr(before, "records"):
        before, now = before.records, now.records
    known = {one.SerializeToString(deterministic=True) for one in now}
    now.extend(one for one in before if one.SerializeToString(deterministic=True) not in known)


def apply(repo: Path | str = ".") -> Json:
    """Register what the folder's Python files define, make the online store's tables, and drop what is gone.

    The files are the user's code and are imported, as by `feast apply`; nothing that the registry holds is run.
    Gives `applied`, `deleted` and `changed`, each a list of names by kind: what is changed are feature views that were
    there with another definition, which `materialize` then does anew. Raises InputError where a file, a definition or
    the configuration is wrong.
    """
    from feast import FeatureStore
    from feast.errors import FeastError, RegistryInferenceFailure

    from hotlap.features.store import configuration

    folder = Path(repo).resolve()
    config, path = configuration(folder, "hotlap.features.applied.AppliedRegistryStore")
    check_set(config.online_store.model_dump(), folder / "feature_store.yaml", "online_store")
    objects = _defined(folder)
    _check(objects, config.project)
    with changing(path):
        store = FeatureStore(config=config, repo_path=str(folder))
        gone = _gone(store, objects)
        before = _registered(path, config.project)
        try:
            with warnings.catch_warnings(), trial.blaming():
                # Feast's own retrieval of on-demand features is slow; hotlap's is another.
                warnings.filterwarnings("ignore", "On demand feature view is an experimental feature", RuntimeWarning)
                store.apply(objects, objects_to_delete=gone, partial=False)
        except RegistryInferenceFailure as error:
            raise InputError(
                f"{folder}: what the definitions leave out is not in the source ({' '.join(str(error).split())}); "
                "declare the fields in `schema`, and `timestamp_field`"
            ) from error
        except (*_of_the_outside(), pa.ArrowInvalid) as error:
            raise _outside(error, objects, folder, config) from None
        except (ValueError, TypeError, FeastError) as error:
            raise InputError(f"{folder}: {' '.join(str(error).split())}") from error
        changed = _changed(path, config.project, before)
    return {"applied": _names(objects), "deleted": _names(gone), "changed": _names(changed)}


def _registered(path: Path, project: str) -> dict[str, Any]:
    """The project's feature views as the registry's file has them; Feast's own list may be one of before."""
    from feast import FeatureView

    views = harmless(read(path)).feature_views if path.exists() else []
    return {one.spec.name: FeatureView.from_proto(one) for one in views if one.spec.project == project}


def _changed(path: Path, project: str, before: dict[str, Any]) -> list[Any]:
    """The views whose definition is another now. By which one their rows were made is kept, where it was not yet."""
    found = []
    for name, view in _registered(path, project).items():
        old = before.get(name)
        if old is None or lineage.definition_digest(old) == lineage.definition_digest(view):
            continue
        found.append(view)
        place = made_as.place(path, project, name)
        if old.materialization_intervals and not made_as.known(place):
            made_as.note(place, old)
    return found


def _of_the_outside() -> tuple[type[Exception], ...]:
    """What files and servers fail with."""
    psycopg: Any = sys.modules.get("psycopg")
    servers = (psycopg.OperationalError, psycopg.errors.InsufficientPrivilege) if psycopg else ()
    return (OSError, sqlite3.DatabaseError, *servers)


def _outside(error: Exception, objects: list[Any], folder: Path, config: Any) -> HotlapError:
    """A source that is not there, or an online store that can't be had."""
    from feast import FeatureView

    for view in objects:
        if isinstance(view, FeatureView) and isinstance(error, OSError | pa.ArrowInvalid):
            try:
                scan(view.batch_source, folder)
            except InputError as why:
                return InputError(
                    f"view {view.name}: {why}; or declare what is taken from it: `schema`, `timestamp_field` and the "
                    "entities' value_type"
                )
    if isinstance(error, pa.ArrowInvalid):
        return InputError(f"{folder}: {' '.join(str(error).split())}")
    online = config.online_store
    told = hidden(online, " ".join(str(error).split()))
    what = f"{folder / 'feature_store.yaml'}: online_store {online.type}"
    if isinstance(error, OSError | sqlite3.DatabaseError):
        path = getattr(online, "path", "")
        helps = way_out(told) or "; name a file that can be written, or move away what is there"
        return InputError(f"{what}, path {path}: {told}{helps}")
    return StoreDown(f"{what} can't be had: {told}{way_out(told)}")


def _kinds() -> dict[str, Any]:
    from feast import Entity, FeatureService, FeatureView, OnDemandFeatureView
    from feast.data_source import DataSource
    from feast.labeling.label_view import LabelView
    from feast.permissions.permission import Permission
    from feast.project import Project

    return {
        "projects": Project, "data sources": DataSource, "entities": Entity, "feature views": FeatureView,
        "on-demand feature views": OnDemandFeatureView, "label views": LabelView, "feature services": FeatureService,
        "permissions": Permission,
    }  # fmt: skip


def _defined(folder: Path) -> list[Any]:
    """Every object of Feast's that a file of the repository has by name, once."""
    kinds = tuple(_kinds().values())
    found = [one for module in definitions.modules(folder) for one in vars(module).values() if isinstance(one, kinds)]
    return list({id(one): one for one in found}.values())


def _check(objects: list[Any], project: str) -> None:
    kinds = _kinds()
    if not any(isinstance(one, kinds["feature views"]) for one in objects):
        raise InputError("no file of the repository defines a FeatureView; write one, at the top level of a file")
    for one in objects:
        for name in (one.name, *(field.name for field in getattr(one, "features", []))):
            if "\0" in name:
                raise InputError(f"{name!r}: a name with a zero byte can't be a table's or a column's; rename it")
        if isinstance(one, kinds["feature views"]):
            times.to_live(one.name, one.ttl)
        if isinstance(one, kinds["projects"]) and one.name != project:
            raise InputError(f"project {one.name}: feature_store.yaml says {project}; give both one name")
    for label in ("feature views", "entities", "feature services"):
        names = [one.name for one in objects if isinstance(one, kinds[label])]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"{label}: {', '.join(twice)} is defined twice; rename or remove one")


def _gone(store: Any, objects: list[Any]) -> list[Any]:
    """What the registry has and no file defines any more, data sources apart, which views bring with them."""
    registry, project = store.registry, store.project
    listed = [
        *registry.list_feature_services(project), *registry.list_feature_views(project),
        *registry.list_label_views(project), *registry.list_entities(project),
    ]  # fmt: skip
    kept = {(type(one).__name__, one.name) for one in objects}
    return [one for one in listed if (type(one).__name__, one.name) not in kept and one.name != "__dummy"]


def _names(objects: list[Any]) -> Json:
    kinds = _kinds().items()
    return {
        label: names for label, kind in kinds if (names := sorted(one.name for one in objects if isinstance(one, kind)))
    }
