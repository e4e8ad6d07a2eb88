"""Sources: their paths are taken as they stand, and a file that is broken is named."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from features import repository

from hotlap import features
from hotlap.errors import InputError
from hotlap.features import entities, model_inputs, rows_file, source


def twins(tmp_path: Path, named: str, taken: str, name: str) -> Path:
    """A folder with a file that has 1, beside one that its name would match as a pattern, which has 999."""
    for folder, value in ((named, 1), (taken, 999)):
        (tmp_path / folder).mkdir()
        frame = pl.DataFrame({"f": [value]})
        path = tmp_path / folder / name
        {".parquet": frame.write_parquet, ".csv": frame.write_csv, ".jsonl": frame.write_ndjson}[path.suffix](path)
    return tmp_path / named


@pytest.mark.parametrize(("named", "taken"), [("d[1]", "d1"), ("x*", "xy")])
def test_a_path_is_never_a_pattern(tmp_path: Path, named: str, taken: str) -> None:
    folder = twins(tmp_path, named, taken, "a.parquet")
    path = folder / "a.parquet"
    for scanned in (
        source._parquet(folder, "s"),
        source._parquet(path, "s"),
        entities.read(folder),
        entities.read(path),
    ):
        assert scanned.collect()["f"].to_list() == [1]
    assert rows_file.read(path, "--rows", {})["f"].to_list() == [1]
    assert model_inputs._frame(path)["f"].to_list() == [1]
    pl.DataFrame({"f": [2], "g": [3]}).write_parquet(folder / "b.parquet")
    assert source._parquet(folder, "s").collect()["f"].to_list() == [1, 2]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_nor_is_that_of_rows_as_text(tmp_path: Path, name: str) -> None:
    folder = twins(tmp_path, "d[1]", "d1", name)
    assert rows_file.read(folder / name, "--rows", {"f": pl.Int64()})["f"].to_list() == [1]


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    pl.DataFrame({"f": [1]}).write_parquet(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_text("not parquet")
    for path in (tmp_path, tmp_path / "b.parquet"):
        with pytest.raises(InputError, match=r"source s: .*b\.parquet can't be read as Parquet \(.*\); write it anew"):
            source._parquet(path, "s")


def test_a_timestamp_too_far_for_its_folders_finest_unit_is_said(repo: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(repo, tmp_path / "repo"))
    far = copy / "data/weather/day=1/part.parquet"
    rows = pl.read_parquet(far).with_columns(at=pl.lit(datetime(9999, 12, 31), pl.Datetime("us")))
    rows.write_parquet(far)
    store = features.open(copy)
    with pytest.raises(
        InputError, match=r"view weather: .*9999-12-31 00:00:00\]; write all its timestamps in one unit"
    ):
        store.training(repository.asked(5), ["weather:rain"])
    with pytest.raises(InputError, match=r"view weather: .*write all its timestamps in one unit"):
        store.materialize(["weather"], end=repository.END)


def test_files_whose_types_have_nothing_in_common_are_refused(tmp_path: Path) -> None:
    pl.DataFrame({"f": [1.0]}).write_parquet(tmp_path / "a.parquet")
    pl.DataFrame({"f": [[1.0]]}).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r"source s: .* its files differ in the type of a column \(.*f64 and list"):
        source._parquet(tmp_path, "s")


def test_only_of_several_files_it_is_said_that_they_differ(tmp_path: Path) -> None:
    rows = pl.LazyFrame({"f": [1]}).select(pl.col("f").str.to_uppercase())
    pl.DataFrame({"f": [1]}).write_parquet(tmp_path / "a.parquet")
    for place in ("the frame given", str(tmp_path), str(tmp_path / "a.parquet")):
        with pytest.raises(InputError, match=f"^entities: {place}: ") as caught:
            source.collected(rows, "entities", place)
        assert "files differ" not in str(caught.value)
    pl.DataFrame({"f": [1]}).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r"its files differ in their columns \(.*\); write them alike"):
        source.collected(rows, "entities", str(tmp_path))


def damage(path: Path) -> None:
    """Every page of a Parquet file; its footer stays whole."""
    held = bytearray(path.read_bytes())
    group = pq.read_metadata(path).row_group(0)
    for number in range(group.num_columns):
        column = group.column(number)
        start = column.dictionary_page_offset or column.data_page_offset
        held[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(held)


def test_a_file_with_damaged_pages_is_named_with_its_view(repo: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(repo, tmp_path / "repo"))
    damage(copy / "data/trips.parquet")
    damage(copy / "data/weather/day=2/part.parquet")
    store = features.open(copy)
    trips = r"view trips: .*data/trips.parquet can't be read \(.*\); write it anew"
    with pytest.raises(InputError, match=trips):
        store.training(repository.asked(5), ["trips:rate"])
    with pytest.raises(InputError, match=trips):
        store.materialize(["trips"], end=repository.END)
    with pytest.raises(InputError, match=trips):
        store.check(["trips:rate"])
    with pytest.raises(InputError, match=r"view weather: .*weather/day=2/part.parquet can't be read"):
        store.training(repository.asked(5), ["weather:rain"])
    theirs = store.feast.get_historical_features(repository.asked(5).to_pandas(), ["trips:rate"])
    with pytest.raises(InputError, match=trips):
        theirs.to_arrow()


def test_a_file_of_rows_with_damaged_pages_is_named(repo: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.parquet"
    repository.asked(50).write_parquet(rows)
    damage(rows)
    store = features.open(repo)
    message = r"entities: .*rows.parquet can't be read \(.*\); write it anew"
    with pytest.raises(InputError, match=message):
        store.training(rows, ["trips:rate"])
    with pytest.raises(InputError, match=message):
        store.feast.get_historical_features(str(rows), ["trips:rate"])


@pytest.mark.parametrize("held", [b"", b"uid,t\n1,2026-01-01\n"])
def test_a_source_to_infer_from_that_is_broken_is_named_with_its_view(repo: Path, tmp_path: Path, held: bytes) -> None:
    copy = Path(shutil.copytree(repo, tmp_path / "repo"))
    text = (copy / "definitions.py").read_text()
    declared = 'schema=[Field(name="rate", dtype=Float64), Field(name="count", dtype=Int64)],\n'
    assert declared in text
    (copy / "definitions.py").write_text(text.replace(declared, "\n", 1))
    (copy / "data/trips.parquet").write_bytes(held)
    with pytest.raises(InputError, match=r"view trips: .*trips.parquet can't be read as Parquet .*or declare what is"):
        features.apply(copy)
