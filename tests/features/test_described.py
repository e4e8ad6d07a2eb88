"""What an artifact keeps of a repository's definitions, and how a change of them is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from features import repository

from hotlap import features
from hotlap.artifact.stored import StoredFeature
from hotlap.core import Signature, TensorSpec, to_json
from hotlap.errors import InputError, Refusal
from hotlap.features import described
from hotlap.workload.features import read_features

WANTED = read_features({"x": ["trips:rate", ("weather:rain", 0.0)], "n": [("trips:count", -1)]})


def applied(folder: Path, text: str) -> Path:
    """A repository of these definitions, without data, registered in this process."""
    from feast import FeatureStore

    (folder / "feature_store.yaml").write_text(repository.CONFIG % "")
    (folder / "data/weather").mkdir(parents=True)
    pl.DataFrame(
        {"at": [repository.START], "driver_id": [1], "n": [1], "rate": [0.5], "made": [repository.START]}
    ).write_parquet(folder / "data/trips.parquet")
    defined: dict[str, Any] = {}
    exec(text, defined)
    FeatureStore(str(folder)).apply([defined[name] for name in ("driver", "city", "trips", "weather")])
    return folder


def signature(x: str = "float32", n: str = "int64") -> Signature:
    return Signature(
        inputs=(TensorSpec(name="x", dtype=x, shape=("batch", 2)), TensorSpec(name="n", dtype=n, shape=("batch",))),
        outputs=(TensorSpec(name="y", dtype="float32", shape=("batch",)),),
        input_kind="tuple",
        output_tree=0,
    )


def test_what_is_kept_is_what_the_repository_defines(repo: Path) -> None:
    store = features.open(repo)
    found = described.describe(store, WANTED)
    assert found.inputs == {"x": ("trips:rate", "weather:rain"), "n": ("trips:count",)}
    trips, weather = found.views["trips"], found.views["weather"]
    lineage = store.training(repository.asked(1), "both").report["lineage"]["views"]
    assert {view["view"]: view["definition"] for view in lineage} == {
        "trips": trips.definition,
        "weather": weather.definition,
    }
    assert (trips.keys, trips.ttl_seconds, trips.source) == (("driver_id",), 172800.0, "data/trips.parquet")
    assert (weather.keys, weather.ttl_seconds, weather.event, weather.created) == (("city",), None, "at", None)
    assert trips.features == {
        "rate": StoredFeature(type="Float64", fill=None),
        "count": StoredFeature(type="Int64", fill=-1),
    }
    described.check_types(found, signature())
    described.require_same(store, found)


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"x": ["trip:rate"]}, "no view 'trip' .in 'trip:rate'.; there are scores, trips, weather"),
        ({"x": ["trips:rates"]}, "view trips has no feature 'rates'; it has rate, count"),
    ],
)
def test_what_is_not_there_is_named(repo: Path, wanted: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        described.describe(features.open(repo), read_features(wanted))


def test_a_type_that_an_input_cannot_hold_is_named(repo: Path) -> None:
    found = described.describe(features.open(repo), WANTED)
    with pytest.raises(InputError, match="trips:count is Int64, which can't become input 'n' of int32"):
        described.check_types(found, signature(n="int32"))
    with pytest.raises(InputError, match="trips:rate is Float64, which can't become input 'x' of int64"):
        described.check_types(found, signature(x="int64"))


def test_as_a_call_it_gives_what_a_manifest_holds(repo: Path) -> None:
    asked = {name: [to_json(one) for one in columns] for name, columns in WANTED.items()}
    given = {"repo": str(repo), "features": asked}
    stored = described.describe(features.open(repo), WANTED).to_json()
    assert described.of_workload({}, **given, signature=to_json(signature())) == stored
    assert described.of_workload({}, **given, signature=None) == json.loads(json.dumps(stored))
    with pytest.raises(InputError, match="which can't become input 'x' of int8"):
        described.of_workload({}, **given, signature=to_json(signature(x="int8")))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("ttl=timedelta(days=2)", "ttl=timedelta(days=1)", "view trips .its ttl was 172,800 s and is 86,400 s"),
        ('Field(name="rain", dtype=Float64)', 'Field(name="rain", dtype=Int64)', "rain was Float64 and is Int64"),
        ('Field(name="rain", dtype=Float64)', 'Field(name="wet", dtype=Float64)', "feature rain is gone"),
        ('created_timestamp_column="made", field', "field", "its created time was made and is none"),
        ('{"n": "count"}', '{"n": "count", "o": "p"}', "something of its definition that the model does not take"),
    ],
)
def test_a_changed_view_is_refused_by_what_changed(repo: Path, tmp_path: Path, old: str, new: str, told: str) -> None:
    stored = described.describe(features.open(repo), WANTED)
    text = repository.DEFINITIONS
    assert old in text
    other = applied(tmp_path, text.replace(old, new))
    with pytest.raises(Refusal, match=rf"trained on other definitions: .*{told}.*put the definition back in"):
        described.require_same(features.open(other), stored)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('name="rain", dtype', 'name="rain", description="mm", tags={"a": "b"}, dtype'),
        ('Entity(name="city"', 'Entity(name="town"'),
    ],
)
def test_tags_descriptions_and_entities_names_are_no_definition(repo: Path, tmp_path: Path, old: str, new: str) -> None:
    stored = described.describe(features.open(repo), WANTED)
    assert old in repository.DEFINITIONS
    other = applied(tmp_path, repository.DEFINITIONS.replace(old, new))
    described.require_same(features.open(other), stored)


def test_a_function_whose_inputs_are_looked_up_by_other_keys_is_another(tmp_path: Path) -> None:
    function = """
from feast.on_demand_feature_view import on_demand_feature_view

given = [trips]

@on_demand_feature_view(sources=given, mode="python", schema=[Field(name="twice", dtype=Float64)])
def twice(inputs):
    return {"twice": [rate and rate * 2 for rate in inputs["rate"]]}
"""
    repo = repository.write(tmp_path, more=function, rows=50)
    stored = described.describe(features.open(repo), read_features({"x": ["twice:twice"]}))
    described.require_same(features.open(repo), stored)
    definitions = repo / "definitions.py"
    text = definitions.read_text()
    assert text.count("given = [trips]") == 1
    renamed = 'given = [trips.with_join_key_map({"driver_id": "rider_id"})]'
    definitions.write_text(text.replace("given = [trips]", renamed))
    features.apply(repo)
    with pytest.raises(Refusal, match="trained on other definitions: view twice"):
        described.require_same(features.open(repo), stored)


def test_a_function_of_very_many_views_is_told_in_a_text_that_a_manifest_takes() -> None:
    inputs = [f"a_view_with_a_long_name_{place} as 0123456789abcdef" for place in range(60)]
    told = described._shortened(inputs)
    assert len(told) < 900
    assert told.endswith(" more")
    assert told.count(" as ") + int(told.split()[-2]) == 60
    assert described._shortened(inputs[:2]) == ", ".join(inputs[:2])
