"""A view whose definition changed is materialized anew: never another definition's values."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from features import repository, servers
from features.test_online_stores import YAML

from hotlap import features
from hotlap.cli.main import run
from hotlap.errors import InputError, Refusal
from hotlap.features import made_as, materialize

pytestmark = pytest.mark.slow

NOW = datetime.now(UTC) - timedelta(hours=5)
EMBEDDED = "{type: hotlap.features.EmbeddedOnlineStore, path: data/online.db}"
DEFINITION = """
from datetime import timedelta
from feast import Entity, FeatureView, Field, FileSource
from feast.types import Float64, Int64, String
from feast.value_type import ValueType

one = Entity(name="one", join_keys=["k"], value_type=ValueType.INT64)
source = lambda name, path: FileSource(name=name, path=path, timestamp_field="at")
kept = FeatureView(name="kept", entities=[one], schema=[Field(name="f", dtype=Int64)],
                   source=source("kept", "data/v.parquet"))
v = FeatureView(name="v", entities=[one], ttl=timedelta(days=DAYS), schema=[FIELDS], source=source("v", "data/SOURCE"))
"""


def define(repo: Path, *fields: str, source: str = "v.parquet", days: int = 2) -> Any:
    named = ", ".join(f'Field(name="{one[0]}", dtype={one[2:]})' for one in fields)
    text = DEFINITION.replace("FIELDS", named).replace("SOURCE", source).replace("DAYS", str(days))
    (repo / "definitions.py").write_text(text)
    shutil.rmtree(repo / "__pycache__", ignore_errors=True)  # two definitions of one second and size
    return features.apply(repo)["changed"]


@pytest.fixture(params=["sqlite", "embedded", "redis", "postgres"])
def changing(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("STORE_PASSWORD", servers.PASSWORD)
    (tmp_path / "data").mkdir()
    rows = pl.DataFrame({"k": [1, 2, 3], "at": [NOW] * 3, "f": [1, 2, 3], "g": [10, 20, 30]})
    rows.write_parquet(tmp_path / "data/v.parquet")
    older = rows.head(2).with_columns(pl.col("at") - timedelta(hours=1), pl.col("f") * 1000)
    older.write_parquet(tmp_path / "data/older.parquet")

    def made(online: str) -> Path:
        (tmp_path / "feature_store.yaml").write_text((repository.CONFIG % "").replace(repository.SQLITE, online))
        define(tmp_path, "f:Int64")
        features.open(tmp_path, timeout_s=10).materialize()
        return tmp_path

    if request.param in ("sqlite", "embedded"):
        yield made(EMBEDDED if request.param == "embedded" else repository.SQLITE)
        return
    with getattr(servers, request.param)() as (port, _):
        yield made(YAML[request.param] % port)


def online(repo: Path, *refs: str) -> list[dict[str, Any]]:
    got = features.open(repo, timeout_s=10).online({"k": [1, 2, 3]}, list(refs), full_feature_names=True)
    return got.table.drop(["k"]).to_pylist()


def test_a_changed_view_holds_only_what_its_definition_says(changing: Path) -> None:
    def materialized() -> Any:
        return features.open(changing, timeout_s=10).materialize()["views"]["v"]

    assert define(changing, "f:Int64", "g:Int64") == {"feature views": ["v"]}
    assert (materialized()["anew"], materialized()["anew"]) == (True, False)
    assert online(changing, "v:f", "v:g") == [{"v__f": one, "v__g": 10 * one} for one in (1, 2, 3)]
    define(changing, "f:Int64", "g:Int64", source="older.parquet")
    assert materialized()["rows"] == 2
    assert online(changing, "v:f", "kept:f") == [
        {"v__f": 1000, "kept__f": 1}, {"v__f": 2000, "kept__f": 2}, {"v__f": None, "kept__f": 3}
    ]  # fmt: skip
    define(changing, "f:Float64", source="older.parquet")
    with pytest.raises(Refusal, match="materialize its view again"):
        online(changing, "v:f")
    materialized()
    assert online(changing, "v:f") == [{"v__f": 1000.0}, {"v__f": 2000.0}, {"v__f": None}]


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    at = [NOW - timedelta(hours=hours) for hours in (0, 100)]
    pl.DataFrame({"k": [1, 2], "at": at, "f": [1, 2]}).write_parquet(tmp_path / "data/v.parquet")
    config = (repository.CONFIG % "").replace(repository.SQLITE, EMBEDDED)
    (tmp_path / "feature_store.yaml").write_text(config)
    define(tmp_path, "f:Int64")
    return tmp_path


def test_a_longer_time_to_live_brings_older_rows(plain: Path) -> None:
    assert features.open(plain).materialize(["v"])["views"]["v"]["rows"] == 1
    assert define(plain, "f:Int64", days=9) == {"feature views": ["v"]}
    assert features.open(plain).materialize(["v"])["views"]["v"]["rows"] == 2
    assert define(plain, "f:Int64", days=9) == {}
    assert features.open(plain).materialize(["v"])["views"]["v"]["rows"] == 0


def test_a_view_of_which_nothing_was_kept_is_done_from_its_start(
    plain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Materialized by plain Feast, or before this was kept; where apply sees it change, as any other."""
    place = made_as.place(plain / "data/registry.db", "taxi", "v")
    features.open(plain).materialize(["v"])
    place.with_suffix(".json").unlink()
    assert run(["features", "materialize", "--repo", str(plain)]) == 0
    assert "from its start, since Feast, which filled it, keeps not by which definition" in capsys.readouterr().out
    place.with_suffix(".json").unlink()
    define(plain, "f:Float64")
    assert features.open(plain).materialize(["v"])["views"]["v"]["anew"]
    assert online(plain, "v:f")[0] == {"v__f": 1.0}


def test_what_changed_is_kept_until_it_was_done_from_the_start_and_up_to_where_it_was(plain: Path) -> None:
    features.open(plain).materialize(["v"])
    define(plain, "f:Float64")
    assert not features.open(plain).materialize(["v"], start=datetime.now(UTC))["views"]["v"]["anew"]
    told = features.open(plain).materialize(["v"], end=NOW - timedelta(hours=1))["views"]["v"]
    assert (told["anew"], told["rows"]) == (True, 1)
    assert online(plain, "v:f")[0] == {"v__f": 1.0}


def test_the_commands_say_what_changed(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features.open(plain).materialize(["v"])
    text = (plain / "definitions.py").read_text()
    (plain / "definitions.py").write_text(text.replace("days=2", "days=10"))
    assert run(["features", "apply", "--repo", str(plain)]) == 0
    assert "changed feature views: v; `hotlap features materialize` writes their values anew" in capsys.readouterr().out
    assert run(["features", "materialize", "--repo", str(plain), "--view", "v"]) == 0
    assert "from its start, since its definition changed" in capsys.readouterr().out


class Stopped(Exception):
    pass


def test_no_rows_stay_of_a_run_that_was_killed_before_the_definition_became_another(plain: Path) -> None:
    """Of the first run, and of one that was to replace the rows of the definition that it then becomes again."""
    times = {"v.parquet": NOW, "older.parquet": NOW - timedelta(hours=1)}
    for name, at in times.items():
        keys = range(40 if name == "v.parquet" else 5)
        pl.DataFrame({"k": keys, "at": [at] * len(keys), "f": keys}).write_parquet(plain / "data" / name)

    def stop(view: str, through: int, shares: int) -> None:
        raise Stopped

    for _ in range(2):
        define(plain, "f:Int64")
        with pytest.raises(Stopped):
            materialize.run(features.open(plain), ["v"], share_rows=2, progress=stop)
        define(plain, "f:Int64", source="older.parquet")
        features.open(plain).materialize(["v"])
        got = features.open(plain).online({"k": list(range(40))}, ["v:f"])
        assert got.status("f") == ["present"] * 5 + ["missing"] * 35
        assert set(got.events["v"][:5]) == {int(times["older.parquet"].timestamp() * 1e6)}


RULES = """
import pandera.polars as pa
import polars as pl

rules = {"v": pa.DataFrameSchema({"f": pa.Column(pl.Int64, pa.Check.le(40))})}
"""


def test_a_broken_rule_is_found_before_any_share_is_written(plain: Path) -> None:
    (plain / "rules.py").write_text(RULES)
    rows = pl.DataFrame({"k": range(42), "at": [NOW] * 42, "f": range(42)})
    rows.write_parquet(plain / "data/v.parquet")
    store = features.open(plain)
    with pytest.raises(InputError, match=r"in 1 of \d+ rows: k=41, at=2\S* \S+ \(41\); nothing was written"):
        materialize.run(store, ["v"], share_rows=5)
    assert store.online({"k": list(range(42))}, ["v:f"]).status("f") == ["missing"] * 42
    rows.head(41).write_parquet(plain / "data/v.parquet")
    assert materialize.run(store, ["v"], share_rows=5)["views"]["v"]["rows"] == 41


def test_bytes_keys_are_split_into_shares(plain: Path) -> None:
    text = (plain / "definitions.py").read_text().replace("ValueType.INT64", "ValueType.BYTES")
    (plain / "definitions.py").write_text(text.replace("from feast import", "import feast\nfrom feast import"))
    rows = pl.DataFrame({"k": [bytes([255, one]) for one in range(40)], "at": [NOW] * 40, "f": range(40)})
    rows.write_parquet(plain / "data/v.parquet")
    features.apply(plain)
    store = features.open(plain)
    assert materialize.run(store, ["v"], share_rows=5)["views"]["v"]["rows"] == 40
    assert store.online({"k": rows["k"].to_list()}, ["v:f"]).table["f"].to_pylist() == list(range(40))


def test_no_views_are_told(plain: Path) -> None:
    text = (plain / "definitions.py").read_text().replace("entities=[one],", "entities=[one], online=False,")
    (plain / "definitions.py").write_text(text)
    features.apply(plain)
    with pytest.raises(InputError, match="no views with online=True are registered; define them, and run `hotlap fea"):
        features.open(plain).materialize()
