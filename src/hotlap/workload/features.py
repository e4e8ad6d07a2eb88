"""A workload's `features`: which stored features make up each input, in order, and what stands in for a missing one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hotlap.core import Json, Signature, TensorSpec, to_json
from hotlap.errors import WorkloadError
from hotlap.workload.workload import Workload

_FORM = '{input: ["view:feature", ("view:feature", value where it is missing), ...]}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One column of an input. `fill` stands in where the store has no value; None: a row without one is refused."""

    view: str
    name: str
    fill: float | None = None

    @property
    def reference(self) -> str:
        """`view:feature`, as Feast writes it."""
        return f"{self.view}:{self.name}"


Features = Mapping[str, tuple[Feature, ...]]


def read_features(given: Any) -> Features:
    """The field's value, read and checked for itself; empty where it is None. Raises WorkloadError."""
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not given:
        raise WorkloadError(f"the workload's `features` must be {_FORM}, not {_shown(given)}")
    found: dict[str, tuple[Feature, ...]] = {}
    rules: dict[str, float | None] = {}
    for name, items in given.items():
        if not isinstance(name, str) or isinstance(items, str) or not isinstance(items, Sequence) or not items:
            raise WorkloadError(f"the workload's `features` must be {_FORM}; {name!r} has {_shown(items)}")
        columns = tuple(_feature(name, item) for item in items)
        for place, column in enumerate(columns):
            if column.reference in [other.reference for other in columns[:place]]:
                raise WorkloadError(f"the workload's `features` names {column.reference} twice for input {name!r}")
            if rules.setdefault(column.reference, column.fill) != column.fill:
                raise WorkloadError(
                    f"the workload's `features` gives {column.reference} two values for where it is missing; give one"
                )
        found[name] = columns
    return found


def check_inputs(features: Features, signature: Signature) -> None:
    """Raise WorkloadError unless each input is there, has a column a feature, and can hold what fills gaps."""
    specs = {spec.name: spec for spec in signature.inputs}
    for name, columns in features.items():
        if name not in specs:
            known = ", ".join(specs)
            raise WorkloadError(f"the workload's `features` names {name!r}, which is no input; the inputs are {known}")
        reason = misfit(specs[name], len(columns))
        if reason:
            raise WorkloadError(f"the workload's `features`: {reason}")
        for column in columns:
            if column.fill is not None and not holds(specs[name].dtype, column.fill):
                raise WorkloadError(
                    f"the workload's `features` fills {column.reference} with {column.fill!r}, which input {name!r} "
                    f"({specs[name].dtype}) can't hold"
                )


def misfit(spec: TensorSpec, count: int) -> str | None:
    """Why an input can't be made of that many features side by side; None where it can."""
    if not spec.shape or not isinstance(spec.shape[0], str):
        return f"input {spec.name!r} has shape {list(spec.shape)}; its axis 0 must be the batch, one row a key"
    width = 1 if len(spec.shape) == 1 else spec.shape[1] if len(spec.shape) == 2 else None
    if not isinstance(width, int):
        return f"input {spec.name!r} has shape {list(spec.shape)}; it must be [batch] or [batch, number of features]"
    if width != count:
        return f"input {spec.name!r} has shape {list(spec.shape)}, so it takes {width:,} features; {count:,} are named"
    return None


def holds(dtype: str, value: Any) -> bool:
    """Whether a tensor of that type can hold the number exactly enough: a float rounds, a whole number does not."""
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return isinstance(value, bool) or value in (0, 1)
    if kind.kind == "f":
        return bool(abs(value) <= float(np.finfo(kind).max))
    if kind.kind in "iu":
        return bool(np.iinfo(kind).min <= value <= np.iinfo(kind).max) and float(value).is_integer()
    return False


def to_ask(workload: Workload, file: Path | None) -> Json:
    """What to ask a feature repository, as JSON: `repo`, and `features` as fields of Feature; None: nothing.

    Raises WorkloadError as `read_features` and `repository` do.
    """
    features = read_features(workload.features)
    if not features:
        return None
    return {
        "repo": str(repository(workload, file)),
        "features": {name: [to_json(column) for column in columns] for name, columns in features.items()},
    }


def repository(workload: Workload, file: Path | None) -> Path:
    """The folder of the feature repository: `feature_repo`, from the workload's own folder on; by default that folder.

    Raises WorkloadError where it holds no feature_store.yaml.
    """
    base = file.parent if file else Path.cwd()
    folder = base / (workload.feature_repo or ".")
    if not (folder / "feature_store.yaml").is_file():
        raise WorkloadError(
            f"the workload has `features`, but {folder} holds no feature_store.yaml; name the folder of the feature "
            "repository in `feature_repo`, from the workload's file on"
        )
    return folder.absolute()


def _feature(name: str, item: Any) -> Feature:
    fill = None
    reference = item
    if isinstance(item, tuple | list) and len(item) == 2:
        reference, fill = item
        if not isinstance(fill, bool | int | float) or not abs(fill) < float("inf"):
            raise WorkloadError(
                f"the workload's `features` fills {reference!r} of input {name!r} with {_shown(fill)}; give a number, "
                "or the name alone to refuse rows that lack it"
            )
    view, colon, feature = reference.partition(":") if isinstance(reference, str) else ("", "", "")
    if not (view and colon and feature) or ":" in feature or view != view.strip() or feature != feature.strip():
        raise WorkloadError(
            f"the workload's `features` has {_shown(reference)} for input {name!r}; write it as view:feature"
        )
    return Feature(view=view, name=feature, fill=fill)


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, str | int | float) else f"a {type(value).__name__}"
