"""A Feast file source as a lazy frame: a Parquet file, a folder of them, partitioned or not, or a Delta table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from hotlap.errors import InputError, MissingExtra

if TYPE_CHECKING:
    from feast.infra.offline_stores.file_source import FileSource

_FINENESS = {"ms": 0, "us": 1, "ns": 2}


def scan(source: FileSource, repo: Path | str | None) -> pl.LazyFrame:
    """The source's rows, read when they are needed. Files of a folder follow each other in the order of their paths.

    The path is taken literally: `*`, `?` and `[` in it stand for themselves. Folders named `column=value` become
    columns. Files of one folder may differ in the unit of their timestamps and lack columns that others have. Raises
    InputError where there is nothing to read.
    """
    from feast.data_format import DeltaFormat
    from feast.infra.offline_stores.file_source import FileSource as Known

    if not isinstance(source, Known):
        raise InputError(f"source {source.name} is a {type(source).__name__}; PolarsOfflineStore reads FileSource only")
    location = Known.get_uri_for_file_path(repo, source.path)
    options = _storage(source)
    if isinstance(source.file_format, DeltaFormat):
        return _delta(location, options)
    if urlparse(location).netloc:
        return pl.scan_parquet(location, storage_options=options)
    return _parquet(Path(location), source.name)


def place(source: Any, repo: Path | str | None) -> str:
    """Where a source's rows are, as a message names it."""
    from feast.infra.offline_stores.file_source import FileSource

    if not isinstance(source, FileSource):
        return f"its source {source.name}"
    return str(FileSource.get_uri_for_file_path(repo, source.path))


def collected(rows: pl.LazyFrame, whose: str, place: str) -> pl.DataFrame:
    """The rows, read. Raises InputError where what is in a file is damaged, though its footer could be read, where a
    timestamp is too far for the finest unit of its folder, and where files that must be alike differ; `whose` rows they
    are and their `place` are named.
    """
    with _damage_told(whose, place):
        return rows.collect(engine="streaming")


def batches(rows: pl.LazyFrame, size: int, whose: str, place: str) -> Iterator[pl.DataFrame]:
    """The rows in their order, about `size` at a time, read as they are taken. Raises as `collected` does."""
    parts = iter(rows.collect_batches(chunk_size=size, maintain_order=True, engine="streaming"))
    while True:
        with _damage_told(whose, place):
            part = next(parts, None)
        if part is None:
            return
        yield part


@contextmanager
def _damage_told(whose: str, place: str) -> Iterator[None]:
    try:
        yield
    except pl.exceptions.InvalidOperationError as error:
        told = str(error).splitlines()[0]
        if not told.startswith("conversion from `datetime["):
            raise
        raise InputError(f"{whose}: {place}: {told}; write all its timestamps in one unit, or none that far") from None
    except pl.exceptions.SchemaError as error:
        told = str(error).splitlines()[0]
        path = Path(place)
        if path.is_dir() and len(files(path)) > 1:
            told = f"its files differ in their columns ({told}); write them alike"
        raise InputError(f"{whose}: {place}: {told}") from None
    except (pl.exceptions.ComputeError, pl.exceptions.PanicException, OSError) as error:
        if isinstance(error, pl.exceptions.ComputeError) and "parquet" not in str(error):
            raise
        told = str(error).splitlines()[0]
        raise InputError(f"{whose}: {_damaged(Path(place))} can't be read ({told}); write it anew") from error


def _damaged(path: Path) -> Path:
    """The first file of a folder that can't be read to its end; the folder where there is none."""
    for file in files(path) if path.is_dir() else []:
        try:
            for _ in pq.ParquetFile(file).iter_batches():
                pass
        except (pa.ArrowException, OSError):
            return file
    return path


def files(folder: Path) -> list[Path]:
    """The Parquet files in a folder and its folders, by path; hidden ones and those still being written left out."""
    return [
        path
        for path in sorted(folder.rglob("*.parquet"))
        if not any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
    ]


def _parquet(path: Path, name: str) -> pl.LazyFrame:
    if not path.exists():
        raise InputError(f"source {name}: {path} does not exist; write it, or change the source's path")
    if not path.is_dir():
        _schema(path, name)
        return pl.scan_parquet(path, glob=False)
    found = files(path)
    if not found:
        raise InputError(f"source {name}: {path} holds no .parquet file; write one, or change the source's path")
    schemas = [_schema(one, name) for one in found]
    partitioned = any("=" in part for part in found[0].relative_to(path).parts[:-1])
    if all(schema == schemas[0] for schema in schemas):
        return pl.scan_parquet(found, hive_partitioning=partitioned, glob=False)
    rows = pl.concat(
        [
            pl.scan_parquet(one, hive_partitioning=partitioned, glob=False).with_columns(_finest(schema, schemas))
            for one, schema in zip(found, schemas, strict=True)
        ],
        how="diagonal_relaxed",
    )
    try:
        rows.collect_schema()
    except pl.exceptions.SchemaError as error:
        told = str(error).splitlines()[0]
        raise InputError(
            f"source {name}: {path}: its files differ in the type of a column ({told}); write them with one type"
        ) from None
    return rows


def _schema(file: Path, name: str) -> pl.Schema:
    """The columns that the file itself has. Raises InputError where it is no Parquet file."""
    try:
        return pl.scan_parquet(file, glob=False, hive_partitioning=False).collect_schema()
    except (pl.exceptions.ComputeError, OSError) as error:
        told = str(error).splitlines()[0]
        raise InputError(f"source {name}: {file} can't be read as Parquet ({told}); write it anew") from None


def _finest(own: pl.Schema, all_of_them: list[pl.Schema]) -> list[pl.Expr]:
    """Casts of the timestamps to the finest unit that any file has, in UTC where any file has a zone."""
    casts = []
    for name, kind in own.items():
        kinds = [schema[name] for schema in all_of_them if name in schema]
        stamps = [one for one in kinds if isinstance(one, pl.Datetime)]
        if not isinstance(kind, pl.Datetime) or all(one == kind for one in kinds):
            continue
        unit = max((one.time_unit for one in stamps), key=_FINENESS.__getitem__)
        own_time = pl.col(name).dt.cast_time_unit(unit)
        if any(one.time_zone for one in stamps):
            zone = own_time.dt.convert_time_zone if kind.time_zone else own_time.dt.replace_time_zone
            own_time = zone("UTC")
        casts.append(own_time)
    return casts


def _delta(location: str, options: dict[str, str] | None) -> pl.LazyFrame:
    try:
        import deltalake  # noqa: F401 - what polars reads Delta with
    except ImportError as error:
        raise MissingExtra(
            f"{location} is a Delta table, which needs deltalake: pip install 'hotlap[delta]'"
        ) from error
    return pl.scan_delta(location, storage_options=options)


def _storage(source: Any) -> dict[str, str] | None:
    """Credentials that the source refers to and where to reach S3; None leaves both to the environment."""
    options = dict(source.resolve_credentials() or {})
    if source.s3_endpoint_override:
        options["AWS_ENDPOINT_URL"] = source.s3_endpoint_override
    return options or None
