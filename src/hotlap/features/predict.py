"""From keys to answers: a model's stored features looked up online, its inputs made of them, the model run.

`Lookup` is all that a server needs of a feature store: it is bound to a store and to what an artifact expects once, and
gives for each call the inputs and, row by row, what became of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import polars as pl

from hotlap.artifact.load import LoadedModel, load
from hotlap.artifact.stored import StoredFeatures
from hotlap.core import Array, Signature
from hotlap.errors import InputError
from hotlap.features import times
from hotlap.features.described import require_same
from hotlap.features.model_inputs import assemble
from hotlap.workload.features import Feature, Features

if TYPE_CHECKING:
    from hotlap.features.online import Online
    from hotlap.features.store import Store

Stale = Literal["default", "flag", "refuse"]
"""What to do with a value older than its view's time to live: let the null rule take its place, as in training; use it
and say so; refuse the row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What became of one key. `refused` says why it has no answer; None: it has one.

    `filled`: the features that were missing or too old, for which the model's null rule gave a number. `stale`: the
    views whose values were older than their time to live.
    """

    refused: str | None = None
    filled: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """`arrays`: the inputs made of stored features, with a row for each key that is `answered` (bool[keys]), in order.

    `rows`: one for each key. `ages`: for each view float64[keys], seconds since the event of its values, NaN where it
    has none.
    """

    arrays: dict[str, Array]
    answered: Array
    rows: tuple[Row, ...]
    ages: dict[str, Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """`outputs`: nested as the model's, with a row for each key that is `answered` (bool[keys]), in order; None where
    no key is. `rows`, `ages`: as Looked has them.
    """

    outputs: Any
    answered: Array
    rows: tuple[Row, ...]
    ages: dict[str, Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """A store bound to what a model expects of it; call it with keys. Made by `bind`."""

    store: Store
    features: Features
    dtypes: Mapping[str, str]
    flat: frozenset[str]
    stale: Stale

    def __call__(self, keys: Any, *, at: datetime | None = None) -> Looked:
        """Look up, all views at once, what the model expects of each key. `keys`, `at`: as Store.online takes them.

        Raises InputError for keys that are missing or of another type, StoreDown where the store does not answer.
        """
        references = list(dict.fromkeys(one.reference for columns in self.features.values() for one in columns))
        online = self.store.online(
            keys, references, at=at, full_feature_names=True, expired="keep" if self.stale == "flag" else "null"
        )
        ages = {view: _age(online, view) for view in online.events}
        old = {view: _too_old(online, view) for view in online.events}

        def column(reference: str) -> pl.Series:
            found = pl.from_arrow(online.table[reference.replace(":", "__", 1)])
            assert isinstance(found, pl.Series)
            return found

        made = assemble(column, self.features, self.dtypes, flat=self.flat)
        answered = made.complete.copy()
        if self.stale == "refuse":
            for late in old.values():
                answered &= ~late
        return Looked(
            arrays={name: array[answered] for name, array in made.arrays.items()},
            answered=answered,
            rows=_rows(self.features, made.missing, old, ages, answered),
            ages=ages,
        )


def bind(store: Store, stored: StoredFeatures, signature: Signature, *, stale: Stale = "default") -> Lookup:
    """Bind a store to what an artifact expects. Raises Refusal, naming what changed, where a view is not defined as it
    was when the model was trained, and InputError for another `stale`.
    """
    if stale not in get_args(Stale):
        raise InputError(f"stale is {stale!r}; give {', '.join(get_args(Stale))}")
    require_same(store, stored)
    specs = {spec.name: spec for spec in signature.inputs}

    def feature(reference: str) -> Feature:
        view, _, name = reference.partition(":")
        return Feature(view=view, name=name, fill=stored.feature(reference).fill)

    return Lookup(
        store=store,
        features={name: tuple(map(feature, references)) for name, references in stored.inputs.items()},
        dtypes={name: specs[name].dtype for name in stored.inputs},
        flat=frozenset(name for name in stored.inputs if len(specs[name].shape) == 1),
        stale=stale,
    )


def predict(
    store: Store,
    artifact: str | Path | LoadedModel,
    keys: Any,
    *,
    inputs: Mapping[str, Array] | None = None,
    at: datetime | None = None,
    stale: Stale = "default",
) -> Predictions:
    """See Store.predict."""
    model = artifact if isinstance(artifact, LoadedModel) else load(artifact)
    stored, signature = model.manifest.features, model.signature
    if stored is None:
        raise InputError("the artifact expects no stored features; give hotlap.load(artifact) its inputs")
    given = dict(inputs or {})
    others = [spec.name for spec in signature.inputs if spec.name not in stored.inputs]
    for name in given:
        if name in stored.inputs:
            raise InputError(f"input {name!r} is made of stored features; leave it out")
        if name not in others:
            raise InputError(
                f"the model has no input {name!r}; give {', '.join(others) or 'none: all are stored features'}"
            )
    looked = bind(store, stored, signature, stale=stale)(keys, at=at)
    for name, array in given.items():
        if len(array) != len(looked.answered):
            raise InputError(f"input {name!r} has {len(array):,} rows for {len(looked.answered):,} keys")
    rest = {name: array[looked.answered] for name, array in given.items()}
    outputs = model(**looked.arrays, **rest) if looked.answered.any() else None
    return Predictions(outputs=outputs, answered=looked.answered, rows=looked.rows, ages=looked.ages)


def _age(online: Online, view: str) -> Array:
    events = online.events[view]
    seconds: Array = online.at.timestamp() - events / 1e6
    seconds[events == times.NEVER] = np.nan
    return seconds


def _too_old(online: Online, view: str) -> Array:
    """bool[keys]; an age of just the time to live is not too old."""
    ttl = online.ttl[view]
    return np.zeros(len(online.events[view]), bool) if ttl is None else _age(online, view) > ttl.total_seconds()


def _rows(
    features: Features, missing: dict[str, Array], old: dict[str, Array], ages: dict[str, Array], answered: Array
) -> tuple[Row, ...]:
    """One for each key; most have nothing to tell, and share one."""
    known = {one.reference: one for columns in features.values() for one in columns}
    told = ~answered
    for flaws in (*missing.values(), *old.values()):
        told |= flaws
    rows = [Row()] * len(answered)
    for place in np.flatnonzero(told):
        stale = tuple(view for view, late in old.items() if late[place])
        gone = [reference for reference, flaws in missing.items() if flaws[place]]
        refused = None
        if not answered[place]:
            lacking = [one for one in gone if known[one].fill is None]
            why = [f"{one} is missing" for one in lacking]
            why += [f"{view} is {ages[view][place]:,.0f} s old, more than its time to live" for view in stale]
            refused = "; ".join(why)
        filled = tuple(one for one in gone if known[one].fill is not None)
        rows[place] = Row(refused=refused, filled=filled, stale=stale)
    return tuple(rows)
