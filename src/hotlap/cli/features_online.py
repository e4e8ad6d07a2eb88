"""`hotlap features apply|materialize|get|push`: the online side of the feature store."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hotlap.cli.options import AsJson, Quiet, prints_aside, seconds
from hotlap.errors import InputError

if TYPE_CHECKING:
    from hotlap.core import Json
    from hotlap.features.materialize import Progress

_ANEW = {
    "unknown": "Feast, which filled it, keeps not by which definition",
    "more": "its definition changed",
    "other": "its definition changed",
}
"""Why a view is materialized from its start, by what its definition is to that of the rows there."""
Repo = Annotated[str, typer.Option("--repo", help="Folder with a feature_store.yaml.")]


def apply(repo: Repo = ".", as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Register what the repository's own files define, and make the online store's tables."""
    from hotlap.actions.features_apply import apply as run

    with prints_aside():
        result = run(repo)
    if as_json:
        print(json.dumps(result))
    elif not quiet:
        for done, kinds in result.items():
            for kind, names in kinds.items():
                then = "; `hotlap features materialize` writes their values anew" if done == "changed" else ""
                print(f"{done} {kind}: {', '.join(names)}{then}")


def materialize(
    views: Annotated[list[str] | None, typer.Option("--view", help="Once for each. [default: all]")] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="First event time. [default: where the last run ended]")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="Last event time. [default: now]")] = None,
    repo: Repo = ".",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write each key's newest row into the online store; a killed run goes on where it was."""
    from hotlap.actions.features_materialize import materialize as run

    with _bars(shown=not (as_json or quiet)) as progress, prints_aside():
        result = run(repo, views, start=start, end=end, progress=progress)
    if as_json:
        print(json.dumps(result))
    elif not quiet:
        for name, one in result["views"].items():
            if one["start"] and datetime.fromisoformat(one["start"]) > datetime.fromisoformat(one["end"]):
                print(f"{name}: nothing to do, materialized until {one['start']} already; --from goes over it again")
                continue
            since = f"from {one['start']} " if one["start"] else ""
            again = f"; went on after {one['resumed_after_shares']} shares" if one["resumed_after_shares"] else ""
            again += f"; from its start, since {_ANEW[one['definition']]}" if one["anew"] else ""
            print(f"{name}: {one['rows']:,} keys {since}to {one['end']} in {one['seconds']:.1f} s{again}")


def get(
    key: Annotated[
        list[str] | None,
        typer.Option("--key", help="NAME=VALUE; the same name again: a row more. None for views without entities."),
    ] = None,
    keys: Annotated[str | None, typer.Option("--keys", help="A .parquet, .csv or .jsonl file of keys.")] = None,
    features: Annotated[list[str] | None, typer.Option("--feature", help="view:feature; once for each.")] = None,
    service: Annotated[str | None, typer.Option("--service", help="A feature service, instead of --feature.")] = None,
    repo: Repo = ".",
    full_names: Annotated[bool, typer.Option("--full-names", help="Name features view__feature.")] = False,
    timeout: Annotated[str, typer.Option("--timeout", help="How long to wait for the store.")] = "2s",
    as_json: AsJson = False,
) -> None:
    """The newest values of keys from the online store, with their ages."""
    from hotlap.actions.features_get import get as run

    if bool(features) == bool(service):
        raise InputError("give either --feature (once for each) or --service")
    if key and keys:
        raise InputError("give either --key NAME=VALUE (once for each) or --keys FILE")
    asked = Path(keys) if keys else _columns(key or [])
    limit = seconds(timeout, "--timeout")
    with prints_aside():
        result = run(repo, asked, service or features or [], full_feature_names=full_names, timeout_s=limit)
    if as_json:
        print(json.dumps(result, allow_nan=False))
    else:
        _print_rows(result["rows"])


def push(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Name of the views' PushSource.")],
    rows: Annotated[str, typer.Option("--rows", help="A .parquet, .csv or .jsonl file of keys, features and times.")],
    to: Annotated[str, typer.Option("--to", help="online, offline (the views' sources) or both.")] = "both",
    repo: Repo = ".",
    timeout: Annotated[str, typer.Option("--timeout", help="How long to wait for the online store.")] = "2s",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """New events into the online store and the views' sources; an older one replaces nothing."""
    from hotlap.actions.features_push import push as run

    with prints_aside():
        result = run(repo, source, rows, to=to, timeout_s=seconds(timeout, "--timeout"))  # type: ignore[arg-type]
    if as_json:
        print(json.dumps(result))
    elif not quiet:
        places = "the online store and the sources" if to == "both" else f"the {to} store"
        print(f"{result['rows']:,} rows of {source} to {places}, for {', '.join(result['views'])}")
        if result["left_out"]:
            print(f"  left out: {', '.join(result['left_out'])}, which no view of it has")


def _columns(pairs: list[str]) -> dict[str, list[str]]:
    columns: dict[str, list[str]] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InputError(f"--key {pair}: write it as NAME=VALUE")
        columns.setdefault(name, []).append(value)
    return columns


def _print_rows(rows: list[Json]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in [*rows[0]["keys"], *rows[0]["features"]] if rows else []:
        table.add_column(Text(name))
    for row in rows:
        cells = [*(str(one) for one in row["keys"].values()), *(_cell(one) for one in row["features"].values())]
        table.add_row(*map(Text, cells))
    Console(soft_wrap=True).print(table)


def _cell(one: Json) -> str:
    """A value with its age, or why there is none."""
    given = f"{one['value']:.6g}" if isinstance(one["value"], float) else str(one["value"])
    value = given if one["status"] in ("present", None) else one["status"]
    return value if one["age_seconds"] is None else f"{value} ({ago(one['age_seconds'])})"


def ago(age_seconds: float) -> str:
    """An age in its largest unit: `3.2 h`."""
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if abs(age_seconds) >= length:
            return f"{age_seconds / length:.1f} {unit}"
    return f"{age_seconds:.1f} s"


@contextmanager
def _bars(shown: bool) -> Iterator[Progress | None]:
    """A bar for each view on stderr, where a person looks on."""
    if not shown or not sys.stderr.isatty():
        yield None
        return
    from rich import progress
    from rich.console import Console

    columns = (progress.TextColumn("{task.description}"), progress.BarColumn(), progress.MofNCompleteColumn())
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, progress.TaskID] = {}

        def step(view: str, through: int, shares: int) -> None:
            if view not in tasks:
                tasks[view] = bars.add_task(view, total=shares)
            bars.update(tasks[view], completed=through, total=shares)

        yield step
