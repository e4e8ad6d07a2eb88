"""`hotlap monitor`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hotlap.cli.options import AsJson, Quiet, seconds

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hotlap.core import Json


def monitor(
    pids: Annotated[
        list[int] | None,
        typer.Argument(metavar="[PID]...", help="Processes, with all they started. [default: the largest of yours]"),
    ] = None,
    every: Annotated[str, typer.Option("--every", help="Time between looks, such as 500ms, 1s, 1m.")] = "1s",
    during: Annotated[
        str | None, typer.Option("--for", help="End after this long. [default: when all PIDs are gone, or Ctrl-C]")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="A new file: one JSON line a look.")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Show memory and utilisation of devices and processes, live or to a file; the peaks at the end."""
    from rich.console import Console
    from rich.live import Live

    from hotlap.actions.monitor import monitor as run

    interval, span = duration(every, "--every"), seconds(during, "--for") if during else None
    console = Console(stderr=True)
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def show(use: Json) -> None:
            if not quiet and console.is_terminal:
                live.update(now(use), refresh=True)

        result = run(pids or (), every=interval, seconds=span, out=out, progress=show)
    if as_json:
        print(json.dumps(result))
    else:
        Console().print(peaks(result))


def duration(text: str, flag: str) -> float:
    """Seconds; as elsewhere, and milliseconds too."""
    number = text.removesuffix("ms").strip()
    if text.endswith("ms") and number.isdigit() and int(number):
        return int(number) / 1000
    return seconds(text, flag)


def now(use: Json) -> RenderableType:
    """One look for a terminal."""
    from rich.console import Group
    from rich.text import Text

    from hotlap.report import wording

    size = wording.byte_size
    head = Text(
        f"{size(use['tree_bytes'])} in {len(use['processes'])} processes; the machine has "
        f"{size(use['available_bytes'])} left of {size(use['total_bytes'])}",
        "bold",
    )
    rows = [
        [str(one["pid"]), one["name"], size(one["resident_bytes"]), size(one["proportional_bytes"]) or "-",
         size(one["peak_bytes"]) or "-"]
        for one in sorted(use["processes"], key=lambda one: -one["resident_bytes"])[:20]
    ]  # fmt: skip
    devices = [
        [str(gpu["index"]), gpu["name"], f"{size(gpu['used_bytes'])} of {size(gpu['total_bytes'])}",
         wording.percent(gpu["utilization"]) or "-"]
        for gpu in use["gpus"]
    ]  # fmt: skip
    parts = [head, _table(("process", "name", "resident", "own share", "peak"), rows)]
    if devices:
        parts.append(_table(("GPU", "name", "memory", "busy"), devices))
    return Group(*parts)


def peaks(result: Json) -> RenderableType:
    """The peaks for a terminal."""
    from rich.console import Group
    from rich.text import Text

    from hotlap.report import wording

    size = wording.byte_size
    looks = f"{result['looks']} look{'' if result['looks'] == 1 else 's'}"
    head = Text(
        f"at most {size(result['peak_tree_bytes'])} in all of {looks}; "
        f"at least {size(result['least_available_bytes'])} were left on the machine",
        "bold",
    )
    rows = [[str(one["pid"]), one["name"], size(one["peak_bytes"])] for one in result["processes"][:20]]
    devices = [[str(gpu["index"]), gpu["name"], size(gpu["peak_used_bytes"])] for gpu in result["gpus"]]
    none = Text("no GPU that the driver or torch knows of", "dim")
    last = _table(("GPU", "name", "peak"), devices) if devices else none
    return Group(head, _table(("process", "name", "peak"), rows), last)


def _table(columns: tuple[str, ...], rows: list[list[str]]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    from hotlap.report.table import plain

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if name in ("process", "GPU", "name") else "right")
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    return table
