"""`hotlap tune`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from hotlap.cli.options import DEVICES, AsJson, DeviceName, Quiet, Seed, Threads, Trainable, byte_count, one_of, seconds

_PROOFS: tuple[Literal["short", "full", "none"], ...] = ("short", "full", "none")


def tune(
    target: Trainable,
    out: Annotated[Path, typer.Option("--out", help="Folder for settings.json, result and report.")],
    budget: Annotated[str, typer.Option("--budget", help="Time for the search: 90s, 3m.")] = "3m",
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="What is learnt: clip=1.0, schedule=cosine, batch_size=128.")
    ] = None,
    max_memory: Annotated[
        str | None,
        typer.Option("--max-memory", help="What training may hold: 4G, 900M. [default: 90% of ours; none on CUDA]"),
    ] = None,
    other_batch_sizes: Annotated[
        bool, typer.Option("--other-batch-sizes", help="Try larger batches too, which change the result.")
    ] = False,
    prove: Annotated[
        str, typer.Option("--prove", help="Is training as good with it? short, full (to the end), none.")
    ] = "none",
    prove_budget: Annotated[
        str | None, typer.Option("--prove-budget", help="Time for each set-up judged. [default: 5m; full: 1h]")
    ] = None,
    prove_margin: Annotated[
        float | None, typer.Option("--prove-margin", min=1e-6, help="Worse: 0.05 of the loss; full: 0.01 of score.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Start the run in --out over.")] = False,
    threads: Threads = None,
    seed: Seed = 0,
    device: DeviceName = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Find the fastest training set-up of the same batch size."""
    from rich.console import Console

    from hotlap.actions.tune import tune as run
    from hotlap.report.live import Live
    from hotlap.report.training import tuned
    from hotlap.training.settings import parse_settings

    given = seconds(budget, "--budget")
    with Live(budget_seconds=given, quiet=quiet) as live:
        result = run(
            target,
            out=out,
            settings=parse_settings(changes or []),
            budget=given,
            max_memory=byte_count(max_memory, "--max-memory") if max_memory else None,
            other_batch_sizes=other_batch_sizes,
            prove=one_of("--prove", prove, _PROOFS),
            prove_budget=seconds(prove_budget, "--prove-budget") if prove_budget else None,
            prove_margin=prove_margin,
            force=force,
            threads=threads,
            seed=seed,
            device=one_of("--device", device, DEVICES) if device else None,
            progress=live,
        )
    if as_json:
        print(json.dumps(result))
    else:
        Console().print(tuned(result, target, out))
    return 0 if result["confirmed"] else 3
