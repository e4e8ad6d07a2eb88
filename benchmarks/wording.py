"""Figures and tables as Markdown: what the pages of all benchmarks share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

Json = Any
Row = Sequence[str]


def table(head: Row, rows: Sequence[Row]) -> str:
    """A Markdown table; all columns but the first are right-aligned."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def ratio(interval: Json) -> str:
    """A ratio with its interval, to as many digits as it bears."""
    digits = 1 if interval["estimate"] >= 10 else 2
    return f"{interval['estimate']:.{digits}f}x ({interval['low']:.{digits}f} to {interval['high']:.{digits}f})"


def short(interval: Json) -> str:
    return f"{interval['estimate']:.2f}x" if interval["estimate"] < 10 else f"{interval['estimate']:.1f}x"


def milliseconds(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def machine_words(machine: Json) -> str:
    memory = machine["memory_bytes"] / 2**30
    sets = ", ".join(machine["instruction_sets"])
    return f"{machine['cpu']} ({machine['cpu_model']}), {machine['cores']} cores, {memory:.0f} GiB; {sets}"
