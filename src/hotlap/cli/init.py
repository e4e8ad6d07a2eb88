"""`hotlap init`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from hotlap.cli.options import AsJson, Quiet


def init(
    path: Annotated[Path, typer.Argument(help="The Python file to write.")] = Path("workload.py"),
    model: Annotated[
        str | None,
        typer.Option("--model", help="package.module:NAME or FILE.py:NAME of the class or function that builds it."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="The state dict: a .safetensors, .pt or .pth file.")
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            help="[NAME:][DTYPE:]SHAPE of one example, such as 3x224x224 or ids:int64:128; once an input.",
        ),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write a commented workload from what you have."""
    from hotlap.actions.init import init as run

    result = run(path, model=model, weights=weights, inputs=inputs or [])
    if as_json:
        from hotlap.core import to_json

        print(json.dumps(to_json(result), indent=2))
        return
    print(f"wrote {result.path}")
    if quiet:
        return
    print(f"it runs: {result.signature}" if result.signature else f"it does not run yet: {result.missing}")
    print("next:", *(f"{number}. {step}" for number, step in enumerate(result.next_steps, 1)), sep="\n  ")
    sys.stdout.flush()
