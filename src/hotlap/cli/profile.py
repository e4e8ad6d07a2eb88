"""`hotlap profile`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from hotlap.cli.options import AsJson, DeviceName, Quiet, Target, Threads, one_of

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from hotlap.core import Device, Json

_DEVICES: tuple[Device, ...] = ("cpu", "cuda")
_LEAST_SHARE = 0.005
"""A layer or kind that takes less of the time is only in the JSON."""


def profile(
    target: Target,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Rows in a call.")] = 1,
    layers: Annotated[int, typer.Option("--layers", min=1, help="How many layers to show.")] = 15,
    threads: Threads = None,
    device: DeviceName = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Show where a model's time and memory go, and what to try first. Changes nothing."""
    from rich.console import Console

    from hotlap.actions.profile import profile as run

    with Console(stderr=True).status("opening") as status:
        if quiet:
            status.stop()
        result = run(
            target,
            batch=batch,
            threads=threads,
            device=one_of("--device", device, _DEVICES) if device else None,
            progress=lambda event: status.update(event["phase"]),
        )
    if as_json:
        print(json.dumps(result))
        return
    console = Console()
    for part in _artifact(result, layers) if "artifact" in result else _workload(result, layers):
        console.print(part)


def _workload(result: Json, layers: int) -> Iterator[RenderableType]:
    from rich.text import Text

    from hotlap.report import wording
    from hotlap.report.table import plain

    found = result["profile"]
    yield Text(_head(result), "bold")
    yield _facts(result)
    rows = [one for one in found["layers"] if one["share"] >= _LEAST_SHARE][:layers]
    table = _table("layer", "type", "ms", "share", "multiply-adds", "bytes", "of the limit")
    for one in rows:
        table.add_row(
            Text(plain(one["name"])),
            Text(plain(one["type"])),
            wording.significant(one["ms"]),
            wording.percent(one["share"]),
            wording.multiply_adds(one["multiply_adds"]) if one["multiply_adds"] else "-",
            wording.byte_size(one["bytes"]) if one["bytes"] else "-",
            wording.percent(one["share_of_limit"]) or "-",
        )
    yield table
    left = found["layers"][len(rows) :]
    if left:
        yield Text(f"{len(left)} more layers take {sum(one['share'] for one in left):.0%} of the time\n", "dim")
    kinds = _table("kind of operation", "ms", "share")
    for one in found["kinds"]:
        if one["share"] >= _LEAST_SHARE:
            kinds.add_row(one["kind"], wording.significant(one["ms"]), wording.percent(one["share"]))
    kinds.add_row(
        "other",
        wording.significant(found["other_share"] * found["total_ms"]),
        wording.percent(found["other_share"]),
    )
    yield kinds
    yield Text("\nwhat to try, by the most that it could bring", "bold")
    yield _suggestions(found["suggestions"])
    for warning in result["warnings"]:
        yield Text(f"warning: {plain(warning)}", "yellow")


def _facts(result: Json) -> Table:
    from rich.table import Table

    from hotlap.report import wording

    found = result["profile"]
    overhead, memory, bounds = found["overhead"], found["memory"], found["bounds_ms"]
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("work", f"{wording.multiply_adds(found['multiply_adds'])} multiply-adds a call")
    grid.add_row(
        "limits",
        f"{wording.percent(found['share_of_limit'])} of the fp32 limit; at the limits a call takes "
        + ", ".join(f"{wording.significant(ms)} ms in {precision}" for precision, ms in bounds.items()),
    )
    grid.add_row(
        "lost to",
        f"launch overhead {wording.percent(overhead['launch_share'])}, layout changes "
        f"{wording.percent(overhead['layout_share'])}, waiting {wording.percent(overhead['waiting_share'])}",
    )
    sizes = [wording.byte_size(memory[name]) for name in ("weights_bytes", "activations_bytes", "peak_bytes")]
    grid.add_row("memory", "weights {}, activations {}, the whole process {}\n".format(*sizes))
    return grid


def _suggestions(found: list[Json]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    from hotlap.report.table import plain

    if not found:
        return Text("nothing that could bring 5%")
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(overflow="fold")
    for one in found:
        why = Text(f"\n{plain(one['why'])}", "dim")
        grid.add_row(f"{one['at_most_speedup']:.1f}x", Text(plain(one["what"])).append_text(why))
    return grid


def _artifact(result: Json, layers: int) -> Iterator[RenderableType]:
    from rich.text import Text

    from hotlap.report import wording
    from hotlap.report.table import plain

    found = result["profile"]
    yield Text(f"{_head(result)}; {plain(result['candidate'])}", "bold")
    table = _table("operation", "kind", "ms", "share", "role", "format")
    for one in found["operations"][:layers]:
        table.add_row(
            Text(plain(one["name"])),
            Text(plain(one["kind"])),
            wording.significant(one["ms"]),
            wording.percent(one["ms"] / found["total_ms"]),
            one["role"],
            one["precision"] or "-",
        )
    yield table
    for sentence in found["why_not_faster"]:
        yield Text(f"- {plain(sentence)}")


def _head(result: Json) -> str:
    from hotlap.report import wording
    from hotlap.report.table import plain

    threads = f"{result['threads']} thread{'s' if result['threads'] > 1 else ''}"
    total = wording.milliseconds(result["profile"]["total_ms"])
    return f"{plain(result['workload'])}: {total} a call of batch {result['batch']}, {threads}, {result['device']}"


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for name in columns:
        text = name in ("layer", "type", "kind of operation", "operation", "kind", "role", "format")
        table.add_column(name, justify="left" if text else "right", overflow="fold", no_wrap=not text)
    return table
