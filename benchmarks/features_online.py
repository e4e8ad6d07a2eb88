"""Online reads: hotlap against Feast's get_online_features, on SQLite, Redis and PostgreSQL, in turn in one run.

`embedded` is hotlap's own store, against Feast on Feast's own SQLite store with the same rows.

    python benchmarks/features_online.py                    about 5 minutes; writes results/features_online.json
    python benchmarks/features_online.py --store sqlite --calls 50      one store, fewer calls

5 views of one entity, three features each (two float64, one int64), 20,000 keys, filled by Feast's own materialize.
1, 100 and 1,000 keys are asked for, all views at once, by both sides in turn, call after call, with other keys each
time. A call ends with a dict of Python values, which both sides give; and, timed apart, with what each side makes
first or best: hotlap an Arrow table, Feast its response. Redis and PostgreSQL run on loopback, started here from what
is installed. Each answer's values are compared once: a difference ends the run.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE.parent / "tests/features")]

import servers  # noqa: E402 - the tests' own way to start servers

VIEWS, ENTITIES, ASKED, CALLS = 5, 20_000, (1, 100, 1000), 300
REFS = [f"v{view}:{name}{view}" for view in range(VIEWS) for name in "xyn"]
STORES = {
    "embedded": "{type: hotlap.features.EmbeddedOnlineStore, path: online.db}",
    "sqlite": "{type: sqlite, path: online.db}",
    "redis": '{type: redis, connection_string: "127.0.0.1:%d,password=${STORE_PASSWORD}"}',
    "postgres": "{type: postgres, host: 127.0.0.1, port: %d, database: postgres, user: taxi, "
    'password: "${STORE_PASSWORD}", sslmode: disable}',
}


def repository(folder: Path, online: str) -> Path:
    """A repository with that online store, applied and materialized by Feast."""
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource
    from feast.types import Float64, Int64
    from feast.value_type import ValueType

    folder.mkdir()
    (folder / "feature_store.yaml").write_text(
        "project: bench\nprovider: local\nregistry: registry.db\nentity_key_serialization_version: 3\n"
        f"online_store: {online}\noffline_store: {{type: hotlap.features.PolarsOfflineStore}}\n"
    )
    draw, now = np.random.default_rng(0), datetime.now(UTC)
    who = Entity(name="who", join_keys=["who"], value_type=ValueType.INT64)
    views = []
    for view in range(VIEWS):
        path = folder / f"v{view}.parquet"
        pl.DataFrame(
            {
                "who": np.arange(ENTITIES),
                "at": [now - timedelta(seconds=int(age)) for age in draw.integers(60, 7200, ENTITIES)],
                f"x{view}": draw.normal(size=ENTITIES),
                f"y{view}": draw.normal(size=ENTITIES),
                f"n{view}": draw.integers(0, 1000, ENTITIES),
            }
        ).write_parquet(path)
        fields = [Field(name=f"{name}{view}", dtype=Int64 if name == "n" else Float64) for name in "xyn"]
        source = FileSource(path=str(path), timestamp_field="at")
        views.append(FeatureView(name=f"v{view}", entities=[who], ttl=timedelta(days=2), schema=fields, source=source))
    store = FeatureStore(str(folder))
    store.apply([who, *views])
    store.materialize(now - timedelta(days=1), now)
    return folder


def compare(repo: Path, theirs_in: Path, keys: int, calls: int) -> dict[str, Any]:
    """Milliseconds of each call, in turn."""
    from feast import FeatureStore

    from hotlap import features

    ours, theirs = features.open(repo), FeatureStore(str(theirs_in))
    draw = np.random.default_rng(keys)
    asked, others = (
        [{"who": draw.choice(ENTITIES, keys, replace=False).tolist()} for _ in range(calls + 5)] for _ in range(2)
    )
    answer = theirs.get_online_features(REFS, asked[0]).to_dict()
    same(ours.online(asked[0], REFS).to_dict(), answer)
    same(ours.online(asked[0], REFS).table.to_pydict(), answer)
    spent: dict[str, list[float]] = {"hotlap": [], "feast": [], "hotlap_table": [], "feast_response": []}
    for one, other in zip(asked, others, strict=True):
        begin = time.perf_counter()
        ours.online(one, REFS).to_dict()
        between = time.perf_counter()
        response = theirs.get_online_features(REFS, one)
        answered = time.perf_counter()
        response.to_dict()
        end = time.perf_counter()
        assert ours.online(other, REFS).table is not None
        spent["hotlap"].append(1000 * (between - begin))
        spent["feast"].append(1000 * (end - between))
        spent["feast_response"].append(1000 * (answered - between))
        spent["hotlap_table"].append(1000 * (time.perf_counter() - end))
    told: dict[str, Any] = {"keys": keys, "calls": calls}
    for name, each in spent.items():
        timed = each[5:]
        told[name] = {"p50_ms": statistics.median(timed), "p99_ms": float(np.quantile(timed, 0.99)), "ms": timed}
    for name, theirs_of, ours_of in (
        ("times_hotlap", "feast", "hotlap"),
        ("response_over_table", "feast_response", "hotlap_table"),
    ):
        pairs = zip(spent[theirs_of][5:], spent[ours_of][5:], strict=True)
        told[name] = statistics.median(feast / hotlap for feast, hotlap in pairs)
    return told


def same(ours: dict[str, list[Any]], theirs: dict[str, list[Any]]) -> None:
    for name, column in ours.items():
        if theirs[name] != column:
            raise SystemExit(f"column {name}: the two sides give different values")


def run(store: str, calls: int) -> list[dict[str, Any]]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        online = STORES[store]
        if store in ("redis", "postgres"):
            port, _ = stack.enter_context(getattr(servers, store)())
            online %= port
        repo = repository(folder / "repo", online)
        theirs = repository(folder / "theirs", STORES["sqlite"]) if store == "embedded" else repo
        return [compare(repo, theirs, keys, calls) for keys in ASKED]


def server_versions() -> dict[str, str]:
    told = {}
    for name in ("redis-server", "postgres"):
        done = subprocess.run([servers.program(name), "--version"], capture_output=True, text=True, check=True)
        told[name] = done.stdout.strip()
    return told


def circumstances(stores: list[str], calls: int, quiet: bool) -> dict[str, Any]:
    import platform
    import sqlite3
    from importlib.metadata import version

    from hotlap.machine import facts

    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=HERE, capture_output=True, text=True, check=True)
    packages = ("hotlap", "feast", "polars", "pyarrow", "redis", "hiredis", "psycopg", "protobuf")
    return {
        "configuration": {
            "views": VIEWS,
            "features": len(REFS),
            "entities": ENTITIES,
            "stores": stores,
            "calls": calls,
        },
        "quiet": quiet,
        "machine": facts.facts().to_json(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "servers": {"sqlite": sqlite3.sqlite_version, **server_versions()},
        "commit": head.stdout.strip(),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "benchmarks/features_online.py", *sys.argv[1:]]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", action="append", choices=list(STORES))
    parser.add_argument("--calls", type=int, default=CALLS)
    parser.add_argument("--quiet", action="store_true", help="nothing else ran on the machine; noted in the result")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "features_online.json")
    given = parser.parse_args()
    os.environ["STORE_PASSWORD"] = servers.PASSWORD
    stores = given.store or list(STORES)
    result = {
        "stores": {store: run(store, given.calls) for store in stores},
        **circumstances(stores, given.calls, given.quiet),
    }
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    for store, rows in result["stores"].items():
        for row in rows:
            print(
                f"{store:9} {row['keys']:5} keys  hotlap p50 {row['hotlap']['p50_ms']:7.3f} p99 "
                f"{row['hotlap']['p99_ms']:7.3f} ms  feast p50 {row['feast']['p50_ms']:8.3f} p99 "
                f"{row['feast']['p99_ms']:8.3f} ms  {row['times_hotlap']:5.2f} times hotlap's"
            )


if __name__ == "__main__":
    main()
