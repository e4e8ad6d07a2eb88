"""Nothing that a registry holds is run: a blob that would leave a mark never does."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dill
import pytest
from feast import FeatureStore
from feast.protos.feast.core.Registry_pb2 import Registry
from features import repository

from hotlap import features
from hotlap.errors import InputError
from hotlap.features import registry

pytestmark = pytest.mark.slow


class Mark:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[object, ...]:
        return open, (self.path, "w")


@pytest.fixture
def poisoned(tmp_path: Path) -> Path:
    """A repository whose registry holds blobs that leave a mark when they are loaded."""
    repo = repository.write(tmp_path / "repo", more=repository.FUNCTION, rows=100)
    path = repo / "data/registry.db"
    proto = Registry.FromString(path.read_bytes())
    function = proto.on_demand_feature_views[0].spec.feature_transformation.user_defined_function
    assert function.body
    for blob in (function, proto.on_demand_feature_views[0].spec.user_defined_function):
        blob.body = dill.dumps(Mark(tmp_path / "mark"))
        blob.body_text = ""
    view = proto.feature_views[0]
    hidden = proto.feature_views.add()
    hidden.CopyFrom(view)
    hidden.spec.name = "hidden"
    hidden.spec.feature_transformation.user_defined_function.body = function.body
    elsewhere = proto.feature_views.add()
    elsewhere.CopyFrom(view)
    elsewhere.spec.name = "elsewhere"
    elsewhere.spec.batch_source.data_source_class_type = "subprocess.Popen"
    path.write_bytes(proto.SerializeToString())
    return repo


def test_what_a_registry_holds_is_never_run(poisoned: Path, tmp_path: Path) -> None:
    store = features.open(poisoned)
    training = store.training(repository.asked(20), ["trips:rate", "weather:rain"])
    assert training.read().num_rows == 20
    assert sorted(store.left_out) == ["doubled", "elsewhere", "hidden"]
    assert "subprocess.Popen" in store.left_out["elsewhere"]
    with pytest.raises(InputError, match="view doubled is left out: it is computed by a function"):
        store.training(repository.asked(20), ["doubled:double"])
    assert not (tmp_path / "mark").exists()


def test_the_mark_is_left_where_feast_loads_the_registry_itself(poisoned: Path, tmp_path: Path) -> None:
    """Without this the test above could not fail."""
    with contextlib.suppress(Exception):
        FeatureStore(str(poisoned)).list_on_demand_feature_views()
    assert (tmp_path / "mark").exists()


def test_a_store_that_was_opened_to_read_changes_no_registry(repo: Path) -> None:
    store = features.open(repo)
    before = (repo / "data/registry.db").read_bytes()
    with pytest.raises(InputError, match="opened to read"):
        store.feast.delete_feature_view("trips")
    assert (repo / "data/registry.db").read_bytes() == before


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        (None, "no feature_store.yaml there"),
        ("", r"feature_store.yaml is empty; write settings by name"),
        ("- project: taxi\n", r"feature_store.yaml holds a list; write settings by name"),
        (
            "registry: {path: '${NOT_SET_HERE}/r.db'}\n",
            r"registry.path takes \$\{NOT_SET_HERE\} from the environment, which",
        ),
        ("project: taxi\nprovider: local\nregistry: r.db\n", "no offline_store; set"),
        ("project: taxi\nprovider: local\nregistry: s3://bucket/r.db\n", "only one in a local file is opened"),
        (repository.CONFIG % "", "no registry there; run `hotlap features apply`"),
        (repository.CONFIG % ", known: true", "not a valid configuration"),
    ],
)
def test_a_repository_that_cant_be_opened_says_why(tmp_path: Path, yaml: str | None, message: str) -> None:
    if yaml is not None:
        (tmp_path / "feature_store.yaml").write_text(yaml)
    with pytest.raises(InputError, match=message):
        features.open(tmp_path)


def test_credentials_are_not_in_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORE_PASSWORD", "hunter2")
    store = 'type: sqlite, path: data/online.db, password: "${STORE_PASSWORD}"'
    yaml = (repository.CONFIG % "").replace("type: sqlite, path: data/online.db", store)
    (tmp_path / "feature_store.yaml").write_text(yaml)
    with pytest.raises(InputError, match="not a valid configuration") as caught:
        features.open(tmp_path)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("secret", ['hunter2" x', '"hunter2: [', "*hunter2"])
def test_credentials_that_are_no_yaml_are_not_in_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    """A parser's message quotes the line, and what it made of it."""
    monkeypatch.setenv("STORE_PASSWORD", secret)
    quote = "" if secret.startswith("*") else '"'
    store = f"type: sqlite, path: data/online.db, password: {quote}${{STORE_PASSWORD}}{quote}"
    yaml = (repository.CONFIG % "").replace("type: sqlite, path: data/online.db", store)
    (tmp_path / "feature_store.yaml").write_text(yaml)
    with pytest.raises(InputError, match=r"can't be read as YAML from line \d") as caught:
        features.open(tmp_path)
    assert "hunter2" not in str(caught.value)


def test_bytes_that_are_no_registry_are_refused(tmp_path: Path) -> None:
    (tmp_path / "r.db").write_bytes(b"\xff\xff\xffnonsense")
    with pytest.raises(InputError, match="is not a Feast registry"):
        registry.read(tmp_path / "r.db")


def test_a_registry_that_is_a_link_stays_one(repo: Path, tmp_path: Path) -> None:
    """What others reach by the file's own name is what is changed."""
    own = Path(shutil.copytree(repo, tmp_path / "repo"))
    path, shared = own / "data/registry.db", tmp_path / "shared.db"
    path.rename(shared)
    path.symlink_to(shared)
    features.apply(own)
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    registry.note_materialized(path, "taxi", "trips", moment, moment)
    assert path.is_symlink()
    assert registry.materialized_until(shared, "taxi", "trips") == moment


NOTING = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from hotlap.features import registry
path, view, times = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
for number in range(times):
    moment = datetime(2026, 1, 1, 0, 0, number, tzinfo=UTC)
    registry.note_materialized(path, "taxi", view, moment, moment)
"""


@pytest.mark.slow
def test_processes_that_change_a_registry_at_once_lose_nothing(repo: Path, tmp_path: Path) -> None:
    """Two note materializations of two views, while a third applies the definitions again."""
    own = Path(shutil.copytree(repo, tmp_path / "repo"))
    path, python = own / "data/registry.db", [sys.executable, "-W", "ignore"]
    notes = [subprocess.Popen([*python, "-c", NOTING, str(path), view, "40"]) for view in ("trips", "weather")]
    apply = [*python, "-m", "hotlap", "features", "apply", "--repo", str(own), "--quiet"]
    assert subprocess.run(apply, check=False).returncode == 0
    assert [one.wait() for one in notes] == [0, 0]
    held: Any = registry.read(path)
    counts = {one.spec.name: len(one.meta.materialization_intervals) for one in held.feature_views}
    assert counts == {"trips": 40, "weather": 40, "scores": 0}


def test_a_repository_opened_anew_is_as_its_registry_is_now(repo: Path, tmp_path: Path) -> None:
    """Feast keeps lists by id() and version of a registry's proto: an id that is used again gave those of before."""
    mine = Path(shutil.copytree(repo, tmp_path / "repo"))
    path = mine / "data/registry.db"
    whole = path.read_bytes()
    proto: Any = Registry.FromString(whole)
    del proto.feature_views[:]
    without = proto.SerializeToString()
    for _ in range(30):
        for content, count in ((whole, 3), (without, 0)):
            path.write_bytes(content)
            store = features.open(mine)
            assert len(store.feast.registry.list_feature_views(store.feast.project)) == count
            del store


def test_a_negative_time_to_live_in_a_registry_is_named(repo: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(repo, tmp_path / "repo"))
    path = copy / "data/registry.db"
    proto = Registry.FromString(path.read_bytes())
    proto.feature_views[0].spec.ttl.seconds = -10_800
    path.write_bytes(proto.SerializeToString())
    name = proto.feature_views[0].spec.name
    with pytest.raises(InputError, match=f"view {name}: its ttl is -10800 s, less than 0; give a longer one, or 0"):
        features.open(copy)
