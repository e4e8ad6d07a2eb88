"""Sources: their paths are taken as they stand, and a file that is broken is named."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

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
