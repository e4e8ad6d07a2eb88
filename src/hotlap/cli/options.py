"""Options that several commands share, and how durations are written."""

from __future__ import annotations

import re
import sys
from contextlib import AbstractContextManager, redirect_stdout
from typing import Annotated, Any, TypeVar

import typer

from hotlap.core import Device
from hotlap.errors import InputError

DEVICES: tuple[Device, ...] = ("cpu", "cuda")
_Choice = TypeVar("_Choice", bound=str)
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

Target = Annotated[str, typer.Argument(help="FILE.py, FILE.py:NAME, package.module:NAME, or an artifact folder.")]
Trainable = Annotated[
    str,
    typer.Argument(help="FILE.py, FILE.py:NAME or package.module:NAME; @FOLDER after it: from that run's weights on."),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, all else on stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print the result only.")]
Threads = Annotated[int | None, typer.Option("--threads", help="CPU threads. [default: the cores that are ours]")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of every random choice.")]
DeviceName = Annotated[str | None, typer.Option("--device", help="cpu or cuda. [default: cuda where there is one]")]


def prints_aside() -> AbstractContextManager[Any]:
    """Around work that calls the user's code: what that prints goes to stderr, since stdout holds the result."""
    return redirect_stdout(sys.stderr)


def seconds(text: str, flag: str) -> float:
    """Seconds in a duration such as `90s`, `5m`, `1.5h`, `30d`; a bare number is seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip())
    if not match or float(match[1]) <= 0:
        raise InputError(f"{flag} {text}: not a duration; write it as 90s, 5m, 1.5h or 30d")
    return float(match[1]) * _UNITS[match[2] or "s"]


def byte_count(text: str, flag: str) -> int:
    """Bytes in a size such as `4G`, `900M`, `1.5GiB`; units are powers of 1024, a bare number is bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not match or float(match[1]) <= 0:
        raise InputError(f"{flag} {text}: not a size; write it as 4G or 900M")
    return int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " "))


def one_of(flag: str, given: str, allowed: tuple[_Choice, ...]) -> _Choice:
    """The choice that was given, or an InputError that names those there are."""
    for choice in allowed:
        if choice == given:
            return choice
    raise InputError(f"{flag} {given}: give one of {', '.join(allowed)}")
