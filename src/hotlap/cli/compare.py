"""`hotlap compare`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from hotlap.cli.options import DEVICES, AsJson, DeviceName, Quiet, Target, Threads, one_of, seconds


def compare(
    a: Target,
    b: Target,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Rows in a call.")] = 1,
    budget: Annotated[str, typer.Option("--budget", help="Start no further pair of processes after: 60s, 5m.")] = "60s",
    threads: Threads = None,
    device: DeviceName = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Time two targets or artifacts in turn, with an interval."""
    from rich.console import Console

    from hotlap.actions.compare import compare as run
    from hotlap.report.live import Live
    from hotlap.report.table import comparison

    given = seconds(budget, "--budget")
    with Live(budget_seconds=given, quiet=quiet) as live:
        result = run(
            a,
            b,
            batch=batch,
            budget=given,
            threads=threads,
            device=one_of("--device", device, DEVICES) if device else None,
            progress=live,
        )
    if as_json:
        print(json.dumps(result))
    else:
        Console().print(comparison(result))
