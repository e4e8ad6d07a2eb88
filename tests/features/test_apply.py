"""Applying: what the files define, and nothing that the registry holds."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from feast import FeatureStore
from feast.protos.feast.core.Registry_pb2 import Registry
from features import repository
from features.test_registry import poisoned  # noqa: F401 - a fixture

from hotlap import features
from hotlap.errors import InputError, StoreDown
from hotlap.features import registry

pytestmark = pytest.mark.slow


@pytest.fixture
def bare(repo: Path, tmp_path: Path) -> Path:
    """A repository as it is written, before anybody applied it."""
    shutil.copytree(repo, tmp_path / "repo")
    for name in ("registry.db", "online.db"):
        (tmp_path / "repo/data" / name).unlink()
    return tmp_path / "repo"


def test_applied_it_is_as_feast_applies_it(bare: Path, repo: Path) -> None:
    told = features.apply(bare)
    assert told["applied"]["feature views"] == ["scores", "trips", "weather"]
    assert told["deleted"] == {}
    ours, theirs = FeatureStore(str(bare)), FeatureStore(str(repo))
    assert {one.name: one for one in ours.list_entities()} == {one.name: one for one in theirs.list_entities()}
    for view in theirs.list_feature_views():
        assert ours.get_feature_view(view.name) == view
    assert ours.get_feature_service("both") == theirs.get_feature_service("both")
    features.open(bare).materialize(end=repository.END)
    got = features.open(bare).online({"driver_id": [3]}, ["trips:rate"], at=repository.END)
    assert got.status("rate") == ["present"]


def test_applied_twice_nothing_changes_and_what_was_materialized_stays(bare: Path) -> None:
    features.apply(bare)
    features.open(bare).materialize(["trips"], end=repository.END)
    features.apply(bare)
    until = registry.materialized_until(bare / "data/registry.db", "taxi", "trips")
    assert until is not None
    assert until.replace(tzinfo=None) == repository.END


def test_a_push_views_definition_stays_the_same_until_it_is_changed(bare: Path) -> None:
    pushed = """
from feast import PushSource

pushed = FeatureView(
    name="pushed", entities=[driver], schema=[Field(name="rate", dtype=Float64)],
    source=PushSource(name="push", description="as told", batch_source=FileSource(
        path="data/trips.parquet", timestamp_field="at", description="as told"
    )),
)
"""

    def apply(text: str) -> dict[str, list[str]]:
        (bare / "definitions.py").write_text(f"{before}{text}")
        changed: dict[str, list[str]] = features.apply(bare)["changed"]
        return changed

    before = (bare / "definitions.py").read_text()
    apply(pushed)
    assert apply(pushed) == {}
    assert apply(pushed.replace("as told", "otherwise")) == {}
    assert apply(pushed.replace('field="at"', 'field="made"')) == {"feature views": ["pushed"]}


def test_what_another_project_has_in_the_same_registry_stays(bare: Path) -> None:
    """Its views with code in them are left out when the registry is read, and are there all the same."""
    features.apply(bare)
    path = bare / "data/registry.db"
    before: Any = registry.read(path)
    before.projects.add().spec.name = "other"
    for section in ("on_demand_feature_views", "stream_feature_views", "feature_views"):
        one = getattr(before, section).add()
        one.spec.name, one.spec.project = "trips", "other"
    before.feature_views[-1].spec.batch_source.data_source_class_type = "theirs.Source"
    path.write_bytes(before.SerializeToString())
    for _ in range(2):
        features.apply(bare)
    after: Any = registry.read(path)
    assert after.on_demand_feature_views == before.on_demand_feature_views
    assert after.stream_feature_views == before.stream_feature_views
    assert [one for one in after.feature_views if one.spec.project == "other"] == [before.feature_views[-1]]
    assert len(after.feature_views) == len(before.feature_views)
    store = features.open(bare)
    assert store.left_out == {}
    assert store.training(repository.asked(5), ["trips:rate"]).read().num_rows == 5


def test_what_no_file_defines_any_more_is_dropped(bare: Path) -> None:
    features.apply(bare)
    path = bare / "definitions.py"
    kept = path.read_text().split("scores = FeatureView")[0]
    path.write_text(kept + 'service = FeatureService(name="both", features=[trips, weather])\n')
    told = features.apply(bare)
    assert told["deleted"] == {"feature views": ["scores"]}
    with pytest.raises(InputError, match="no view 'scores'"):
        features.open(bare).online({"driver_id": [1], "city": ["Oslo"]}, ["scores:rate"])
    with sqlite3.connect(bare / "data/online.db") as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    connection.close()
    assert tables == {"taxi_trips", "taxi_weather"}


def test_nothing_of_a_registry_is_run_and_validation_references_stay(poisoned: Path, tmp_path: Path) -> None:  # noqa: F811
    path = poisoned / "data/registry.db"
    proto: Any = Registry.FromString(path.read_bytes())
    proto.validation_references.add(name="kept", project="taxi")
    path.write_bytes(proto.SerializeToString())
    features.apply(poisoned)
    assert not (tmp_path / "mark").exists()
    after: Any = registry.read(path)
    assert [one.name for one in after.validation_references] == ["kept"]
    assert [one.spec.name for one in after.on_demand_feature_views] == ["doubled"]
    assert {one.spec.name for one in after.feature_views} == {"trips", "weather", "scores"}
    assert features.open(poisoned).left_out == {}


HOSTILE = """
from definitions import driver
from feast import FeatureView, Field, FileSource
from feast.types import Float64
view = FeatureView(
    name='x"; DROP TABLE taxi_trips; --', entities=[driver], schema=[Field(name="it's; rate", dtype=Float64)],
    source=FileSource(path="data/trips.parquet", timestamp_field="at", field_mapping={"rate": "it's; rate"}),
)
"""


def test_hostile_names_of_views_and_features_are_only_names(bare: Path) -> None:
    (bare / "hostile.py").write_text(HOSTILE)
    features.apply(bare)
    features.open(bare).materialize(end=repository.END)
    got = features.open(bare).online(
        {"driver_id": [3]}, ["x\"; DROP TABLE taxi_trips; --:it's; rate", "trips:rate"], at=repository.END
    )
    assert got.table["it's; rate"].to_pylist() == got.table["rate"].to_pylist()
    assert got.status("rate") == ["present"]


def test_a_function_that_changed_while_the_process_runs_is_another(bare: Path) -> None:
    texts = []
    for factor in ("2", "30"):
        function = repository.FUNCTION.replace('inputs["rate"] * 2', f'inputs["rate"] * {factor}')
        (bare / "definitions.py").write_text(repository.DEFINITIONS + function)
        features.apply(bare)
        texts.append(features.open(bare).on_demand["doubled"].text)
    assert ["* 2}" in texts[0], "* 30}" in texts[1]] == [True, True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no file of the repository defines a FeatureView"),
        ("raise RuntimeError('no')", "definitions.py: importing it raised"),
        (
            repository.DEFINITIONS + "again = Entity(name='driver', join_keys=['driver_id'])\n",
            "entities: driver is defined twice",
        ),
        (
            repository.DEFINITIONS + "from feast import Project\nproject = Project(name='bus')\n",
            "project bus: feature_",
        ),
        (
            repository.DEFINITIONS.replace("ttl=timedelta(days=2)", "ttl=timedelta(hours=-3)"),
            "view trips: its ttl is -10800 s, less than 0; give a longer one, or 0 for values that don't expire",
        ),
        (
            repository.DEFINITIONS.replace('name="rain"', 'name="ra\\0in"'),
            r"'ra\\x00in': a name with a zero byte can't be a table's or a column's; rename it",
        ),
    ],
)
def test_what_cant_be_applied_is_said_and_nothing_is_written(bare: Path, text: str, message: str) -> None:
    (bare / "definitions.py").write_text(text)
    with pytest.raises(InputError, match=message):
        features.apply(bare)
    assert not (bare / "data/registry.db").exists()


def test_a_function_that_ends_the_program_when_feast_tries_it_is_told(bare: Path) -> None:
    more = repository.FUNCTION.replace("    return", "    raise SystemExit(0)\n    return")
    (bare / "definitions.py").write_text(repository.DEFINITIONS + more)
    with pytest.raises(InputError, match=r"view doubled: its function, tried by Feast .* raised SystemExit: 0 .*\.py:"):
        features.apply(bare)


@pytest.mark.parametrize(
    ("online", "kind", "message"),
    [
        (
            "{type: postgres, host: 127.0.0.1, port: 9, database: f, user: u, password: S3CRETpw}",
            StoreDown,
            "online_store postgres can't be had: .*start the server, or give",
        ),
        (
            "{type: sqlite, path: /proc/x/online.db}",
            InputError,
            "online_store sqlite, path /proc/x/online.db: .*name a f",
        ),
        (
            "{type: sqlite, path: data/broken.db}",
            InputError,
            "path data/broken.db: file is not a database; name a file",
        ),
        ('{type: redis, connection_string: "localhost:1,password=${NO_SUCH}"}', InputError, "set NO_SUCH"),
    ],
)
def test_an_online_store_that_cant_be_had_is_told_in_a_sentence(
    bare: Path, online: str, kind: type[Exception], message: str
) -> None:
    (bare / "feature_store.yaml").write_text((repository.CONFIG % "").replace(repository.SQLITE, online))
    (bare / "data/broken.db").write_bytes(b"x" * 5000)
    with pytest.raises(kind, match=message) as told:
        features.apply(bare)
    assert "S3CRETpw" not in str(told.value)


def test_a_source_to_infer_from_that_is_not_there_is_told(bare: Path) -> None:
    text = (bare / "definitions.py").read_text()
    (bare / "definitions.py").write_text(text.replace('path="data/trips.parquet", timestamp_field="at"', 'path="none"'))
    with pytest.raises(InputError, match=r"view trips: .*none does not exist; write it, .*or declare what is taken"):
        features.apply(bare)


def test_a_registry_that_is_a_folder_is_told(bare: Path) -> None:
    (bare / "data/registry.db").mkdir()
    with pytest.raises(InputError, match=r"registry.db: the registry can't be read \(Is a directory\); name a file"):
        features.apply(bare)


def test_a_disk_that_is_full_is_no_reason_to_move_the_store_away(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: Any, **options: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("feast.infra.online_stores.sqlite.SqliteOnlineStore.update", full)
    with pytest.raises(InputError, match=r"path data/online.db: database or disk is full; make room$"):
        features.apply(bare)
