"""What Feast hands over to be written is whole or not there, whenever the writer is killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

from hotlap.features import source, write

ROWS = pa.table({"day": ["a", "b"], "x": [1, 2]})


@pytest.mark.parametrize("by", [None, ["day"]])
def test_logged_rows_are_added_in_folders(tmp_path: Path, by: list[str] | None) -> None:
    for _ in range(2):
        write.logs(ROWS, tmp_path / "log", by)
    found = source.files(tmp_path / "log")
    assert sorted(ds.dataset(found).to_table()["x"].to_pylist()) == [1, 1, 2, 2]
    assert {one.parent.name for one in found} == ({"a", "b"} if by else {"log"})
    assert list(tmp_path.rglob(".*")) == []


def test_logged_rows_that_were_being_written_by_a_killed_process_are_not_seen(tmp_path: Path) -> None:
    script = f"""
import os, signal
from pathlib import Path
import pyarrow as pa
from hotlap.features import write
write.sync = lambda file: os.kill(os.getpid(), signal.SIGKILL)
write.logs(pa.table({{"x": [1]}}), Path({str(tmp_path)!r}), None)
"""
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", script]).returncode == -9
    assert [one.suffix for one in tmp_path.rglob("*") if one.is_file()] == [".parquet"]
    assert source.files(tmp_path) == []
    write.logs(ROWS, tmp_path, None)
    assert len(source.files(tmp_path)) == 1


def test_a_saved_dataset_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    """In one step where it stands under one name; what others wrote there goes too."""
    storage = SavedDatasetFileStorage(str(tmp_path / "saved"))
    write.dataset(ROWS, storage, None, overwrite=False)
    (first,) = source.files(tmp_path / "saved")
    write.parquet(ROWS, tmp_path / "saved/others.parquet")
    write.dataset(ROWS.slice(1), storage, None, overwrite=True)
    assert source.files(tmp_path / "saved") == [first]
    assert ds.dataset(first).to_table()["x"].to_pylist() == [2]
