"""`hotlap features`: the feature store."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from hotlap.cli.options import AsJson, Quiet
from hotlap.errors import InputError

if TYPE_CHECKING:
    from hotlap.core import Json

app = typer.Typer(help="Features that are the same in training and serving, on Feast.", no_args_is_help=True)


@app.callback()
def _features() -> None:
    """Features that are the same in training and serving, on Feast."""


@app.command()
def train(
    entities: Annotated[str, typer.Option("--entities", help="Parquet file of rows: keys and an instant each.")],
    out: Annotated[str, typer.Option("--out", help="Parquet file to write.")],
    features: Annotated[list[str] | None, typer.Option("--feature", help="view:feature; once for each.")] = None,
    service: Annotated[str | None, typer.Option("--service", help="A feature service, instead of --feature.")] = None,
    repo: Annotated[str, typer.Option("--repo", help="Folder with a feature_store.yaml.")] = ".",
    at: Annotated[
        str | None, typer.Option("--at", help="Column of instants. [default: event_timestamp, or the only one]")
    ] = None,
    known_only: Annotated[
        bool, typer.Option("--known-only", help="Leave out what was created after the instant asked for.")
    ] = False,
    full_names: Annotated[bool, typer.Option("--full-names", help="Name features view__feature.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write training rows: features as of each row's instant."""
    from hotlap.actions.features_train import train as run

    if bool(features) == bool(service):
        raise InputError("give either --feature (once for each) or --service")
    result = run(
        repo,
        entities,
        service or features or [],
        out=out,
        at=at,
        known_only=known_only or None,
        full_feature_names=full_names,
    )
    if as_json:
        print(json.dumps(result))
    elif not quiet:
        for line in lines(result):
            print(line)


def lines(result: Json) -> list[str]:
    """The report for a terminal."""
    told = [f"{result['rows']:,} rows in {result['out']}"]
    for name, one in result["views"].items():
        age = one["age_seconds"]
        old = f"; age {age['median']:,.0f} s in the middle, {age['max']:,.0f} s at most" if age else ""
        told.append(f"  {name}: {one['missing']:,} rows without a value{old}")
        if one["created_after"]:
            told.append(
                f"    {one['leak_share']:.2%} of its values were created after the instant they were given for, a "
                "likely leak; --known-only leaves them out"
            )
    empty = [(name, share) for name, share in result["null_share"].items() if share]
    told += [f"  {name}: {share:.1%} null" for name, share in empty]
    if result["rows_without_features"]:
        told.append(f"  {result['rows_without_features']:,} rows got no feature at all")
    return told
