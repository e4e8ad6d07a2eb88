"""On-demand features are computed by the repository's own function, and by nothing that the registry holds."""

from __future__ import annotations

import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from feast.protos.feast.core.Registry_pb2 import Registry
from features import repository

from hotlap import features
from hotlap.errors import InputError
from hotlap.features import definitions, lineage
from hotlap.features.on_demand import OnDemand

pytestmark = pytest.mark.slow

FUNCTIONS = """
import numpy as np
import pandas as pd
from feast import RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from arithmetic import half

ask = RequestSource(name="ask", schema=[Field(name="fare", dtype=Float64)])

@on_demand_feature_view(sources=[trips[["rate"]]], schema=[Field(name="double", dtype=Float64)])
def doubled(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"double": inputs["trips__rate"] * 2})

@on_demand_feature_view(
    sources=[trips, weather, ask], mode="python",
    schema=[Field(name="cost", dtype=Float64), Field(name="wet", dtype=String), Field(name="many", dtype=Int64)],
)
def priced(inputs):
    return {
        "cost": [None if r is None else r * f for r, f in zip(inputs["rate"], inputs["fare"])],
        "wet": [None if r is None else "yes" if half(1) < r else "no" for r in inputs["rain"]],
        "many": [None if n is None else n + 1 for n in inputs["count"]],
    }

@on_demand_feature_view(
    sources=[trips], mode="python", singleton=True, schema=[Field(name="one", dtype=Int64)],
)
def single(row):
    return {"one": None if row["count"] is None else row["count"] * 2}

@on_demand_feature_view(
    sources=[trips[["rate"]].with_name("t"), ask], mode="python", schema=[Field(name="same", dtype=Float64)],
)
def aliased(inputs):
    return {"same": inputs["trips__rate"]}

odd = FeatureView(
    name="odd", entities=[driver], schema=[Field(name="trips__rate", dtype=Float64)],
    source=FileSource(
        name="odd", path="data/trips.parquet", timestamp_field="at", field_mapping={"rate": "trips__rate"}
    ),
)
asked = FeatureService(name="asked", features=[trips[["rate"]], doubled, priced[["cost"]]])
parts = FeatureService(
    name="parts", features=[trips[["rate"]], priced[["wet"]], trips[["count", "rate"]], priced[["cost"]]],
)
other_keys = FeatureService(
    name="other_keys", features=[trips[["rate"]], trips[["count"]].with_join_key_map({"driver_id": "rider_id"})],
)
"""


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("computed")
    (folder / "arithmetic.py").write_text("def half(x):\n    return x / 2\n")
    return repository.write(folder, more=FUNCTIONS)


def rows() -> pl.DataFrame:
    return repository.asked(300).with_columns(fare=pl.Series(np.random.default_rng(1).random(300)))


def test_every_mode_gives_what_the_function_says_of_what_was_looked_up(computed: Path) -> None:
    store = features.open(computed)
    assert store.left_out == {}
    wanted = ["trips:rate", "trips:count", "weather:rain", "doubled:double", "priced:many", "priced:cost",
              "priced:wet", "single:one"]  # fmt: skip
    made = pl.from_arrow(store.training(rows(), wanted).read())
    assert isinstance(made, pl.DataFrame)
    rate, count, rain = (made[name] for name in ("rate", "count", "rain"))
    assert 0 < rate.null_count() < len(made)
    assert made["double"].to_list() == (rate * 2).to_list()
    assert made["many"].to_list() == (count + 1).to_list()
    assert made["one"].to_list() == (count * 2).to_list()
    assert made["one"].dtype == made["many"].dtype == pl.Int64
    assert made["cost"].to_list() == (rate * made["fare"]).to_list()
    wet = pl.select(pl.when(rain > 0.5).then(pl.lit("yes")).when(rain.is_not_null()).then(pl.lit("no"))).to_series()
    assert made["wet"].to_list() == wet.to_list()
    assert made.columns == [*rows().columns, "rate", "count", "rain", "double", "many", "cost", "wet", "one"]


def test_what_is_only_an_input_does_not_come_back(computed: Path) -> None:
    store = features.open(computed)
    alone = store.training(rows(), ["doubled:double"])
    assert alone.read().column_names == [*rows().columns, "double"]
    beside = store.training(rows(), ["trips:rate", "doubled:double"], full_feature_names=True).read()
    assert beside.column_names == [*rows().columns, "trips__rate", "doubled__double"]
    assert beside["doubled__double"].equals(alone.read()["double"])
    assert alone.report["null_share"].keys() == {"double"}


def test_a_feature_named_as_an_input_is_refused_but_by_its_full_name(computed: Path) -> None:
    store = features.open(computed)
    wanted = ["odd:trips__rate", "doubled:double"]
    with pytest.raises(InputError, match=r"odd:trips__rate and trips:rate, .* the column trips__rate; ask for full"):
        store.training(rows(), wanted)
    made = store.training(rows(), wanted, full_feature_names=True).read()
    assert made.column_names == [*rows().columns, "odd__trips__rate", "doubled__double"]


def test_an_aliased_view_is_an_input_by_its_own_name_as_in_feast(computed: Path) -> None:
    made = features.open(computed).training(rows(), ["trips:rate", "aliased:same"]).read()
    assert made["same"].equals(made["rate"])
    assert made["rate"].null_count < len(made)


def test_a_service_may_name_them(computed: Path) -> None:
    made = features.open(computed).training(rows(), "asked").read()
    assert made.column_names == [*rows().columns, "rate", "double", "cost"]


def test_a_service_may_name_a_view_in_parts(computed: Path) -> None:
    store = features.open(computed)
    made = store.training(rows(), "parts").read()
    assert made.column_names == [*rows().columns, "rate", "count", "wet", "cost"]
    whole = store.training(rows(), ["trips:rate", "trips:count", "priced:wet", "priced:cost"]).read()
    assert made.equals(whole)
    with pytest.raises(InputError, match=r"service other_keys has two views called trips; give one .* an alias"):
        store.training(rows(), "other_keys")


def test_what_feast_would_not_serve_is_not_served(computed: Path, tmp_path: Path) -> None:
    """Views that are disabled, and another version of a view than the newest."""
    (tmp_path / "data").mkdir()
    for one in ("feature_store.yaml", "definitions.py", "arithmetic.py", "data/registry.db"):
        (tmp_path / one).write_bytes((computed / one).read_bytes())
    path = tmp_path / "data/registry.db"
    proto: Any = Registry.FromString(path.read_bytes())
    for view in (*proto.feature_views, *proto.on_demand_feature_views):
        view.spec.disabled = view.spec.name in ("odd", "single")
    for service in proto.feature_services:
        if service.spec.name == "asked":
            service.spec.features[0].version_tag = 1
    path.write_bytes(proto.SerializeToString())
    store = features.open(tmp_path)
    with pytest.raises(InputError, match="view odd is disabled; `feast feature-views enable odd`"):
        store.training(rows(), ["odd:trips__rate"])
    with pytest.raises(InputError, match="view single is left out: it is disabled"):
        store.training(rows(), ["single:one"])
    with pytest.raises(InputError, match="feature service asked has view trips@v1; only the newest version"):
        store.training(rows(), "asked")


def test_the_lineage_has_the_functions_digest(computed: Path) -> None:
    store = features.open(computed)
    told = store.training(rows(), ["doubled:double"]).report["lineage"]["views"]
    assert [one["view"] for one in told] == ["trips", "doubled"]
    assert told[1]["definition"] == lineage.function_digest(store.on_demand["doubled"])
    assert told[1]["definition"] != lineage.function_digest(store.on_demand["single"])


def test_a_column_of_the_request_that_is_not_there_is_named(computed: Path) -> None:
    with pytest.raises(InputError, match="view priced needs fare with the request"):
        features.open(computed).training(rows().drop("fare"), ["priced:cost"])


def test_a_repository_without_its_source_leaves_them_out(computed: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for one in ("feature_store.yaml", "data/registry.db"):
        (tmp_path / one).write_bytes((computed / one).read_bytes())
    store = features.open(tmp_path)
    assert sorted(store.left_out) == ["aliased", "doubled", "priced", "single"]
    with pytest.raises(InputError, match=r"view doubled is left out: .*the repository's files don't define it"):
        store.training(rows(), ["doubled:double"])


def test_a_function_that_is_not_the_registered_one_is_left_out(computed: Path, tmp_path: Path) -> None:
    path = computed / "data/registry.db"
    before = path.read_bytes()
    proto = Registry.FromString(before)
    for one in proto.on_demand_feature_views:
        one.spec.feature_transformation.user_defined_function.body_text += "\n# another\n"
    path.write_bytes(proto.SerializeToString())
    try:
        store = features.open(computed)
    finally:
        path.write_bytes(before)
    assert sorted(store.left_out) == ["aliased", "doubled", "priced", "single"]
    assert "the repository's files define another; run `feast apply`" in store.left_out["doubled"]


def test_source_that_cant_be_imported_says_where(tmp_path: Path) -> None:
    repo = repository.write(tmp_path, more=repository.FUNCTION, rows=50)
    (repo / "broken.py").write_text("x = 1\nraise ValueError('no such place')\n")
    store = features.open(repo)
    with pytest.raises(InputError, match=r"ValueError: no such place .*broken.py:2"):
        store.training(repository.asked(3), ["doubled:double"])
    assert store.training(repository.asked(3), ["trips:rate"]).read().num_rows == 3


def test_importing_leaves_no_trace_and_sees_no_other_repository(tmp_path: Path) -> None:
    for name, value in (("a", 1), ("b", 2)):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "values.py").write_text(f"value = {value}\n")
        (tmp_path / name / "deep/uses.py").write_text("from values import value as seen\n")
    before, path = set(sys.modules), list(sys.path)
    for name, value in (("a", 1), ("b", 2), ("a", 1)):
        found = {one.__name__: one for one in definitions.modules(tmp_path / name)}
        assert found["deep.uses"].seen == found["values"].value == value
    assert {name for name in set(sys.modules) - before if name.split(".")[0] in ("values", "deep")} == set()
    assert sys.path == path
    (only,) = definitions.modules(tmp_path / "a", only="values.py")
    assert only.value == 1
    assert definitions.modules(tmp_path / "a", only="none.py") == []


def view(function: Any, mode: str = "pandas", kind: pl.DataType | None = None, *, singleton: bool = False) -> OnDemand:
    return OnDemand(
        name="v", mode=mode, singleton=singleton, views=(), inputs={}, request={"x": pl.Float64()},
        features={"y": kind or pl.Float64()}, function=function, text="",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("function", "mode", "message"),
    [
        (lambda f: f["z"], "pandas", r"view v: its function raised KeyError: 'z' \(.*test_on_demand.py"),
        (lambda f: sys.exit(0), "pandas", r"view v: its function raised SystemExit: 0 \(.*test_on_demand.py"),
        (lambda f: None, "pandas", r"view v: its function \(.*test_on_demand.py:\d+\) gave None; give a pandas DataF"),
        (lambda f: f["x"], "pandas", "gave a Series; give a pandas DataFrame with a column for each feature"),
        (lambda d: [1, 2, 3], "python", "gave a list; give a dict with a list of values for each feature"),
        (lambda d: {"y": 1.0}, "python", "gave a float for y; give a list, with a value for each row"),
        (lambda d: {"y": "abc"}, "python", "gave a str for y; give a list, with a value for each row"),
        (lambda d: {"y": np.array(1.0)}, "python", "gave a ndarray for y; give a list, with a value for each row"),
        (lambda d: {"y": {1.0, 2.0, 3.0}}, "python", "gave a set for y; give a list, with a value for each row"),
        (lambda d: {"y": [2**70, 1, 1]}, "python", "y can't be made Float64, as declared"),
        (lambda d: {}, "python", "gave no y; it gave nothing"),
        (lambda d: None, "singleton", "gave None; give a dict with a value for each feature"),
        (lambda d: {} if d["x"] == 2 else {"y": 1.0}, "singleton", "gave no y; it gave nothing"),
        (lambda f: f.rename(columns={"x": "z"}), "pandas", "gave no y; it gave z"),
        (lambda f: f.rename(columns={"x": "y"}).head(1), "pandas", "gave 1 values of y for 3 rows"),
        (
            lambda d: {"y": ["a", "b", "c"]},
            "python",
            r"gave 'a' \(String\), where only Float64 may stand in y, as",
        ),
        (lambda d: {"y": ["1.5", "2", "3"]}, "python", r"gave '1.5' \(String\), where only Float64 may stand in y"),
        (lambda f: f[["x"]].notna().rename(columns={"x": "y"}), "pandas", r"gave True \(Boolean\), where only Float64"),
        (lambda d: {"y": [1, "b", 2]}, "python", "y can't be made Float64, as declared"),
    ],
)
def test_a_function_that_breaks_its_declaration_is_named(function: Any, mode: str, message: str) -> None:
    own = view(function, "python", singleton=True) if mode == "singleton" else view(function, mode)
    with pytest.raises(InputError, match=message):
        own.compute(pl.DataFrame({"x": [1.0, 2.0, None]}))


@pytest.mark.parametrize(
    ("column", "kind", "message"),
    [
        (
            [1.9],
            pl.Int64(),
            r"view v: x has 1.9 \(Float64\), where only whole numbers \(Int64\) may stand, as declared",
        ),
        (["abc"], pl.Float64(), r"view v: x has 'abc' \(String\), where only Float64 may stand, as declared"),
        ([True], pl.Int64(), r"view v: x has True \(Boolean\), where only whole numbers"),
    ],
)
def test_what_a_function_gets_is_not_cut_to_fit(column: list[Any], kind: pl.DataType, message: str) -> None:
    own = replace(view(lambda f: f.rename(columns={"x": "y"})), request={"x": kind})
    with pytest.raises(InputError, match=message):
        own.compute(pl.DataFrame({"x": column}))


def test_what_fits_is_given_as_it_is_declared() -> None:
    own = replace(view(lambda d: {"y": d["x"]}, "python"), request={"x": pl.Float64()})
    for column in ([1, None], [Decimal("1.5"), None], pl.Series([1.5, None], dtype=pl.Float32), [None, None]):
        assert own.compute(pl.DataFrame({"x": column}))["y"].to_list() == list(column)


def test_whole_numbers_are_not_made_of_others_and_come_as_floats_where_some_are_missing() -> None:
    rows = pl.DataFrame({"x": [1.0, 2.5, None]})
    own = view(lambda f: f.rename(columns={"x": "y"}), kind=pl.Int64())
    with pytest.raises(
        InputError, match=r"gave 2.5 \(Float64\), where only whole numbers \(Int64\) may stand in y, as"
    ):
        own.compute(rows)
    assert own.compute(pl.DataFrame({"x": [1.0, 2.0, None]}))["y"].to_list() == [1, 2, None]


def test_rows_that_the_function_sorted_find_their_places_again() -> None:
    made = view(lambda f: f.sort_values("x").rename(columns={"x": "y"})).compute(pl.DataFrame({"x": [3.0, 1.0, 2.0]}))
    assert made["y"].to_list() == [3.0, 1.0, 2.0]


def test_no_rows_need_no_function() -> None:
    made = view(lambda f: f["z"]).compute(pl.DataFrame({"x": []}, schema={"x": pl.Float64}))
    assert made.schema == {"y": pl.Float64()}
