"""Training rows: the same as the definition says, with their lineage, and as tensors that share their memory."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from features import repository
from features.test_offline import expected, of

from hotlap import features
from hotlap.cli.main import run
from hotlap.errors import InputError, OutputError
from hotlap.features import lineage
from hotlap.features.job import METADATA
from hotlap.features.training import make


def test_rows_ages_and_shares_are_what_the_definition_says(repo: Path) -> None:
    rows = repository.asked(column="departure")
    made = features.open(repo).training(rows, "both")
    right = expected(repo, rows, at="departure")
    assert of(made.read(), ["rate", "count", "rain"]) == right
    report = made.report
    assert report["null_share"]["rate"] == right["rate"].count(None) / len(rows)
    assert report["views"]["trips"]["missing"] == right["rate"].count(None)
    assert 0 < report["views"]["trips"]["age_seconds"]["max"] <= timedelta(days=2).total_seconds()
    neither = [i for i, pair in enumerate(zip(right["rate"], right["rain"], strict=True)) if pair == (None, None)]
    assert report["first_rows_without_features"] == neither
    assert report["rows_without_features"] == len(neither) > 0


@pytest.mark.parametrize("known_only", [False, True])
def test_a_file_in_slices_holds_the_same_rows_as_one_frame(repo: Path, tmp_path: Path, known_only: bool) -> None:
    rows = repository.asked(column="departure")
    rows.write_parquet(tmp_path / "rows.parquet")
    store = features.open(repo)
    whole = make(store, rows, ["trips:rate", "weather:rain"], known_only=known_only)
    sliced = make(
        store, tmp_path / "rows.parquet", ["trips:rate", "weather:rain"], known_only=known_only,
        out=tmp_path / "out.parquet", slice_rows=70,
    )  # fmt: skip
    assert sliced.read().equals(whole.read())
    apart = ("lineage",)
    assert {k: v for k, v in sliced.report.items() if k not in apart} == {
        k: v for k, v in whole.report.items() if k not in apart
    }
    assert json.loads(pq.read_metadata(tmp_path / "out.parquet").metadata[METADATA]) == sliced.report
    assert sorted(one.name for one in tmp_path.iterdir()) == ["out.parquet", "rows.parquet"]
    with pytest.raises(OutputError, match="exists"):
        store.training(rows, ["trips:rate"], out=tmp_path / "out.parquet")


def test_no_rows_give_no_rows(repo: Path, tmp_path: Path) -> None:
    made = features.open(repo).training(repository.asked(10).head(0), ["trips:rate"], out=tmp_path / "out.parquet")
    assert made.read().num_rows == 0
    assert made.read().column_names[-1] == "rate"


def test_the_definitions_digest_changes_with_the_definition_alone(tmp_path: Path) -> None:
    repo = repository.write(tmp_path, rows=50)

    def views() -> dict[str, dict[str, object]]:
        made = features.open(repo).training(repository.asked(5), "both")
        return {one["view"]: one for one in made.report["lineage"]["views"]}

    before = views()
    store = features.open(repo).feast
    view = store.get_feature_view("trips")
    digest = lineage.definition_digest(view)
    assert digest == before["trips"]["definition"]
    view.description, view.tags = "what drivers did", {"team": "taxi"}
    assert lineage.definition_digest(view) == digest
    view.ttl = timedelta(days=3)
    assert lineage.definition_digest(view) != digest
    trips = repo / "data/trips.parquet"
    pl.read_parquet(trips).head(40).write_parquet(trips)
    after = views()
    assert after["trips"]["definition"] == digest
    assert after["trips"]["snapshot"] != before["trips"]["snapshot"]
    assert after["weather"]["snapshot"] == before["weather"]["snapshot"]
    assert before["weather"]["snapshot"]["files"] == 2  # type: ignore[index]


def test_a_dataset_shares_the_tables_memory(repo: Path) -> None:
    made = features.open(repo).training(repository.asked(400), ["weather:rain"])
    table = made.read().filter(made.read().column("rain").is_valid()).combine_chunks()
    from hotlap.features.dataset import Columns

    rows = Columns(table, ["rain", "driver_id"], "label")
    for name in ("rain", "driver_id"):
        assert rows.tensors[name].data_ptr() == table.column(name).chunk(0).buffers()[1].address
    loader = torch.utils.data.DataLoader(rows, batch_size=16, shuffle=True)
    seen = [value for batch, _ in loader for value in batch["rain"].tolist()]
    assert sorted(seen) == sorted(table.column("rain").to_pylist())
    given, target = rows[3]
    assert (given["rain"].item(), target.item()) == (table.column("rain")[3].as_py(), table.column("label")[3].as_py())
    assert rows[2:5][0]["rain"].data_ptr() == rows.tensors["rain"][2:].data_ptr()


def test_rows_that_cant_be_read_are_said(repo: Path, tmp_path: Path) -> None:
    store = features.open(repo)
    (tmp_path / "rows.csv").write_text("driver_id,event_timestamp\n1,2026-03-02\n")
    with pytest.raises(InputError, match=r"rows\.csv: can't be read as Parquet"):
        store.training(tmp_path / "rows.csv", ["trips:rate"])
    with pytest.raises(InputError, match=r"entities a+: can't be read: File name too long; give another path"):
        store.training("a" * 300, ["trips:rate"])
    with pytest.raises(InputError, match="column event_timestamp is text that can't be read as ISO 8601"):
        store.training(pl.DataFrame({"driver_id": [1], "event_timestamp": ["yesterday"]}), ["trips:rate"])


def test_a_folder_of_rows_is_read_as_far_as_it_is_written(repo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    store = features.open(repo)
    with pytest.raises(InputError, match=r"the folder holds no \.parquet file; give one that does"):
        store.training(folder, ["trips:rate"])
    repository.asked(3).write_parquet(folder / "a.parquet")
    (folder / ".b.parquet").write_bytes(b"still being written")
    assert store.training(folder, ["trips:rate"]).read().num_rows == 3
    repository.asked(3).with_columns(more=1).write_parquet(folder / "b.parquet")
    with pytest.raises(
        InputError, match=r"entities: .*rows: its files differ in their columns \(.*more.*write them alike"
    ):
        store.training(folder, ["trips:rate"])


def test_columns_of_one_name_are_said(repo: Path) -> None:
    frame = repository.asked(2).to_pandas().rename(columns={"label": "city"})
    for rows in (frame, pa.Table.from_arrays([pa.array([1])] * 2, ["city", "city"])):
        with pytest.raises(InputError, match="entities: there are several columns city; rename or drop all but one"):
            features.open(repo).training(rows, ["trips:rate"])


def test_a_place_that_cant_be_written_is_said(repo: Path) -> None:
    rows = pl.DataFrame({"driver_id": [1], "event_timestamp": [repository.START]})
    with pytest.raises(OutputError, match=r"--out /a+: can't be written \(File name too long\)"):
        features.open(repo).training(rows, ["trips:rate"], out=f"/{'a' * 300}")
    with pytest.raises(OutputError, match=r"--out /none/x: no folder /none; make it first"):
        features.open(repo).training(rows, ["trips:rate"], out="/none/x")
    with pytest.raises(OutputError, match=r"--out '/a.x00': a name with a zero byte can't be a file's; name another"):
        features.open(repo).training(rows, ["trips:rate"], out="/a\0")
    with pytest.raises(OutputError, match=r"^/proc/rows\.parquet: can't be written"):
        features.open(repo).training(rows, ["trips:rate"], out="/proc/rows.parquet")


def test_of_two_runs_the_first_to_be_through_keeps_the_name(repo: Path, tmp_path: Path) -> None:
    """The other run's file is there once the first slice of this one is read."""
    out = tmp_path / "out.parquet"

    def taken(rows: pl.DataFrame) -> pl.DataFrame:
        out.write_text("the other's")
        return rows

    asked = repository.asked(10).lazy().map_batches(taken)
    with pytest.raises(OutputError, match=r"/out.parquet was made by another run meanwhile; name another"):
        features.open(repo).training(asked, ["trips:rate"], at="event_timestamp", out=out)
    assert out.read_text() == "the other's"
    assert [one.name for one in tmp_path.iterdir()] == ["out.parquet"]


def test_rows_that_go_while_they_are_read_are_told_as_such(repo: Path, tmp_path: Path) -> None:
    """It is not the place's fault that they are written to."""
    second = False

    def gone(rows: pl.DataFrame) -> pl.DataFrame:
        nonlocal second
        if second:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        second = True
        return rows

    asked = repository.asked(10).lazy().map_batches(gone)
    with pytest.raises(InputError, match=r"entities: the frame given can't be read \(.*No such file or directory\)"):
        make(
            features.open(repo), asked, ["trips:rate"], at="event_timestamp", out=tmp_path / "out.parquet", slice_rows=5
        )
    assert [*tmp_path.iterdir()] == []


def test_a_disk_that_fills_up_is_said_and_leaves_nothing(repo: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for it."""
    rows = repository.asked(20_000)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    store = features.open(repo)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OutputError, match=r"/out.parquet: can't be written \(.*\); free space"):
            store.training(rows, ["trips:rate"], out=tmp_path / "out.parquet")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [*tmp_path.iterdir()] == []


def test_a_disk_that_is_full_until_the_file_is_closed_leaves_nothing(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that was not closed for want of room can't be closed afterwards either."""
    closed, close = [], pq.ParquetWriter.close

    def full(self: pq.ParquetWriter) -> None:
        close(self)
        closed.append(self)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pq.ParquetWriter, "close", full)
    with pytest.raises(OutputError, match=r"out.parquet: can't be written \(No space left on device\); free space"):
        features.open(repo).training(repository.asked(10), ["trips:rate"], out=tmp_path / "out.parquet")
    assert len(closed) == 2
    assert [*tmp_path.iterdir()] == []


def test_what_no_tensor_can_hold_is_refused(repo: Path) -> None:
    made = features.open(repo).training(repository.asked(400), ["trips:rate"])
    for column, message in (("rate", "nulls in 400 rows"), ("city", "not a number"), ("none", "no column none")):
        with pytest.raises(InputError, match=message):
            made.dataset([column])


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (["trip:rate"], "no view 'trip'.*there are scores, trips, weather"),
        (["trips:rates"], "view trips has no feature 'rates'; it has rate, count"),
        ("nothing", "no feature service nothing"),
        ([], "none given"),
    ],
)
def test_features_that_are_not_there_are_named(repo: Path, wanted: list[str] | str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        features.open(repo).training(repository.asked(5), wanted)


def test_the_command_writes_the_file_and_says_what_leaks(
    repo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = repository.asked(100, column="departure")
    rows.write_parquet(tmp_path / "rows.parquet")
    common = ["--repo", str(repo), "--entities", str(tmp_path / "rows.parquet")]
    asked = [*common, "--feature", "trips:rate", "--feature", "weather:rain"]
    assert run(["features", "train", *asked, "--out", str(tmp_path / "out.parquet")]) == 0
    assert "were created after the instant" in capsys.readouterr().out
    assert of(pq.read_table(tmp_path / "out.parquet"), ["rate"])["rate"] == expected(repo, rows, at="departure")["rate"]
    assert run(["features", "train", *asked, "--known-only", "--json", "--out", str(tmp_path / "known.parquet")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["views"]["trips"]["created_after"] == 0
    assert told["lineage"]["known_only"] is True
    assert run(["features", "train", *asked, "--out", str(tmp_path / "out.parquet")]) == 2
    assert run(["features", "train", *common, "--out", str(tmp_path / "x.parquet")]) == 2
    assert run(["features", "train", *asked, "--at", "arrival", "--out", str(tmp_path / "x.parquet")]) == 2
    assert "no column arrival; they have driver_id, city, departure, label" in capsys.readouterr().err


STAMPS = """
from feast.types import Array, UnixTimestamp
stamps = FeatureView(
    name="stamps", entities=[driver], source=FileSource(path="data/stamps.parquet", timestamp_field="at"),
    schema=[Field(name=name, dtype=UnixTimestamp) for name in ("naive", "zoned", "day")]
    + [Field(name="several", dtype=Array(UnixTimestamp))],
)
"""


def test_instants_are_in_utc_in_training_as_online(repo: Path, tmp_path: Path) -> None:
    """Whatever zone and unit their source keeps them in."""
    copy = Path(shutil.copytree(repo, tmp_path / "repo"))
    noon = datetime(2026, 3, 4, 12)
    held = pl.DataFrame({"driver_id": [1, 2], "at": [noon] * 2, "naive": [noon, None]}).with_columns(
        zoned=pl.col("naive").dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Kolkata").dt.cast_time_unit("ms"),
        day=pl.col("naive").dt.date(),
        several=pl.when(pl.col("naive").is_not_null()).then(pl.concat_list("naive")),
    )
    held.write_parquet(copy / "data/stamps.parquet")
    (copy / "definitions.py").write_text((copy / "definitions.py").read_text() + STAMPS)
    features.apply(copy)
    store, names = features.open(copy), ["naive", "zoned", "day", "several"]
    wanted = [f"stamps:{name}" for name in names]
    store.materialize(["stamps"], end=noon)
    online = store.online({"driver_id": [1, 2]}, wanted, at=noon).table.select(names)
    trained = store.training(held.select("driver_id", "at"), wanted, at="at").read().select(names)
    assert trained.slice(0, 1).to_pylist() == online.slice(0, 1).to_pylist()
    assert trained.column("several").type.value_type == online.column("naive").type
    assert trained.select(names[:3]).equals(online.select(names[:3]))
    assert trained["naive"].to_pylist() == [noon.replace(tzinfo=UTC), None]
    checked = store.check(wanted, keys={"driver_id": [1]}, at=noon).report["features"]
    assert [one["mismatch"]["estimate"] for one in checked.values()] == [0.0] * 4
