"""`hotlap train`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from hotlap.cli.options import DEVICES, AsJson, DeviceName, Quiet, Threads, Trainable, one_of


def train(
    target: Trainable,
    out: Annotated[Path, typer.Option("--out", help="Folder for weights, checkpoints, metrics and result.")],
    settings: Annotated[
        Path | None, typer.Option("--settings", help="A settings.json, such as hotlap tune writes.")
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="One setting: precision=bf16, clip=1.0, early_stop=3.")
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Passes over the data.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest whole checkpoint in --out.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Start the run in --out over.")] = False,
    threads: Threads = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of every random choice. [default: 0]")] = None,
    device: DeviceName = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a model; `hotlap optimize TARGET@OUT` takes the weights."""
    from rich.console import Console

    from hotlap.actions.train import train as run
    from hotlap.report.training import TrainingLive, closing
    from hotlap.training.settings import parse_settings, read_settings

    given = {**(read_settings(settings) if settings else {}), **parse_settings(changes or [])}
    if epochs is not None:
        given["epochs"] = epochs
    with TrainingLive(quiet=quiet) as live:
        result = run(
            target,
            out=out,
            settings=given,
            resume=resume,
            force=force,
            threads=threads,
            seed=seed,
            device=one_of("--device", device, DEVICES) if device else None,
            progress=live,
        )
    if os.environ.get("RANK", "0") != "0":
        return
    if as_json:
        print(json.dumps(result))
    else:
        Console().print(closing(result, target, out))
