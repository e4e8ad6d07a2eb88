"""Writing rows that Feast hands over: whole or not at all, never half under their final name."""

from __future__ import annotations

import fcntl
import shutil
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from hotlap.errors import InputError, OutputError
from hotlap.search.folder import sync, written_whole


def local(path: str, repo: Path | str | None) -> Path:
    """Where a source's path lies. Raises InputError for what is not on this machine's disk."""
    from urllib.parse import urlparse

    if urlparse(path).netloc:
        raise InputError(f"{path}: PolarsOfflineStore writes to local files only; use a store made for that place")
    given = Path(path)
    return given if given.is_absolute() or repo is None else Path(repo) / given


def parquet(table: pa.Table, path: Path) -> None:
    """The table as one Parquet file, put under its name when it is whole and on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as part:
        pq.write_table(table, part)


def append(table: pa.Table, path: Path) -> None:
    """Add rows after those there are: to a file by writing it anew, to a folder as one more file, its last by name.

    Processes that add to one file take turns.
    """
    if path.is_dir():
        from hotlap.features.source import files

        parquet(table, path / f"zz-{len(files(path)):08d}-{uuid.uuid4().hex}.parquet")
        return
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = pq.read_table(path)
        parquet(pa.concat_tables([before, table.cast(before.schema)]), path)


def logs(table: pa.Table, folder: Path, partition_by: list[str] | None) -> None:
    """Add logged rows to a folder of Parquet files, in folders by `partition_by` where that is given. Each file is put
    under its name when it is whole and on disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    hidden = folder / f".{uuid.uuid4().hex}"
    try:
        ds.write_dataset(
            table,
            base_dir=hidden,
            basename_template=f"{uuid.uuid4().hex}-{{i}}.parquet",
            partitioning=partition_by,
            format="parquet",
        )
        for file in sorted(hidden.rglob("*.parquet")):
            own = folder / file.relative_to(hidden)
            own.parent.mkdir(parents=True, exist_ok=True)
            sync(file)
            file.rename(own)
            sync(own.parent)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def dataset(table: pa.Table, storage: Any, repo: Path | str | None, *, overwrite: bool) -> None:
    """A saved dataset of Feast's: one file where its path ends in .parquet, else one in a folder.

    Raises Feast's SavedDatasetLocationAlreadyExists where something is there and may not be overwritten.
    """
    from feast.errors import SavedDatasetLocationAlreadyExists
    from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

    if not isinstance(storage, SavedDatasetFileStorage):
        raise OutputError(f"{type(storage).__name__}: PolarsOfflineStore saves to SavedDatasetFileStorage only")
    path = local(storage.file_options.uri, repo)
    if path.exists() and not overwrite:
        raise SavedDatasetLocationAlreadyExists(location=str(path))
    if path.suffix == ".parquet":
        parquet(table, path)
        return
    whole = path / "rows.parquet"  # always this one, so that a later dataset takes its place in one step
    parquet(table, whole)
    for one in path.glob("*.parquet"):
        if one != whole:
            one.unlink()
