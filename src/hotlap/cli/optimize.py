"""`hotlap optimize`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hotlap.cli.options import DEVICES, AsJson, DeviceName, Quiet, Seed, Target, Threads, one_of, seconds


def optimize(
    target: Target,
    out: Annotated[Path, typer.Option("--out", help="Folder for the artifact, result, report and journal.")],
    budget: Annotated[str, typer.Option("--budget", help="Time for the search: 90s, 5m, 1h.")] = "5m",
    objective: Annotated[str, typer.Option("--objective", help="latency, throughput or size.")] = "latency",
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="Rows in a call. [default: 1; 16 for throughput]")
    ] = None,
    max_drop: Annotated[
        str | None,
        typer.Option("--max-drop", help="Score that may be lost: 0.01, or 1% of the score. [default: 0.01]"),
    ] = None,
    only: Annotated[list[str] | None, typer.Option("--only", help="Only this technique, runtime or precision.")] = None,
    skip: Annotated[list[str] | None, typer.Option("--skip", help="Not this technique, runtime or precision.")] = None,
    sign: Annotated[Path | None, typer.Option("--sign", help="Sign the artifact with this Ed25519 key.")] = None,
    expires: Annotated[str | None, typer.Option("--expires", help="Refuse the artifact after this long: 30d.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Take up the run in --out where it was.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Start the run in --out over.")] = False,
    max_evaluation_examples: Annotated[
        int, typer.Option("--max-evaluation-examples", min=2, help="Refuse evaluation data with more examples.")
    ] = 1_000_000,
    threads: Threads = None,
    seed: Seed = 0,
    device: DeviceName = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Find the fastest form of a model that keeps its accuracy."""
    from datetime import timedelta

    from rich.console import Console

    from hotlap.actions.optimize import optimize as run
    from hotlap.report.live import Live
    from hotlap.report.table import candidates_table, closing

    given = seconds(budget, "--budget")
    with Live(budget_seconds=given, quiet=quiet) as live:
        result = run(
            target,
            out=out,
            budget=given,
            objective=one_of("--objective", objective, ("latency", "throughput", "size")),
            batch=batch,
            max_drop=max_drop,
            only=only or (),
            skip=skip or (),
            sign=sign,
            expires=timedelta(seconds=seconds(expires, "--expires")) if expires else None,
            resume=resume,
            force=force,
            max_evaluation_examples=max_evaluation_examples,
            threads=threads,
            seed=seed,
            device=one_of("--device", device, DEVICES) if device else None,
            progress=live,
        )
    if as_json:
        print(json.dumps(result))
    else:
        console = Console()
        if not quiet:
            console.print(candidates_table(result))
        console.print(closing(result, out))
    return 0 if result["confirmed"] else 3
