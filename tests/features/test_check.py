"""What is planted into a real online store is found at its rate, and a clean one gives none."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from features import repository
from features.repository import END
from features.test_on_demand import FUNCTIONS
from features.test_source import damage

from hotlap import features
from hotlap.cli.main import run
from hotlap.errors import InputError
from hotlap.features import read_log
from hotlap.features.read_log import ReadLog

pytestmark = pytest.mark.slow

REFS = ["trips:rate", "trips:count", "weather:rain"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    (folder / "arithmetic.py").write_text("def half(x):\n    return x / 2\n")
    return repository.materialize(repository.write(folder, more=FUNCTIONS))


@pytest.fixture
def own(served: Path, tmp_path: Path) -> Path:
    """A copy that may be spoiled."""
    return Path(shutil.copytree(served, tmp_path / "repo"))


def keys(rows: int = 400) -> pl.DataFrame:
    asked = repository.asked(rows).select("driver_id", "city")
    return asked.with_columns(fare=pl.Series(np.random.default_rng(1).random(rows)))


def change(repo: Path, statement: str, *values: Any) -> None:
    """Spoil the rows of `trips` in the online store."""
    with sqlite3.connect(repo / "data/online.db") as connection:
        connection.execute(statement.format(table='"taxi_trips"'), values)


def rates(told: Any) -> dict[str, float]:
    return {name: told[name]["estimate"] for name in ("mismatch", "missing", "extra", "stale")}


def test_a_clean_store_gives_zero_for_stored_and_computed_features(served: Path) -> None:
    store = features.open(served)
    wanted = [*REFS, "doubled:double", "priced:cost", "priced:wet", "priced:many", "single:one"]
    found = store.check(wanted, keys=keys(), at=END)
    assert list(found.report["features"]) == wanted
    for told in found.report["features"].values():
        assert rates(told) == {"mismatch": 0, "missing": 0, "extra": 0, "stale": 0}
        assert told["reads"] == 400
        assert 0 < told["both"] < 400
        assert told["examples"] == []
    assert found.report["features"]["priced:wet"]["smape"] is None
    assert found.report["features"]["priced:cost"]["smape"]["estimate"] == 0
    assert found.breaches() == []


def test_an_on_demand_features_age_is_that_of_its_oldest_input(served: Path) -> None:
    read = features.open(served).online(keys(50), ["priced:cost", "trips:rate", "weather:rain"], at=END)
    oldest = np.fmax(read.age("rate"), read.age("rain"))
    there = ~np.isnan(read.age("rate")) & ~np.isnan(read.age("rain"))
    assert read.age("cost")[there].tolist() == oldest[there].tolist()
    assert np.isnan(read.age("cost")[~there]).all()
    assert set(read.views) == {"cost", "rate", "rain"}


@pytest.mark.parametrize("kind", ["mismatch", "missing", "extra", "stale"])
def test_what_is_planted_is_found_at_its_rate(own: Path, kind: str) -> None:
    from feast.protos.feast.types.Value_pb2 import Value

    store = features.open(own)
    asked = keys()
    clean = store.online(asked, ["trips:rate"], at=END).table["rate"].to_pylist()
    drivers = asked["driver_id"].to_list()
    if kind == "extra":
        gone = next(d for d, v in zip(drivers, clean, strict=True) if v is not None)
        trips = own / "data/trips.parquet"
        pl.read_parquet(trips).filter(pl.col("driver_id") != gone).write_parquet(trips)
        spoiled = {gone}
    else:
        spoiled = {d for d, v in zip(drivers, clean, strict=True) if v is not None and d % 4 == 1}
        for driver in spoiled:
            key = store_key(driver)
            if kind == "mismatch":
                blob = Value(double_val=99.5).SerializeToString()
                change(own, "update {table} set value = ? where entity_key = ? and feature_name = 'rate'", blob, key)
            elif kind == "missing":
                change(own, "delete from {table} where entity_key = ?", key)
            else:
                before = END - timedelta(hours=47)
                change(own, "update {table} set event_ts = ? where entity_key = ?", before.isoformat(" "), key)
    found = features.open(own).check(["trips:rate"], keys=asked, at=END)
    told = found.report["features"]["trips:rate"]
    right = sum(d in spoiled and v is not None for d, v in zip(drivers, clean, strict=True)) / len(drivers)
    assert right > 0
    assert rates(told) == {name: right if name == kind else 0.0 for name in rates(told)}
    assert told[kind]["low"] < right < told[kind]["high"]
    assert told["examples"][0]["kinds"] == [kind]
    assert told["examples"][0]["keys"]["driver_id"] in spoiled
    (breach,) = found.breaches()
    assert (breach.feature, breach.figure, breach.estimate) == ("trips:rate", kind, right)


def store_key(driver: int) -> bytes:
    from feast.infra.key_encoding_utils import serialize_entity_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    key = EntityKey(join_keys=["driver_id"], entity_values=[Value(int64_val=driver)])
    return bytes(serialize_entity_key(key, entity_key_serialization_version=3))


def test_a_log_is_replayed_at_its_own_instants(served: Path, tmp_path: Path) -> None:
    store = features.open(served)
    with ReadLog(tmp_path / "log") as log:
        for hours in (0, 10, 30):
            at = END + timedelta(hours=hours)
            store.online(keys(50), REFS, at=at, log=log)
            store.online(keys(20), "asked", at=at, full_feature_names=True, log=log)
    assert (log.left_out, log.error) == (0, "")
    reads = list(read_log.reads(tmp_path / "log"))
    assert [(one.features, len(one.given)) for one in reads] == [(REFS, 150), ("asked", 60)]
    assert reads[0].at.n_unique() == 3
    found = store.check(log=tmp_path / "log")
    told = found.report["features"]
    assert {name: one["reads"] for name, one in told.items()} == {
        "trips:rate": 210, "trips:count": 150, "weather:rain": 150, "doubled:double": 60, "priced:cost": 60
    }  # fmt: skip
    assert found.breaches() == []
    assert len(found.values["trips:rate"]) == 210
    few = store.check(log=tmp_path / "log", sample=40)
    assert sum(one["reads"] for name, one in few.report["features"].items() if name == "trips:rate") == 40


def test_a_service_that_changed_since_is_checked_for_what_both_have(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    with ReadLog(log) as reads:
        features.open(own).online(keys(50), "asked", at=END, log=reads)
    definitions = own / "definitions.py"
    text = definitions.read_text()
    more = """
@on_demand_feature_view(sources=[ask], mode="python", schema=[Field(name="dear", dtype=Float64)])
def dear(inputs):
    return {"dear": [fare * 2 for fare in inputs["fare"]]}

asked = FeatureService(name="asked", features=[trips[["rate"]], doubled, weather, dear])
"""
    definitions.write_text(text + more)
    features.apply(own)
    assert run(["features", "check", "--repo", str(own), "--log", str(log), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["features"].keys() == {"trips:rate", "doubled:double"}
    assert told["not_compared"] == [
        "50 reads of service asked lack weather:rain, dear:dear, which it has now",
        "50 reads of service asked have cost, which it has no more",
    ]
    assert run(["features", "check", "--repo", str(own), "--log", str(log)]) == 0
    assert "not compared: 50 reads of service asked have cost" in capsys.readouterr().out
    definitions.write_text(f"{text}{more}asked = FeatureService(name='asked', features=[weather])")
    features.apply(own)
    with pytest.raises(InputError, match=r"the reads in .*log have no feature to compare, so nothing") as caught:
        features.open(own).check(log=log)
    assert str(caught.value).endswith(
        "give reads made since: 50 reads of service asked lack weather:rain, which it has now; "
        "50 reads of service asked have rate, double, cost, which it has no more"
    )


def test_what_is_made_of_the_request_alone_is_checked(own: Path, tmp_path: Path) -> None:
    more = """
@on_demand_feature_view(sources=[ask], mode="python", schema=[Field(name="dear", dtype=Float64)])
def dear(inputs):
    return {"dear": [fare * 2 for fare in inputs["fare"]]}
"""
    (own / "definitions.py").write_text((own / "definitions.py").read_text() + more)
    features.apply(own)
    store = features.open(own)
    with ReadLog(tmp_path / "log") as log:
        store.online({"fare": [1.0, 2.0]}, ["dear:dear"], log=log)
    for found in (store.check(log=tmp_path / "log"), store.check(["dear:dear"], keys={"fare": [1.0, 2.0]})):
        told = found.report["features"]["dear:dear"]
        assert (told["both"], rates(told)) == (2, {"mismatch": 0, "missing": 0, "extra": 0, "stale": 0})


def test_what_differs_is_json_whatever_it_is(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trips = own / "data/trips.parquet"
    pl.read_parquet(trips).with_columns(rate=pl.lit(float("inf"))).write_parquet(trips)
    given = ["--repo", str(own), "--feature", "trips:rate", "--at", END.isoformat(), "--json"]
    assert run(["features", "check", *given]) == 3
    told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert told["features"]["trips:rate"]["examples"][0]["offline"] == "Infinity"


def test_replaying_history_finds_what_was_late(own: Path, tmp_path: Path) -> None:
    """Read as of an hour for which the source has since got a newer row: stale, unless only what was known counts."""
    store = features.open(own)
    trips = own / "data/trips.parquet"
    late = {"driver_id": 1, "at": END - timedelta(minutes=1), "made": END + timedelta(hours=9), "rate": 1.5, "n": 1}
    with ReadLog(tmp_path / "log") as log:
        store.online({"driver_id": [1]}, ["trips:rate"], at=END, log=log)
    frame = pl.read_parquet(trips)
    pl.concat([frame, pl.DataFrame([late], schema=frame.schema)]).write_parquet(trips)
    told = store.check(log=tmp_path / "log").report["features"]["trips:rate"]
    assert told["stale"]["count"] == 1
    assert store.check(log=tmp_path / "log", known_only=True).report["features"]["trips:rate"]["stale"]["count"] == 0


def test_a_log_never_stands_in_the_way_of_reading(served: Path, tmp_path: Path) -> None:
    store = features.open(served)
    log = ReadLog(tmp_path / "log")
    shutil.rmtree(tmp_path / "log")
    (tmp_path / "log").write_text("no folder any more")
    assert store.online(keys(30), REFS, at=END, log=log).table.num_rows == 30
    log.close()
    assert log.left_out == 30
    assert log.error
    assert store.online(keys(30), REFS, at=END, log=log).table.num_rows == 30
    assert log.left_out == 60


def test_a_log_goes_on_once_it_can_write_again(served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can write among the kernel's files; one that can't be written is counted, as on a full disk."""
    monkeypatch.setattr(read_log, "_FILE_ROWS", 30)
    store = features.open(served)
    folder = tmp_path / "log"
    folder.symlink_to("/proc/self")
    with ReadLog(folder) as log:
        store.online(keys(30), REFS, at=END, log=log)
        until = time.monotonic() + 60
        while not log.left_out and time.monotonic() < until:
            threading.Event().wait(0.01)
        assert (log.left_out, "can't be written" in log.error) == (30, True)
        folder.unlink()
        store.online(keys(20), REFS, at=END, log=log)
    (kept,) = read_log.reads(folder)
    assert (len(kept.given), log.left_out) == (20, 30)


def test_a_log_that_is_behind_leaves_reads_out_and_counts_them(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_log, "_WAITING_ROWS", 100)
    store = features.open(served)
    with ReadLog(tmp_path / "log") as log:
        for _ in range(5):
            store.online(keys(30), REFS, at=END, log=log)
    assert log.left_out == 60
    assert sum(pq.read_metadata(one).num_rows for one in (tmp_path / "log").iterdir()) == 90


def test_a_share_of_the_calls_is_kept(served: Path, tmp_path: Path) -> None:
    store = features.open(served)
    with ReadLog(tmp_path / "log", share=0.3) as log:
        for _ in range(200):
            store.online({"driver_id": [1]}, ["trips:rate"], at=END, log=log)
    (kept,) = read_log.reads(tmp_path / "log")
    assert 30 < len(kept.given) < 95
    with pytest.raises(InputError, match="share 0"):
        ReadLog(tmp_path / "log", share=0)


def test_what_cant_be_checked_says_why(served: Path, tmp_path: Path) -> None:
    store = features.open(served)
    with pytest.raises(InputError, match="either a log of reads, or features"):
        store.check()
    with pytest.raises(InputError, match="no logged reads there"):
        store.check(log=tmp_path / "none")
    with pytest.raises(InputError, match="fare come with a request; give keys"):
        store.check(["priced:cost"])
    (tmp_path / "log").mkdir()
    pl.DataFrame({"x": [1]}).write_parquet(tmp_path / "log/x.parquet")
    with pytest.raises(InputError, match="not a file of logged reads"):
        store.check(log=tmp_path / "log")
    (tmp_path / "log/x.parquet").write_text("cut off")
    with pytest.raises(InputError, match=r"x\.parquet: can't be read as Parquet"):
        store.check(log=tmp_path / "log")
    shutil.rmtree(tmp_path / "log")
    with ReadLog(tmp_path / "log") as log:
        store.online(keys(5), ["trips:rate"], at=END, log=log)
    (written,) = (tmp_path / "log").iterdir()
    damage(written)
    with pytest.raises(InputError, match=r"log: .*\.parquet can't be read \(.*\); write it anew"):
        store.check(log=tmp_path / "log")
    with pytest.raises(InputError, match="a log has its own keys and instants"):
        store.check(log=tmp_path / "log", at=END)


def test_no_reads_are_no_proof(served: Path, tmp_path: Path) -> None:
    store = features.open(served)
    with pytest.raises(InputError, match="no reads in the keys given, so nothing can be said"):
        store.check(["trips:rate"], keys=keys(0), at=END)
    with ReadLog(tmp_path / "log") as log:
        store.online(keys(0), ["trips:rate"], at=END, log=log)
    with pytest.raises(InputError, match=r"no reads in .*log, so nothing can be said"):
        store.check(log=tmp_path / "log")


def test_closing_one_log_leaves_the_others_to_be_written_at_the_end(served: Path, tmp_path: Path) -> None:
    script = f"""
from hotlap import features
store = features.open({str(served)!r})
first, second = (features.ReadLog({str(tmp_path)!r} + "/" + name) for name in ("first", "second"))
first.close()
store.online({{"driver_id": [1]}}, ["trips:rate"], log=second)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True)
    (kept,) = read_log.reads(tmp_path / "second")
    assert len(kept.given) == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max-psi", "0.1"], "--training FILE"),
        (["--max-missing", "5"], "--max-missing 5: give a figure from 0 to 1"),
        (["--max-stale", "nan"], "--max-stale nan: give a figure from 0 to 1"),
        (["--tolerance", "nan"], "a tolerance of nan; give a share of a value's size, 0 or more"),
        (["--training", "{csv}", "--max-psi", "inf"], "--max-psi inf: give a figure from 0 on"),
        (["--keys", "{csv}"], "can't be read as Parquet"),
        (["--report", "/proc"], "--report /proc: no file can be written there"),
    ],
)
def test_a_limit_that_can_refuse_nothing_is_refused(
    served: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    (tmp_path / "keys.csv").write_text("driver_id\n1\n")
    given = [one.replace("{csv}", str(tmp_path / "keys.csv")) for one in flags]
    assert run(["features", "check", "--repo", str(served), "--feature", "trips:rate", *given]) == 2
    assert message in capsys.readouterr().err


def test_the_command_says_what_differs_and_ends_with_3(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ["--at", END.isoformat(), "--repo", str(own), "--feature", "trips:rate", "--feature", "weather:rain"]
    rows = repository.asked(2000)
    features.open(own).training(rows, REFS, out=tmp_path / "training.parquet")
    page = tmp_path / "page.html"
    training = ["--training", str(tmp_path / "training.parquet"), "--report", str(page)]
    assert run(["features", "check", *at, *training, "--sample", "300", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["breaches"] == []
    assert told["features"]["trips:rate"]["reads"] == 300
    assert told["distributions"]["trips:rate"]["training_rows"] == 2000
    assert b"Serving gives what training saw" in page.read_bytes()
    assert run(["features", "check", *at, *training, "--max-psi", "1e-9"]) == 3
    assert "psi" in capsys.readouterr().err
    change(own, "delete from {table}")
    assert run(["features", "check", *at]) == 3
    said = capsys.readouterr()
    assert "trips:rate: missing" in said.err
    assert "above the limit of 1.00%" in said.err
    assert "weather:rain: 1,000 reads, " in said.out
    assert run(["features", "check", *at, "--max-missing", "1"]) == 3
    assert "trips:rate: no read had a value both online and offline" in capsys.readouterr().err
    assert run(["features", "check", "--repo", str(own)]) == 2


def test_now_is_the_instant_where_none_is_given(served: Path) -> None:
    """Everything expired long ago, both online and offline."""
    before = datetime.now(UTC)
    found = features.open(served).check(["trips:rate"], sample=20)
    assert found.report["features"]["trips:rate"]["both"] == 0
    assert before > END.replace(tzinfo=UTC) + timedelta(days=2)


def test_a_check_that_compared_nothing_does_not_pass(
    served: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything expired long ago, both online and offline: no rate is above its limit, and nothing was shown."""
    page = tmp_path / "page.html"
    given = ["--repo", str(served), "--feature", "trips:rate", "--sample", "20", "--report", str(page)]
    assert run(["features", "check", *given]) == 3
    said = capsys.readouterr()
    assert "trips:rate: no read had a value both online and offline, so nothing was compared" in said.err
    assert "20 reads, 0 with a value on both sides" in said.out
    assert b"1 feature not compared" in page.read_bytes()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["trips__rate"], "weather:rain: its shift from training can't be told: {training} has no column of it"),
        (
            ["trips__rate", "empty"],
            "weather:rain: its shift from training can't be told: {training} has no value",
        ),
    ],
)
def test_a_limit_on_shifts_is_not_kept_where_there_is_nothing_to_compare(
    served: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], columns: list[str], message: str
) -> None:
    given = ["--repo", str(served), "--at", END.isoformat(), "--feature", "trips:rate", "--feature", "weather:rain"]
    file = tmp_path / "training.parquet"
    rows = pl.from_arrow(features.open(served).training(repository.asked(500), REFS).read())
    assert isinstance(rows, pl.DataFrame)
    rows = rows.rename({"rate": "trips__rate"}).with_columns(empty=pl.lit(None, pl.Float64)).select(columns)
    rows.rename({"empty": "weather__rain"}, strict=False).write_parquet(file)
    assert run(["features", "check", *given, "--training", str(file), "--max-psi", "50"]) == 3
    assert message.format(training=file) in capsys.readouterr().err
    assert run(["features", "check", *given, "--training", str(file)]) == 0
