"""The stored features that a model expects, as its manifest keeps them: which, in what order, defined how."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hotlap.artifact import fields
from hotlap.core import Json, Signature, to_json
from hotlap.errors import ArtifactRefused
from hotlap.workload.features import holds, misfit

TYPES = {"Bool": "bool", "Int32": "int32", "Int64": "int64", "Float32": "float32", "Float64": "float64"}
"""Feast's types of one number, with NumPy's names of them."""
REFUSE = "refuse"
"""The null rule of a feature that must be there; the others are the number that stands in."""
_REFERENCE = re.compile(r"[^:\s][^:]*:[^:\s][^:]*")
_MOST_VIEWS, _MOST_FEATURES = 1000, 10_000
_MOST_SECONDS = 315_576_000_000
"""The longest that protobuf's Duration, in which Feast keeps a time to live, can say."""
_MOST_TEXT = 1000
_LARGEST = float(np.finfo(np.float64).max)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFeature:
    """A feature's type (a key of TYPES) and null rule: what stands in where it is missing, None to refuse the row."""

    type: str
    fill: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredView:
    """How a view was defined. `definition` is the SHA-256 of it all; the rest names what a change was.

    keys: columns that rows are looked up by. ttl_seconds: how old a value may be; None: any age. source: where its
    rows come from. event, created: the source's columns of times. features: those that the model takes, by name.
    """

    definition: str
    keys: tuple[str, ...]
    ttl_seconds: float | None
    source: str
    event: str | None
    created: str | None
    features: Mapping[str, StoredFeature]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFeatures:
    """`inputs`: for each input made of stored features their `view:feature` names, in order. `views`: by name."""

    inputs: Mapping[str, tuple[str, ...]]
    views: Mapping[str, StoredView]

    def feature(self, reference: str) -> StoredFeature:
        """The feature that `view:feature` names."""
        view, _, name = reference.partition(":")
        return self.views[view].features[name]

    @property
    def references(self) -> tuple[str, ...]:
        """Every `view:feature`, once, in the order of the inputs."""
        return tuple(dict.fromkeys(one for columns in self.inputs.values() for one in columns))

    def to_json(self) -> Json:
        """What the manifest holds."""
        data = to_json(self)
        for view in data["views"].values():
            view["features"] = {
                name: {"type": one["type"], "null": REFUSE if one["fill"] is None else one["fill"]}
                for name, one in view["features"].items()
            }
        return data


def becomes(kind: str, dtype: str) -> bool:
    """Whether values of one of Feast's types become that dtype with at most a rounding to fewer digits."""
    if kind not in TYPES:
        return False
    wanted = np.dtype(dtype)
    return wanted.kind == "f" or bool(np.can_cast(TYPES[kind], wanted, "safe"))


def changed(then: Mapping[str, StoredView], now: Mapping[str, StoredView]) -> list[str]:
    """A phrase for each view that is gone or defined otherwise; empty where all are the same."""
    told = []
    for name, view in then.items():
        if name not in now:
            told.append(f"view {name} (it is gone)")
            continue
        differences = _changes(view, now[name])
        if differences:
            told.append(f"view {name} ({', '.join(differences)})")
    return told


def _changes(then: StoredView, now: StoredView) -> list[str]:
    told = []
    for name, before in then.features.items():
        after = now.features.get(name)
        if after is None:
            told.append(f"feature {name} is gone")
            continue
        if after.type != before.type:
            told.append(f"feature {name} was {before.type} and is {after.type}")
        if after.fill != before.fill:
            told.append(f"{name}'s null rule was {_rule(before.fill)} and is {_rule(after.fill)}")
    for what, old, new in (
        ("its keys were", ", ".join(then.keys) or "none", ", ".join(now.keys) or "none"),
        ("its ttl was", _seconds(then.ttl_seconds), _seconds(now.ttl_seconds)),
        ("its source was", then.source, now.source),
        ("its event time was", then.event or "none", now.event or "none"),
        ("its created time was", then.created or "none", now.created or "none"),
    ):
        if old != new:
            told.append(f"{what} {old} and is {new}")
    if then.definition != now.definition and not told:
        return ["something of its definition that the model does not take: a further feature, a mapping, an option"]
    return told


def parse(value: Json, signature: Signature) -> StoredFeatures:
    """Read the manifest's `features`. Raises ArtifactRefused, naming the field, for anything but what `to_json` gives,
    and for features that the signature's inputs can't be made of.
    """
    top = fields.record(value, "features", "inputs", "views")
    listed = fields.mapping(top["views"], "features.views")
    if not 1 <= len(listed) <= _MOST_VIEWS:
        raise ArtifactRefused(f"features.views has {len(listed):,} views, not 1 to {_MOST_VIEWS:,}")
    views = {
        fields.text(name, "features.views"): _view(item, f"features.views[{name!r}]") for name, item in listed.items()
    }
    inputs = _inputs(top["inputs"])
    found = StoredFeatures(inputs=inputs, views=views)
    _check(found, signature)
    return found


def _inputs(value: Json) -> dict[str, tuple[str, ...]]:
    inputs = {}
    for name, columns in fields.mapping(value, "features.inputs").items():
        where = f"features.inputs[{fields.text(name, 'features.inputs')!r}]"
        references = fields.items(columns, where)
        if not 1 <= len(references) <= _MOST_FEATURES:
            raise ArtifactRefused(f"{where} has {len(references):,} features, not 1 to {_MOST_FEATURES:,}")
        for one in references:
            if not _REFERENCE.fullmatch(fields.text(one, where)):
                raise ArtifactRefused(f"{where} holds {one!r}, which is not view:feature")
        if len(set(references)) != len(references):
            raise ArtifactRefused(f"{where} names a feature twice")
        inputs[name] = tuple(references)
    if not inputs:
        raise ArtifactRefused("features.inputs is empty")
    return inputs


def _view(value: Json, where: str) -> StoredView:
    view = fields.record(value, where, "definition", "keys", "ttl_seconds", "source", "event", "created", "features")
    ttl = view["ttl_seconds"]
    features = fields.mapping(view["features"], f"{where}.features")
    return StoredView(
        definition=fields.hexadecimal(view["definition"], f"{where}.definition", 64),
        keys=tuple(fields.text(key, f"{where}.keys") for key in fields.items(view["keys"], f"{where}.keys")),
        ttl_seconds=None if ttl is None else fields.number(ttl, f"{where}.ttl_seconds", 0, _MOST_SECONDS),
        source=fields.text(view["source"], f"{where}.source", most=_MOST_TEXT),
        event=None if view["event"] is None else fields.text(view["event"], f"{where}.event"),
        created=None if view["created"] is None else fields.text(view["created"], f"{where}.created"),
        features={
            fields.text(name, f"{where}.features"): _feature(item, f"{where}.features[{name!r}]")
            for name, item in features.items()
        },
    )


def _feature(value: Json, where: str) -> StoredFeature:
    feature = fields.record(value, where, "type", "null")
    fields.one_of(feature["type"], f"{where}.type", TYPES)
    fill = feature["null"]
    if fill == REFUSE:
        return StoredFeature(type=feature["type"], fill=None)
    if type(fill) not in (bool, int, float) or not abs(fill) <= _LARGEST:
        raise ArtifactRefused(f"{where}.null is {fill!r:.80}; it may be 'refuse' or a number")
    return StoredFeature(type=feature["type"], fill=fill)


def _check(found: StoredFeatures, signature: Signature) -> None:
    """Inputs, views and signature must fit each other, and nothing may be there that nobody takes."""
    specs = {spec.name: spec for spec in signature.inputs}
    for name, columns in found.inputs.items():
        if name not in specs:
            raise ArtifactRefused(f"features.inputs names {name!r}, which is no input of the signature")
        reason = misfit(specs[name], len(columns))
        if reason:
            raise ArtifactRefused(f"features.inputs: {reason}")
        for one in columns:
            view, _, feature = one.partition(":")
            if view not in found.views or feature not in found.views[view].features:
                raise ArtifactRefused(f"features.inputs[{name!r}] holds {one!r}, which features.views lacks")
            stored, dtype = found.feature(one), specs[name].dtype
            if not becomes(stored.type, dtype):
                raise ArtifactRefused(f"features.inputs[{name!r}]: {one!r} is {stored.type}, which no {dtype} can hold")
            if stored.fill is not None and not holds(dtype, stored.fill):
                raise ArtifactRefused(
                    f"features.inputs[{name!r}]: no {dtype} can hold {stored.fill!r:.80}, the null of {one!r}"
                )
    named = set(found.references)
    for view, item in found.views.items():
        for feature in item.features or [""]:
            if f"{view}:{feature}" not in named:
                raise ArtifactRefused(
                    f"features.views has {f'{view}:{feature}'!r}, which features.inputs does not name"
                )


def _rule(fill: float | None) -> str:
    return REFUSE if fill is None else f"{fill:g}"


def _seconds(ttl: float | None) -> str:
    return "none" if ttl is None else f"{ttl:,.0f} s" if float(ttl).is_integer() else f"{ttl:,} s"
