"""The stored features in a manifest: read back as written, anything else refused by name, changes told in words."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from artifact.test_manifest import WRONG, changed, places
from tiny_artifact import SIGNATURE, make, reseal

import hotlap
from hotlap.artifact import manifest, stored
from hotlap.artifact.stored import StoredFeature, StoredFeatures, StoredView
from hotlap.cli.main import run
from hotlap.errors import ArtifactRefused

WEATHER = StoredView(
    definition="a" * 64,
    keys=("origin",),
    ttl_seconds=7200.0,
    source="data/weather.parquet",
    event="at",
    created="made",
    features={
        "temp": StoredFeature(type="Float64", fill=0.5),
        "wind": StoredFeature(type="Float32", fill=None),
        "calm": StoredFeature(type="Bool", fill=1),
    },
)
AIRPORT = replace(
    WEATHER, definition="b" * 64, keys=(), ttl_seconds=None, created=None,
    features={"delay": StoredFeature(type="Int64", fill=-3)},
)  # fmt: skip
FEATURES = StoredFeatures(
    inputs={"x": ("weather:wind", "weather:temp", "airport:delay", "weather:calm")},
    views={"weather": WEATHER, "airport": AIRPORT},
)


@pytest.fixture(scope="module")
def artifact(built, tmp_path_factory):
    return make(tmp_path_factory.mktemp("stored") / "artifact", "onnxruntime", built["onnxruntime"], features=FEATURES)


@pytest.fixture(scope="module")
def data(artifact) -> bytes:
    return (artifact / "manifest.json").read_bytes()


def test_read_back_as_written(data, artifact):
    assert manifest.parse(data).features == FEATURES
    assert manifest.parse(data).to_bytes() == data
    assert hotlap.load(artifact).manifest.features == FEATURES
    assert FEATURES.references == FEATURES.inputs["x"]


def test_the_longest_time_to_live_that_feast_can_keep_is_read_back():
    longest = replace(FEATURES, views={**FEATURES.views, "weather": replace(WEATHER, ttl_seconds=315_576_000_000.0)})
    assert stored.parse(longest.to_json(), SIGNATURE) == longest


def test_verify_shows_them(artifact, capsys):
    assert run(["verify", str(artifact), "--json"]) == 3  # the tiny artifact claims no verdict
    assert json.loads(capsys.readouterr().out)["features"] == FEATURES.to_json()
    run(["verify", str(artifact)])
    shown = capsys.readouterr().out
    assert f"weather                 {'a' * 16}  by origin, at most 7,200 s old" in shown
    assert f"airport                 {'b' * 16}  by no key, of any age" in shown
    assert "input x: weather:wind, weather:temp (else 0.5), airport:delay (else -3), weather:calm (else 1)" in shown


ONE = {"type": "Float64", "null": "refuse"}


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("features", [], "features is a list, not an object"),
        ("features", {"inputs": {}}, "features has no 'views'"),
        ("features.more", 1, "features has 'more', which this format does not know"),
        ("features.views", {}, "features.views has 0 views"),
        ("features.views.weather.digest", "", "has 'digest', which this format does not know"),
        ("features.views.weather.definition", "A" * 64, "definition is 'A+', not 64 hexadecimal digits"),
        ("features.views.weather.ttl_seconds", -1, "ttl_seconds is -1, not a number from 0"),
        ("features.views.weather.ttl_seconds", True, "ttl_seconds is True, not a number"),
        ("features.views.weather.keys", "origin", "keys is 'origin', not a list"),
        ("features.views.weather.keys", ["a\x1b[2J"], "keys is 'a.x1b.2J', not at most 200 printable"),
        ("features.views.weather.source", "x" * 1001, "source is 'x+, not at most 1000 printable"),
        ("features.views.weather.features.temp", {"type": "Float64"}, "has no 'null'"),
        ("features.views.weather.features.temp.type", "String", "type is 'String'; it may be Bool, Float32"),
        ("features.views.weather.features.temp.null", "default", "null is 'default'; it may be 'refuse' or a number"),
        ("features.views.weather.features.temp.null", None, "null is None; it may be 'refuse' or a number"),
        ("features.views.weather.features.temp.null", 10**400, "null is 1000.*; it may be 'refuse' or a number"),
        ("features.views.weather.features.temp.null", 1e39, "no float32 can hold 1e.39, the null of 'weather:temp'"),
        ("features.views.weather.features.more", ONE, "has 'weather:more', which features.inputs does not name"),
        ("features.views.idle", {**json.loads(json.dumps(FEATURES.to_json()))["views"]["airport"], "features": {}},
         "has 'idle:', which features.inputs does not name"),
        ("features.inputs", {}, "features.inputs is empty"),
        ("features.inputs", {"y": ["weather:temp"]}, "names 'y', which is no input of the signature"),
        ("features.inputs.x", [], "has 0 features, not 1 to 10,000"),
        ("features.inputs.x", ["weather:temp"] * 4, "names a feature twice"),
        ("features.inputs.x", ["weather:temp", "weather:wind", "airport:delay"], "takes 4 features; 3 are named"),
        ("features.inputs.x.0", "wind", "holds 'wind', which is not view:feature"),
        ("features.inputs.x.0", "weather:other", "holds 'weather:other', which features.views lacks"),
        ("features.inputs.x.0", "other:wind", "holds 'other:wind', which features.views lacks"),
        ("features.inputs.x.0", {"weather": "wind"}, "is an object, not at most 200 printable characters"),
        ("signature.inputs.0.dtype", "int64", "'weather:wind' is Float32, which no int64 can hold"),
        ("signature.inputs.0.shape", [2, 4], "its axis 0 must be the batch"),
        ("signature.inputs.0.shape", ["batch", "n"], r"it must be \[batch\] or \[batch, number of features\]"),
    ],
)  # fmt: skip
def test_wrong_fields_are_refused_by_name(data, path, value, reason):
    with pytest.raises(ArtifactRefused, match=f"manifest.json: .*{reason}"):
        manifest.parse(changed(data, path, value))


def test_any_field_may_hold_anything_without_a_crash(data):
    for path in places(json.loads(data)):
        if not path.startswith("features"):
            continue
        for value in (*WRONG, 10**400, float("inf"), "refuse", "a:b"):
            try:
                found = manifest.parse(changed(data, path, value))
            except ArtifactRefused as error:
                assert str(error).startswith("manifest.json")  # noqa: PT017
                assert str(error).isprintable()  # noqa: PT017
            else:
                assert manifest.parse(found.to_bytes()) == found


def test_an_attackers_manifest_is_refused_when_it_is_loaded(artifact, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(artifact, copy)
    reseal(copy, lambda found: found["features"]["views"]["weather"]["features"]["temp"].update(null="x\x1b[31m"))
    with pytest.raises(ArtifactRefused, match="it may be 'refuse' or a number"):
        hotlap.load(copy)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "a further feature, a mapping, an option"),
        ({"ttl_seconds": 60.0}, "its ttl was 7,200 s and is 60 s"),
        ({"ttl_seconds": None}, "its ttl was 7,200 s and is none"),
        ({"keys": ("origin", "dest")}, "its keys were origin and is origin, dest"),
        ({"source": "other.parquet"}, "its source was data/weather.parquet and is other.parquet"),
        ({"created": None}, "its created time was made and is none"),
        ({"features": {"temp": StoredFeature(type="Float32", fill=0.5)}},
         "feature temp was Float64 and is Float32, feature wind is gone, feature calm is gone"),
        ({"features": {**WEATHER.features, "wind": StoredFeature(type="Float32", fill=2.5)}},
         "wind's null rule was refuse and is 2.5"),
    ],
)  # fmt: skip
def test_what_changed_is_named(changes, told):
    now = replace(WEATHER, definition="c" * 64, **changes)
    assert stored.changed({"weather": WEATHER}, {"weather": WEATHER}) == []
    (phrase,) = stored.changed({"weather": WEATHER}, {"weather": now})
    assert phrase.startswith("view weather (")
    assert told in phrase
    assert stored.changed({"weather": WEATHER}, {}) == ["view weather (it is gone)"]


def test_features_must_fit_the_signature_they_are_written_with():
    assert stored.parse(FEATURES.to_json(), SIGNATURE) == FEATURES
