"""`hotlap doctor`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from hotlap.cli.options import AsJson, DeviceName, Quiet, Threads, one_of

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hotlap.core import Device, Json

_DEVICES: tuple[Device, ...] = ("cpu", "cuda")


def doctor(
    threads: Threads = None,
    device: DeviceName = None,
    again: Annotated[bool, typer.Option("--again", help="Measure the limits anew, although they are known.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Show what this machine is and can do, and which runtimes work here."""
    from rich.console import Console

    from hotlap.actions.doctor import doctor as run

    errors = Console(stderr=True)
    with errors.status("looking at this machine") as status:
        if quiet:
            status.stop()
        report = run(
            device=one_of("--device", device, _DEVICES) if device else None,
            threads=threads,
            measure_again=again,
            progress=lambda event: status.update(event["phase"]),
        )
    if as_json:
        print(json.dumps(report))
    else:
        Console().print(lines(report))


def lines(report: Json) -> RenderableType:
    """The report for a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from hotlap.report.table import plain

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for heading, rows in (
        ("machine", _machine(report)),
        ("limits", _limits(report)),
        ("runtimes", _runtimes(report)),
    ):
        grid.add_row(Text(heading, "bold not dim"), "")
        for name, text in rows:
            grid.add_row(f"  {plain(name)}", Text(plain(text)))
    advice = [Text(f"- {plain(sentence)}", "yellow") for sentence in report["advice"]]
    return Group(grid, *([Text("\nworth knowing", "bold"), *advice] if advice else []))


def _machine(report: Json) -> list[tuple[str, str]]:
    from hotlap.report import wording

    machine = report["machine"]
    quota = f", of {machine['cpu_quota']:g} that the cgroup grants" if machine["cpu_quota"] else ""
    gpus = [
        f"{gpu['name']}, {wording.byte_size(gpu['memory_bytes'])}, compute capability {gpu['compute_capability']}"
        for gpu in machine["gpus"]
    ]
    return [
        ("processor", machine["cpu"]),
        ("cores that are ours", f"{machine['cores']} (of {machine['logical_cpus']} logical CPUs{quota})"),
        ("memory that is ours", wording.byte_size(machine["memory_bytes"])),
        ("instruction sets", ", ".join(machine["instruction_sets"]) or "none that matter here"),
        *(("GPU", gpu) for gpu in gpus or ["none"]),
        ("system", f"{machine['os']}, Python {report['python']}, hotlap {report['hotlap_version']}"),
        ("C++ compiler", report["compiler"] or "none"),
        *(
            (f"disk, {place['what']}", f"{wording.byte_size(place['free_bytes'])} left at {place['path']}")
            for place in report["disk"]
        ),
    ]


def _limits(report: Json) -> list[tuple[str, str]]:
    from hotlap.report import wording

    limits, floor = report["limits"], report["noise_floor"]
    if limits is None:
        rows = [("none", report["limits_reason"])]
    else:
        rows = [
            (name, f"{wording.rate(rate, 'multiply-adds')} ({limits['kernels'][name]})" if rate else "not here")
            for name in ("fp32", "bf16", "int8")
            for rate in [limits[f"{name}_multiply_adds_per_second"]]
        ]
        rows.append(("memory", f"{wording.rate(limits['bytes_per_second'], 'B')}"))
        smallest, fastest = limits["bandwidth"][0]
        rows.append(("cache", f"{wording.rate(fastest, 'B')} within {wording.byte_size(smallest)}"))
        launch = limits["launch_ms"]
        rows.append(("launch", f"{1000 * launch:.1f} us an operation of eager PyTorch" if launch else "no torch here"))
    noise = report["noise_floor_reason"] if floor is None else f"{floor:.1%}: no gain below it is reported as one"
    return [*rows, ("noise floor", noise), ("threads", str(report["threads"]))]


def _runtimes(report: Json) -> list[tuple[str, str]]:
    several = len({one["device"] for one in report["runtimes"]}) > 1
    return [
        (
            f"{one['name']} on {one['device']}" if several else one["name"],
            "works" if one["works"] else f"no: {one['reason']}",
        )
        for one in report["runtimes"]
    ]
