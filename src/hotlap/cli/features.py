"""`hotlap features`: the feature store."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from hotlap.cli.features_online import apply, get, materialize, push
from hotlap.cli.options import AsJson, Quiet, prints_aside
from hotlap.errors import InputError, Refusal

if TYPE_CHECKING:
    from hotlap.core import Json

app = typer.Typer(help="Features that are the same in training and serving, on Feast.", no_args_is_help=True)


@app.callback()
def _features() -> None:
    """Features that are the same in training and serving, on Feast."""


for command in (apply, materialize, get, push):
    app.command()(command)


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
    with prints_aside():
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


@app.command()
def check(
    log: Annotated[str | None, typer.Option("--log", help="Folder of logged reads to replay.")] = None,
    features: Annotated[
        list[str] | None, typer.Option("--feature", help="view:feature to read now; once for each.")
    ] = None,
    service: Annotated[str | None, typer.Option("--service", help="A feature service, instead of --feature.")] = None,
    repo: Annotated[str, typer.Option("--repo", help="Folder with a feature_store.yaml.")] = ".",
    keys: Annotated[
        str | None, typer.Option("--keys", help="Parquet file of keys to read now. [default: drawn from the sources]")
    ] = None,
    at: Annotated[datetime | None, typer.Option("--at", help="Read as of this instant (UTC). [default: now]")] = None,
    sample: Annotated[
        int | None, typer.Option("--sample", help="How many reads. [default: all of a log, 1000 of now]")
    ] = None,
    known_only: Annotated[
        bool, typer.Option("--known-only", help="Hold serving only to what had been created by then.")
    ] = False,
    tolerance: Annotated[float, typer.Option("--tolerance", help="Relative, for floats.")] = 1e-6,
    max_mismatch: Annotated[float, typer.Option("--max-mismatch", help="Largest share of reads that differ.")] = 0.01,
    max_missing: Annotated[float, typer.Option("--max-missing", help="... that lack a value offline has.")] = 0.01,
    max_extra: Annotated[float, typer.Option("--max-extra", help="... that have a value offline lacks.")] = 0.01,
    max_stale: Annotated[float, typer.Option("--max-stale", help="... whose value is of an older event.")] = 0.01,
    max_smape: Annotated[
        float | None, typer.Option("--max-smape", help="Largest SMAPE (0 to 2). [default: any]")
    ] = None,
    training: Annotated[
        str | None, typer.Option("--training", help="Parquet file of training rows to compare distributions with.")
    ] = None,
    max_psi: Annotated[
        float | None, typer.Option("--max-psi", help="Largest shift from training. [default: any]")
    ] = None,
    report: Annotated[str | None, typer.Option("--report", help="HTML file to write.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="For what is drawn at random.")] = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Hold online reads against the offline join at the same instants; exit code 3 above a limit."""
    from hotlap.actions.features_check import check as run

    if bool(features) + bool(service) + bool(log) != 1:
        raise InputError("give one of --log, --feature (once for each) or --service")
    with prints_aside():
        result = run(
            repo,
            service or features or None,
            log=log,
            keys=keys,
            at=at,
            sample=sample,
            known_only=known_only or None,
            tolerance=tolerance,
            seed=seed,
            limits={
                "mismatch": max_mismatch,
                "missing": max_missing,
                "extra": max_extra,
                "stale": max_stale,
                "smape": max_smape,
            },
            training=training,
            max_psi=max_psi,
            report=report,
        )
    if as_json:
        print(json.dumps(result, allow_nan=False))
    elif not quiet:
        for line in check_lines(result):
            print(line)
    if result["breaches"]:
        worst = result["breaches"][0]["sentence"]
        more = len(result["breaches"]) - 1
        raise Refusal(f"{worst}{f', and {more} more' if more else ''}")


def check_lines(result: Json) -> list[str]:
    """The report for a terminal: a line a feature, then what differs."""
    told = []
    for name, one in result["features"].items():
        rates = ", ".join(
            f"{rate} {one[rate]['estimate']:.2%} ({one[rate]['low']:.2%} to {one[rate]['high']:.2%})"
            for rate in ("mismatch", "missing", "extra", "stale")
        )
        smape = f", SMAPE {one['smape']['estimate']:.4g}" if one["smape"] else ""
        told.append(f"{name}: {one['reads']:,} reads, {one['both']:,} with a value on both sides: {rates}{smape}")
        for shown in one["examples"][:2]:
            kinds = " and ".join(shown["kinds"])
            told.append(f"    {kinds}: {shown['keys']} at {shown['at']}")
            told += [f"      {side} {shown[side]}, of {shown[f'{side}_event']}" for side in ("online", "offline")]
    for name, one in result.get("distributions", {}).items():
        psi = one["psi"]
        size = f"PSI {psi['estimate']:.3g} ({psi['low']:.3g} to {psi['high']:.3g})" if psi else "no values to compare"
        told.append(f"{name} against training: {one['verdict']}; {size}; missing {one['serving_missing']:.2%}, in "
                    f"training {one['training_missing']:.2%}")  # fmt: skip
    told += [f"not compared: {one}" for one in result["not_compared"]]
    if result.get("not_in_training"):
        told.append(f"not in the training rows, so not compared with them: {', '.join(result['not_in_training'])}")
    return told


def lines(result: Json) -> list[str]:
    """The report for a terminal."""
    told = [f"{result['rows']:,} rows in {result['out']}"]
    by = result["lineage"]["offline_store"]
    if by != "hotlap.features.PolarsOfflineStore":
        told.append(f"  joined by the offline store {by}, ties by its rules; ages and likely leaks are not known")
    for name, one in result["views"].items():
        age = one["age_seconds"]
        old = f"; age {age['median']:,.0f} s in the middle, {age['max']:,.0f} s at most" if age else ""
        told.append(f"  {name}: {one['missing']:,} rows without a value{old}")
        if one["lost_rows"]:
            told.append(
                f"    the store lost {one['lost_rows']:,} of the {result['rows']:,} rows it was asked for; they are "
                "here, without its values"
            )
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
