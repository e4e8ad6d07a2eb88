"""What Feast's trial of a function finds is told by the view's name and the user's own line."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from feast import Entity, FeatureView, Field, FileSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64
from feast.value_type import ValueType

from hotlap.errors import InputError
from hotlap.features import trial

DRIVER = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)
SOURCE = FileSource(path="none.parquet", timestamp_field="at")
TRIPS = FeatureView(name="trips", entities=[DRIVER], schema=[Field(name="rate", dtype=Float64)], source=SOURCE)


def tried(function: Any, *, mode: str = "pandas", singleton: bool = False, names: tuple[str, ...] = ("x",)) -> None:
    function.__module__ = __name__  # Feast gives it away to `__main__`, where it would look for its text
    view = on_demand_feature_view(
        sources=[TRIPS], schema=[Field(name=name, dtype=Int64) for name in names], mode=mode, singleton=singleton
    )(function)
    with trial.blaming():
        view.infer_features()


def good(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"x": [1] * len(inputs)})


def lacking(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"x": inputs["gone"]})


def leaving(inputs: pd.DataFrame) -> pd.DataFrame:
    raise SystemExit(0)


def unreachable(inputs: pd.DataFrame) -> pd.DataFrame:
    raise ConnectionError("no network")


def nothing(inputs):  # type: ignore[no-untyped-def] # Feast reads what a function says that it gives
    return None


def listed(inputs):  # type: ignore[no-untyped-def]
    return [1, 2]


def emptied(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"x": []})


def beside(inputs: pd.DataFrame) -> pd.DataFrame:
    """Its inputs come back too, as many functions let them."""
    return inputs.assign(x=1.5)


def test_a_function_that_gives_what_was_declared_passes() -> None:
    tried(good)


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (
            lacking,
            {},
            r"^view lacking: its function, tried by Feast .*, raised KeyError: 'gone' \(.*test_trial.py:\d+: ",
        ),
        (leaving, {}, r"^view leaving: its function, tried by Feast .*, raised SystemExit: 0 \(.*test_trial.py:\d+: "),
        (unreachable, {}, r"^view unreachable: its function, .*, raised ConnectionError: no network \(.*test_trial.py"),
        (nothing, {}, r"^view nothing: its function \(.*test_trial.py:\d+\), .*, gave None; give a pandas DataFrame"),
        (listed, {}, "gave a list; give a pandas DataFrame with a column for each feature"),
        (listed, {"mode": "python"}, "gave a list; give a dict with a list of values for each feature"),
        (nothing, {"mode": "python", "singleton": True}, "gave None; give a dict with a value for each feature"),
        (emptied, {}, "gave what it can't take: TypeError: Failed to infer type for feature 'x'"),
        (beside, {}, "declares x int64, and its function, .*, gives x float64; change the schema, or give that type"),
        (good, {"names": ("x", "y")}, "declares y int64, and its function, .*, gives no y; change the schema"),
    ],
)
def test_a_function_that_does_not_is_told(function: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tried(function, **options)


def test_what_fails_elsewhere_stays_as_it_is() -> None:
    with pytest.raises(KeyError, match="elsewhere"), trial.blaming():
        raise KeyError("elsewhere")
