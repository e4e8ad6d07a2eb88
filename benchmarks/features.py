"""Point-in-time joins: hotlap's offline store against Feast's file store, pandas and DuckDB, on the same files.

    python benchmarks/features.py                 about 1 minute; writes benchmarks/results/features.json
    python benchmarks/features.py --large 1000000 10000000 50000000    also a join of each size, with its peak memory
    python benchmarks/features.py --rounds 0 --large 50000000    those joins only, beside the last comparison

500,000 feature rows of 20,000 entities, 100,000 entity rows, three features, from one Parquet file. All sides start
from files and a pandas frame of entity rows and end with a table in memory; hotlap and Feast's file store go through
Feast's `get_historical_features`. They run in turn, round after round, so that what else the machine does hits all.
Among equal event times the newest created counts; pandas gets rows sorted for that, DuckDB's ASOF join has no such rule
and is spared it. Rows that come back, and values that differ from a full sort's, are counted for each side.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from hotlap.machine import facts

HERE = Path(__file__).resolve().parent
ROWS, ENTITIES, ASKED, ROUNDS = 500_000, 20_000, 100_000, 7
VALUES = ["x", "y", "n"]
BEGIN = np.datetime64("2026-01-01", "us")
DAYS = 90
DAY = 86_400_000_000
AT_ONCE = 10_000_000
"""Rows that are drawn and written at a time."""


def write_features(path: Path, rows: int, entities: int) -> None:
    """Rows at whole minutes, so that some of one entity's are at one time; created up to a day later."""
    draw = np.random.default_rng(0)
    with ExitStack() as stack:
        writer = None
        for start in range(0, rows, AT_ONCE):
            count = min(AT_ONCE, rows - start)
            at = BEGIN + (draw.integers(0, DAYS * 1440, count) * 60_000_000).astype("m8[us]")
            piece = pa.table(
                {
                    "who": draw.integers(0, entities, count),
                    "at": at,
                    "made": at + draw.integers(0, DAY, count).astype("m8[us]"),
                    "x": draw.normal(size=count),
                    "y": draw.normal(size=count),
                    "n": draw.integers(0, 1000, count),
                }
            )
            writer = writer or stack.enter_context(pq.ParquetWriter(path, piece.schema, compression="zstd"))
            writer.write_table(piece)


def asked(rows: int, entities: int) -> pd.DataFrame:
    draw = np.random.default_rng(1)
    at = BEGIN + draw.integers(0, DAYS * DAY, rows).astype("m8[us]")
    return pd.DataFrame({"who": draw.integers(0, entities, rows), "event_timestamp": at})


def store(folder: Path, offline: str, features: Path) -> Any:
    """A Feast store of one view over the file, with that offline store."""
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource
    from feast.types import Float64, Int64
    from feast.value_type import ValueType

    folder.mkdir()
    (folder / "feature_store.yaml").write_text(
        f"project: bench\nprovider: local\nregistry: registry.db\nentity_key_serialization_version: 3\n"
        f"online_store: {{type: sqlite, path: online.db}}\noffline_store: {{type: {offline}}}\n"
    )
    who = Entity(name="who", join_keys=["who"], value_type=ValueType.INT64)
    source = FileSource(path=str(features), timestamp_field="at", created_timestamp_column="made")
    view = FeatureView(
        name="view",
        entities=[who],
        ttl=timedelta(0),
        schema=[Field(name="x", dtype=Float64), Field(name="y", dtype=Float64), Field(name="n", dtype=Int64)],
        source=source,
    )
    made = FeatureStore(str(folder))
    made.apply([who, view])
    return made


def sides(folder: Path, features: Path, rows: pd.DataFrame) -> dict[str, Callable[[], pa.Table]]:
    refs = [f"view:{name}" for name in VALUES]
    ours = store(folder / "hotlap", "hotlap.features.PolarsOfflineStore", features)
    theirs = store(folder / "feast", "file", features)

    def with_pandas() -> pa.Table:
        source = pd.read_parquet(features).sort_values(["at", "made"])
        left = rows.reset_index().sort_values("event_timestamp")
        joined = pd.merge_asof(left, source, left_on="event_timestamp", right_on="at", by="who")
        return pa.Table.from_pandas(joined.sort_values("index").drop(columns=["at", "made", "index"]))

    def with_duckdb() -> pa.Table:
        import duckdb

        with duckdb.connect() as connection:
            connection.register("asked", rows.reset_index())
            query = (
                "select asked.who, event_timestamp, x, y, n from asked asof left join read_parquet($1) as source "
                "on asked.who = source.who and event_timestamp >= source.at order by index"
            )
            return connection.execute(query, [str(features)]).to_arrow_table()

    return {
        "hotlap": lambda: ours.get_historical_features(rows, refs).to_arrow(),
        "feast file store": lambda: theirs.get_historical_features(rows, refs).to_arrow(),
        "pandas merge_asof": with_pandas,
        "duckdb asof": with_duckdb,
    }


def right_values(features: Path, rows: pd.DataFrame) -> pl.DataFrame:
    """By a full sort and polars' own as-of join, which hotlap's does not use."""
    source = pl.read_parquet(features).sort("at", "made", maintain_order=True)
    left = pl.from_pandas(rows).cast({"event_timestamp": pl.Datetime("us")}).with_row_index("row")
    joined = left.sort("event_timestamp").join_asof(
        source, left_on="event_timestamp", right_on="at", by="who", check_sortedness=False
    )
    return joined.sort("row")


def judged(table: pa.Table, right: pl.DataFrame) -> dict[str, int]:
    """How many entity rows came back, and how many of those have a value that is not the right one."""
    got = pl.from_arrow(table.select(["who", "event_timestamp", "x"]))
    assert isinstance(got, pl.DataFrame)
    got = got.with_columns(pl.col("event_timestamp").cast(pl.Datetime("us")).dt.replace_time_zone(None))
    got = got.with_columns(pl.col("x").fill_nan(None))
    keys = ["who", "event_timestamp"]
    both = right.unique(keys).join(got.unique(keys), on=keys, how="inner", suffix="_got")
    wrong = both.filter(~pl.col("x").eq_missing(pl.col("x_got"))).height
    return {"rows": got.height, "lost": right.height - got.height, "wrong": wrong}


def compare(rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_features(folder / "features.parquet", ROWS, ENTITIES)
        rows = asked(ASKED, ENTITIES)
        all_sides = sides(folder, folder / "features.parquet", rows)
        right = right_values(folder / "features.parquet", rows)
        answers = {name: judged(run(), right) for name, run in all_sides.items()}
        seconds: dict[str, list[float]] = {name: [] for name in all_sides}
        for _ in range(rounds):
            for name, run in all_sides.items():
                begin = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - begin)
    return {
        name: {
            **answers[name],
            "seconds": seconds[name],
            "median_seconds": statistics.median(seconds[name]),
            "times_hotlap": statistics.median(
                theirs / ours for theirs, ours in zip(seconds[name], seconds["hotlap"], strict=True)
            ),
        }
        for name in all_sides
    }


def large(rows: int) -> dict[str, Any]:
    """One join of that many feature rows in a process of its own: seconds, and the most memory it held."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "features.parquet"
        subprocess.run([sys.executable, __file__, "--write", str(path), "--large", str(rows)], check=True)
        done = subprocess.run(
            [sys.executable, __file__, "--join", str(path)], check=True, capture_output=True, text=True
        )
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"feature_rows": rows, **told}


def join_once(path: Path) -> None:
    """Join 1,000,000 entity rows with the file and print what it took."""
    from hotlap.features.asof import View, look_up

    count = 1_000_000
    rows = pl.from_pandas(asked(count, ENTITIES * 10))
    view = View(
        name="view",
        source=pl.scan_parquet(path),
        keys=(("who", "who"),),
        event="at",
        created="made",
        ttl=None,
        features=tuple((one, one) for one in VALUES),
    )
    begin = time.perf_counter()
    found = look_up(rows, "event_timestamp", view, known_only=False, memory_bytes=2e9)
    taken = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"entity_rows": count, "found": found.found, "seconds": taken, "peak_memory_bytes": peak}))


def circumstances() -> dict[str, Any]:
    """Where and with what a figure was taken. At idle priority all else comes first, and times tell little."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=HERE, capture_output=True, text=True, check=True)
    packages = ("hotlap", "feast", "polars", "pyarrow", "pandas", "duckdb", "dask")
    return {
        "idle_priority": os.sched_getscheduler(0) == os.SCHED_IDLE,
        "machine": facts.facts().to_json(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "commit": head.stdout.strip(),
        "command": shlex.join(["python", "benchmarks/features.py", *sys.argv[1:]]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--large", type=int, nargs="+", default=[], help="also one join of each so many rows")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--join", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "features.json")
    given = parser.parse_args()
    if given.write:
        write_features(given.write, given.large[0], ENTITIES * 10)
        return
    if given.join:
        join_once(given.join)
        return
    if given.rounds == 0:
        before: dict[str, Any] = json.loads(given.out.read_text())
        before["large"] = [{**large(rows), **circumstances()} for rows in given.large]
        given.out.write_text(json.dumps(before, indent=1) + "\n")
        print(before["large"])
        return
    result = {
        "feature_rows": ROWS,
        "entities": ENTITIES,
        "entity_rows": ASKED,
        "rounds": given.rounds,
        "sides": compare(given.rounds),
        "large": [large(rows) for rows in given.large],
        **circumstances(),
    }
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    for name, one in result["sides"].items():
        print(
            f"{name:18} {1000 * one['median_seconds']:8.1f} ms  {one['times_hotlap']:6.2f} times hotlap's  "
            f"{one['lost']:,} rows lost, {one['wrong']:,} wrong"
        )
    for one in result["large"]:
        print(one)


if __name__ == "__main__":
    main()
