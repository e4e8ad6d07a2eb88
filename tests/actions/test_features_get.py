"""`features get`: what a person and a program read of the online store."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from features import repository

from hotlap import features
from hotlap.cli.main import run

pytestmark = pytest.mark.slow

MORE = """
from feast.types import Array, Bytes, UnixTimestamp

season = FeatureView(
    name="season", entities=[], schema=[
        Field(name="peak", dtype=Float64), Field(name="since", dtype=UnixTimestamp), Field(name="raw", dtype=Bytes),
        Field(name="curve", dtype=Array(Float64)),
    ],
    source=FileSource(path="data/season.parquet", timestamp_field="at"),
)
"""
NAMES = ("peak", "since", "raw", "curve")


@pytest.fixture(scope="module")
def seasonal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a view that has no entities, of values that JSON has no form for."""
    folder = tmp_path_factory.mktemp("seasonal")
    at = datetime.now(UTC) - timedelta(hours=1)
    (folder / "data").mkdir()
    pl.DataFrame(
        {"at": [at], "peak": [float("inf")], "since": [datetime(2026, 3, 1, tzinfo=UTC)], "raw": [b"\xff\x00"],
         "curve": [[0.5, float("nan")]]}
    ).write_parquet(folder / "data/season.parquet")  # fmt: skip
    (folder / "feature_store.yaml").write_text(repository.CONFIG % "")
    definitions = repository.DEFINITIONS.split("trips = FeatureView")[0]
    (folder / "definitions.py").write_text(definitions + MORE)
    features.apply(folder)
    features.open(folder).materialize()
    return folder


def test_a_view_without_entities_needs_no_key(seasonal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = [part for name in NAMES for part in ("--feature", f"season:{name}")]
    assert run(["features", "get", "--repo", str(seasonal), *wanted]) == 0
    assert "Infinity (1.0 h)" in capsys.readouterr().out


def test_what_json_has_no_form_for_is_text(seasonal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = [part for name in NAMES for part in ("--feature", f"season:{name}")]
    assert run(["features", "get", "--repo", str(seasonal), *wanted, "--json"]) == 0

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    (row,) = json.loads(capsys.readouterr().out, parse_constant=refuse)["rows"]
    assert row["keys"] == {}
    assert {name: row["features"][name]["value"] for name in NAMES} == {
        "peak": "Infinity",
        "since": "2026-03-01T00:00:00+00:00",
        "raw": "/wA=",
        "curve": [0.5, "NaN"],
    }


def test_keys_that_cant_be_read_are_said(seasonal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "keys.parquet").write_text("driver_id\n1\n")
    given = ["--repo", str(seasonal), "--feature", "season:peak", "--keys", str(tmp_path / "keys.parquet")]
    assert run(["features", "get", *given]) == 2
    assert "keys.parquet: can't be read as parquet" in capsys.readouterr().err


def test_what_a_repositorys_code_prints_is_not_in_the_json(
    seasonal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(seasonal, tmp_path / "talking")
    with (folder / "definitions.py").open("a") as file:
        file.write("\nprint('hello from the definitions')\n")
    assert run(["features", "apply", "--repo", str(folder), "--json"]) == 0
    said = capsys.readouterr()
    json.loads(said.out)
    assert "hello from the definitions" in said.err
