"""A model's inputs out of feature values: the one way, for training rows and for rows looked up online."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from hotlap.core import Array
from hotlap.errors import InputError
from hotlap.workload.features import Features, read_features
from hotlap.workload.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """`arrays`: for each input an array [rows, features], or [rows] where it is one feature. `missing`: by feature,
    which rows had no value (null or NaN), bool[rows]. `complete`: the rows in which every missing value had one to
    stand in, bool[rows]; in the others a missing value is 0 and means nothing.
    """

    arrays: dict[str, Array]
    missing: dict[str, Array]
    complete: Array


def assemble(
    column: Callable[[str], pl.Series], features: Features, dtypes: Mapping[str, str], flat: Collection[str]
) -> Inputs:
    """Put features side by side in their order. `column` gives the values of a `view:feature`; `flat` names the inputs
    that have no axis for features. Raises InputError for values that are no numbers.
    """
    arrays, missing = {}, {}
    complete: Array | None = None
    for name, columns in features.items():
        dtype = np.dtype(dtypes[name])
        parts = []
        for one in columns:
            values = column(one.reference)
            _check(one.reference, values.dtype, name, dtype)
            gone = _missing(values)
            missing[one.reference] = gone
            complete = np.ones(len(gone), bool) if complete is None else complete
            if one.fill is None:
                complete &= ~gone
            parts.append(_filled(values, gone, 0 if one.fill is None else one.fill, dtype))
        arrays[name] = parts[0] if name in flat else np.stack(parts, axis=1)
    assert complete is not None
    return Inputs(arrays=arrays, missing=missing, complete=complete)


def of_rows(rows: Any, features: Workload | Mapping[str, Any], *, dtypes: Mapping[str, str] | None = None) -> Inputs:
    """A model's inputs of training rows, made as they are online: in the order of `features` (a workload, or what its
    field of that name holds), gaps filled as it says.

    rows: a pyarrow Table, a polars frame, or the path of the Parquet file that `training` wrote; a feature's column
    has its own name, or `view__feature`. dtypes: of inputs that are not float32. Raises InputError for a column that
    is missing or no number, WorkloadError for `features` that can't be read.
    """
    wanted = read_features(features.features if isinstance(features, Workload) else features)
    frame = _frame(rows)
    unknown = [name for name in dtypes or {} if name not in wanted]
    if unknown:
        raise InputError(f"dtypes names {unknown[0]!r}, which `features` lacks; it has {', '.join(wanted)}")

    def column(reference: str) -> pl.Series:
        view, _, name = reference.partition(":")
        for called in (f"{view}__{name}", name):
            if called in frame.columns:
                return frame[called]
        raise InputError(f"no column {name} or {view}__{name} among the rows; there are {', '.join(frame.columns)}")

    return assemble(column, wanted, {**dict.fromkeys(wanted, "float32"), **(dtypes or {})}, flat=())


def _frame(rows: Any) -> pl.DataFrame:
    if isinstance(rows, str | Path):
        if not Path(rows).exists():
            raise InputError(f"{rows}: no such file; `hotlap features train --out` writes one")
        return pl.read_parquet(rows, glob=False)
    found = rows if isinstance(rows, pl.DataFrame) else pl.from_arrow(rows)
    assert isinstance(found, pl.DataFrame)
    return found


def _check(reference: str, kind: pl.DataType, name: str, dtype: np.dtype[Any]) -> None:
    if kind == pl.Null:
        return
    if not (kind.is_numeric() or kind == pl.Boolean):
        raise InputError(f"{reference} is {kind}, not a number; encode it in its view first")
    given = pl.Series([], dtype=kind).to_numpy().dtype
    if dtype.kind != "f" and not np.can_cast(given, dtype, "safe"):
        raise InputError(f"{reference} is {kind}, which can't become input {name!r} of {dtype}")


def _missing(values: pl.Series) -> Array:
    gone = values.is_null()
    if values.dtype.is_float():
        gone = gone | values.is_nan().fill_null(True)
    return gone.to_numpy()


def _filled(values: pl.Series, gone: Array, fill: float, dtype: np.dtype[Any]) -> Array:
    if values.dtype == pl.Null:
        return np.full(len(gone), fill, dtype)
    plain = values.cast(pl.UInt8) if values.dtype == pl.Boolean else values
    whole = plain.fill_null(0).to_numpy()
    array = np.where(gone, 0, whole).astype(dtype)
    array[gone] = fill
    return array
