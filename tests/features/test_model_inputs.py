"""A model's inputs out of training rows: in order, gaps filled by rule, rows without a value told apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from features import repository
from hypothesis import given
from hypothesis import strategies as st

from hotlap import features
from hotlap.errors import InputError, WorkloadError

ROWS = pl.DataFrame(
    {
        "rate": [0.5, None, float("nan"), 2.0],
        "w__rate": [9.0, 8.0, 7.0, 6.0],
        "n": pl.Series([1, 2, None, 4], dtype=pl.Int64),
        "wet": [True, None, False, True],
        "none": pl.Series([None] * 4),
        "city": ["a", "b", "c", "d"],
    }
)


def test_features_stand_in_their_order_with_gaps_filled() -> None:
    found = features.inputs(
        ROWS, {"x": [("v:wet", 0), ("v:rate", -1.5), "w:rate"], "n": [("v:n", 7)]}, dtypes={"n": "int64"}
    )
    assert found.arrays["x"].tolist() == [[1, 0.5, 9], [0, -1.5, 8], [0, -1.5, 7], [1, 2, 6]]
    assert found.arrays["x"].dtype == np.float32
    assert found.arrays["n"].tolist() == [[1], [2], [7], [4]]
    assert found.arrays["n"].dtype == np.int64
    assert found.complete.all()
    assert found.missing["v:rate"].tolist() == [False, True, True, False]
    assert found.missing["v:n"].tolist() == [False, False, True, False]


def test_rows_that_lack_what_must_be_there_are_told_apart() -> None:
    found = features.inputs(ROWS, {"x": ["v:rate", ("v:n", 0)]})
    assert found.complete.tolist() == [True, False, False, True]
    assert np.isfinite(found.arrays["x"]).all()
    assert not features.inputs(ROWS, {"x": ["v:none"]}).complete.any()
    assert features.inputs(ROWS, {"x": [("v:none", 3)]}).arrays["x"].ravel().tolist() == [3] * 4


def test_training_rows_of_a_repository(repo: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    features.open(repo).training(repository.asked(), "both", out=path)
    found = features.inputs(path, {"x": ["trips:rate", ("weather:rain", -1)]})
    table = pl.read_parquet(path)
    assert found.complete.tolist() == table["rate"].is_not_null().to_list()
    assert np.array_equal(found.arrays["x"][:, 1], table["rain"].fill_null(-1).to_numpy().astype(np.float32))


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no column other or v__other among the rows; there are rate, w__rate"):
        features.inputs(ROWS, {"x": ["v:other"]})
    with pytest.raises(InputError, match="v:city is String, not a number; encode it in its view first"):
        features.inputs(ROWS, {"x": ["v:city"]})
    with pytest.raises(InputError, match="v:rate is Float64, which can't become input 'x' of int64"):
        features.inputs(ROWS, {"x": ["v:rate"]}, dtypes={"x": "int64"})
    with pytest.raises(InputError, match="dtypes names 'y', which `features` lacks; it has x"):
        features.inputs(ROWS, {"x": ["v:rate"]}, dtypes={"y": "int64"})
    with pytest.raises(WorkloadError, match="write it as view:feature"):
        features.inputs(ROWS, {"x": ["rate"]})
    with pytest.raises(InputError, match="no such file; `hotlap features train --out` writes one"):
        features.inputs(tmp_path / "none.parquet", {"x": ["v:rate"]})


@given(st.lists(st.one_of(st.none(), st.floats(allow_nan=True, width=32)), min_size=1, max_size=20), st.integers(-9, 9))
def test_each_value_is_itself_or_what_stands_in(values: list[float | None], fill: int) -> None:
    found = features.inputs(pl.DataFrame({"a": pl.Series(values, dtype=pl.Float32)}), {"x": [("v:a", fill)]})
    right = [fill if value is None or value != value else value for value in values]
    assert found.arrays["x"][:, 0].tolist() == right
