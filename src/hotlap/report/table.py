"""A result in the terminal: the table of candidates, the closing lines, and the outcome of a comparison.

Everything fits 80 columns. Text of the user's is never read as markup, and what could steer a terminal is gone.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import PurePath

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hotlap.core import Json
from hotlap.report import wording
from hotlap.report.headline import headline
from hotlap.report.view import in_order

_MOST_ROWS = 30
_TAKEN = ("chosen", "passed")
_MOST_REASONS = 20
_STYLES = {"chosen": "bold green", "passed": "green", "dropped": "yellow", "rejected": "red", "failed": "red"}
_TONES = {"yes": "bold green", "unproven": "bold yellow", "no": "bold red"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_PLAIN = str.maketrans({"×": "x", "–": "-", "…": "...", "→": "->", "’": "'"})


def plain(text: Json) -> str:
    """The text in one line, without control characters, typographic signs in ASCII: fit for any terminal."""
    return " ".join(_CONTROL.sub(" ", str(text).translate(_PLAIN)).split())


def word(value: object) -> str:
    """A word of a command that a person may copy into a shell: every space stays, control characters do not."""
    return _CONTROL.sub(" ", shlex.quote(str(value)))


def candidates_table(result: Json) -> RenderableType:
    """The candidates that have figures, best first, and why the others have none. Fits 80 columns."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("candidate", overflow="fold", min_width=16)
    for name in ("ms", "faster", "lost", "size"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    baseline = result["baseline"]
    table.add_row(*_row(baseline, result), Text("baseline", "dim"))
    candidates = in_order(result.get("candidates") or [])
    timed = [one for one in candidates if wording.number(one.get("median_ms")) is not None]
    for one in timed[:_MOST_ROWS]:
        table.add_row(*_row(one, result), Text(one["status"], _STYLES.get(one["status"], "dim")))
    return Group(table, *_reasons(candidates, len(timed)))


def _row(figures: Json, result: Json) -> tuple[Text, ...]:
    ratio = wording.ratio(figures.get("speedup"))
    loss = wording.loss(figures.get("drop"), result.get("max_drop"))
    same = "same" if figures.get("gate") == "equivalence" else "-"
    faster = Text(f"{ratio.estimate}x", "bold") if ratio else Text("1x" if figures is result["baseline"] else "-")
    if ratio and ratio.interval:
        faster.append(f" {plain(ratio.interval)}", "dim")
    return (
        Text(plain(figures["name"])),
        Text(wording.significant(figures.get("median_ms")) or "-"),
        faster,
        Text(f"<={loss.high}" if loss.high else same),
        Text(wording.byte_size(figures.get("bytes")) or "-"),
    )


def _reasons(candidates: list[Json], timed: int) -> Iterator[RenderableType]:
    """Why each one that was not taken was not, in two columns; those of one reason together, the commonest last."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(overflow="fold", max_width=30)
    table.add_column(overflow="fold")
    alike: dict[tuple[str, str], list[str]] = {}
    for one in candidates:
        if one.get("reason") and one["status"] not in _TAKEN:
            alike.setdefault((one["status"], one["reason"]), []).append(one["name"])
    given = sorted(alike.items(), key=lambda item: len(item[1]))
    for (status, reason), names in given[:_MOST_REASONS]:
        said = Text(f"{status}: ", _STYLES.get(status, "dim")).append(plain(reason), "default")
        table.add_row(Text(plain(names[0]) if len(names) == 1 else f"{len(names)} candidates"), said)
    if given:
        yield Text("\nnot taken, and why", "dim")
        yield table
    left = max(0, timed - _MOST_ROWS) + max(0, len(given) - _MOST_REASONS)
    if left:
        yield Text(f"{left} more rows are in report.html", "dim")
    elif any(len(names) > 1 for names in alike.values()):
        yield Text("each candidate by name is in report.html", "dim")


def closing(result: Json, folder: PurePath) -> RenderableType:
    """The last lines of a run: what was gained, is it as accurate, can it be trusted, how to load and verify it."""
    told = headline(result)
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for question, answer in (("faster", told.gain), ("as accurate", told.accuracy), ("to be trusted", told.trust)):
        said = Text(plain(answer.value), _TONES[answer.tone])
        if answer.details:
            said.append(plain(f": {'; '.join(map(_small, answer.details))}"), "default")
        grid.add_row(question, said)
    for warning in result.get("warnings") or []:
        grid.add_row("warning", Text(plain(warning), "yellow"))
    artifact = result["best"].get("artifact")
    if artifact:
        path = str(folder / artifact)
        grid.add_row("load it", _typed(f"hotlap.load({json.dumps(path)})"))
        grid.add_row("verify it", _typed(f"hotlap verify {shlex.quote(path)}"))
    grid.add_row("read it", _typed(str(folder / "report.html")))
    return Group(Text(plain(told.title), _TONES[told.tone]), Text(plain(told.lead)), Text(""), grid)


def _typed(command: str) -> Text:
    """What a person may copy: every space stays."""
    return Text(_CONTROL.sub(" ", command))


def _small(sentence: str) -> str:
    """A sentence as it stands after a colon."""
    return sentence[:1].lower() + sentence[1:]


def comparison(compared: Json) -> RenderableType:
    """What `hotlap compare A B` found: both times, the ratio with its interval, and the verdict."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("what", overflow="fold")
    table.add_column("ms", justify="right", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    for side in ("a", "b"):
        figures = compared[side]
        time, size = wording.significant(figures.get("median_ms")), wording.byte_size(figures.get("bytes"))
        table.add_row(side.upper(), Text(plain(figures["name"])), time or "-", size or "-")
    return Group(table, Text(""), _verdict(compared))


def _verdict(compared: Json) -> Text:
    ratio = wording.ratio(compared.get("speedup"))
    between = f", between {ratio.low} and {ratio.high}" if ratio and ratio.low else ""
    times = f": {ratio.estimate} times the speed of A{between}" if ratio else ""
    words = {"faster": ("B is faster", "yes"), "slower": ("B is slower", "no")}
    text, tone = words.get(compared["verdict"], ("No difference between A and B", "unproven"))
    return Text(plain(f"{text}{times}"), _TONES[tone])
