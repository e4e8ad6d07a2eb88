"""The search as it runs: what is in work, how much time is left, the best so far, and how many came to what.

`Live` takes plain events, so that the search knows nothing of terminals:

    {"event": "phase", "phase": "timing the original"}            a new part of the work begins
    {"event": "space", "candidates": 24}                          the search begins, with so many to try
    {"event": "start", "name": ..., "seconds_left": ...}          a candidate is in work
    {"event": "done", "name": ..., "status": ..., "reason": ...,  it came to an end; `speedup` as in result.json,
     "speedup": {...}, "median_ms": ..., "drop": {...},           figures left out where there are none; `waiting`
     "waiting": 7}                                                have not had their turn

All but "event", "name" and "status" may be left out, and an event may carry any other field. An event of another
kind is not shown.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live as RichLive
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hotlap.core import Json
from hotlap.report import wording
from hotlap.report.table import plain
from hotlap.report.wording import at, number

_TOOK = ("chosen", "passed")


class Live:
    """Shows the events of a search on stderr: redrawn in place on a terminal, one line each elsewhere.

    With `quiet` it shows nothing. Standard output stays free for the result, so `--json` needs no setting of its
    own. Call it with each event, within `with`. `clock` gives seconds.
    """

    def __init__(
        self,
        *,
        budget_seconds: float,
        quiet: bool = False,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or Console(stderr=True)
        self._budget, self._quiet, self._clock = budget_seconds, quiet, clock
        self._began, self._ends = clock(), clock() + budget_seconds
        self._phase, self._in_work, self._waiting = "", "", None
        self._best: Json = None
        self._counts: Counter[str] = Counter()
        self._display: RichLive | None = None

    def __enter__(self) -> Self:
        self._began, self._ends = self._clock(), self._clock() + self._budget
        if self._console.is_terminal and not self._quiet:
            # Once a second: the timing runs on the same cores, and drawing must not tax it.
            self._display = RichLive(
                get_renderable=self._render, console=self._console, refresh_per_second=1, transient=True
            )
            self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._display:
            self._display.stop()
            self._display = None

    def __call__(self, event: Json) -> None:
        """Take one event in and show it."""
        kind, left = event.get("event"), number(event.get("seconds_left"))
        if left is not None:
            self._ends = self._clock() + left
            # A proof has its own time, beside the search's.
            self._budget = max(self._budget, left)
        if kind in ("phase", "space"):
            self._in_work = ""
            self._phase = plain(event.get("phase") or f"trying {event.get('candidates', 'the')} candidates")
        elif kind == "start":
            self._in_work = plain(event["name"])
        elif kind == "done":
            self._in_work, self._waiting = "", event.get("waiting")
            self._counts[event["status"]] += 1
            self._best = _better(self._best, event)
        if not self._quiet and not self._display:
            self._line(kind, event)

    def _line(self, kind: Json, event: Json) -> None:
        """One event as one line; a start is not worth one."""
        text = _outcome(event) if kind == "done" else self._phase if kind in ("phase", "space") else ""
        if text:
            elapsed = Text(f"{wording.duration(round(self._clock() - self._began)):>10}  ", "dim")
            self._console.print(elapsed.append(text, "default"), soft_wrap=True, highlight=False)

    def _render(self) -> Group:
        left = min(max(0.0, self._ends - self._clock()), self._budget)
        bar = ProgressBar(total=self._budget, completed=self._budget - left, width=32)
        time_left = Table.grid(padding=(0, 2, 0, 0))
        time_left.add_row(bar, Text(f"{wording.duration(round(left))} left"))
        rows = Table.grid(padding=(0, 2, 0, 0))
        rows.add_column(style="dim", no_wrap=True, min_width=7)
        rows.add_column()
        if self._in_work:
            rows.add_row("in work", _one_line(self._in_work))
        if self._best:
            rows.add_row("best", _one_line(_figures(self._best), "green"))
        if self._counts:
            counts = [f"{times} {status}" for status, times in self._counts.items()]
            if self._waiting is not None:
                counts.append(f"{self._waiting} waiting")
            rows.add_row("so far", Text(", ".join(counts)))
        return Group(_one_line(self._phase, "bold"), time_left, rows)


def _one_line(text: str, style: str = "") -> Text:
    """Text that is cut rather than wrapped, so that the display does not jump."""
    return Text(text, style, no_wrap=True, overflow="ellipsis")


def _better(best: Json, event: Json) -> Json:
    """The faster of the two that may be taken; the first where the second may not be."""
    speed, before = number(at(event, "speedup", "estimate")), number(at(best, "speedup", "estimate"))
    takes = event["status"] in _TOOK and speed is not None and (before is None or speed > before)
    return event if takes else best


def _outcome(event: Json) -> str:
    """One candidate's end in one line: `passed    openvino int8  0.641 ms  15.2x (14.7-15.6)  lost <= 0.0061`."""
    reason = f"  ({plain(event['reason'])})" if event.get("reason") else ""
    return f"{event['status']:<8}  {_figures(event)}{reason}"


def _figures(event: Json) -> str:
    ratio, loss = wording.ratio(event.get("speedup")), wording.loss(event.get("drop"), event.get("max_drop"))
    parts = (
        event["name"],
        wording.milliseconds(event.get("median_ms")),
        f"{ratio.estimate}×{f' ({ratio.interval})' if ratio.interval else ''}" if ratio else "",
        f"lost <= {loss.high}" if loss.high else "",
    )
    return "  ".join(plain(part) for part in parts if part)
