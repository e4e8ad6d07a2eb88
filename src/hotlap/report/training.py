"""Training as it runs, and what came of it, for a terminal.

`TrainingLive` takes the events of training.loop: "phase", "step", "score", "interrupted", "end".
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live as RichLive
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hotlap.core import Json
from hotlap.report import wording
from hotlap.report.headline import tried
from hotlap.report.table import plain, word
from hotlap.report.wording import at
from hotlap.training.settings import beside_the_workload

_LINE_SECONDS = 10.0
"""Without a terminal, one line of progress so often."""
_SMOOTHING = 0.1
_WORKLOAD = re.compile(r"(\.py|:[^:/]*)$")
"""How FILE.py, FILE.py:NAME and package.module:NAME end."""


class TrainingLive:
    """Shows the events of training on stderr: redrawn in place on a terminal, a line now and then elsewhere.

    `clock` gives seconds.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or Console(stderr=True)
        self._quiet, self._clock = quiet, clock
        self._began = self._line_at = clock()
        self._phase, self._score = "", None
        self._step: Json = None
        self._ms: float | None = None
        self._display: RichLive | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._quiet:
            # Once a second: training runs on the same cores, and drawing must not tax it.
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
        kind = event["event"]
        if kind == "phase":
            self._phase = plain(event["phase"])
            self._line(self._phase)
        elif kind == "step":
            self._step = event
            self._ms = event["ms"] if self._ms is None else self._ms + _SMOOTHING * (event["ms"] - self._ms)
            if self._clock() - self._line_at >= _LINE_SECONDS:
                self._line(self._figures())
        elif kind == "score":
            self._score = event["score"]
            self._line(f"epoch {event['epoch']}: score {event['score']:.4f}")
        elif kind == "interrupted":
            self._stop_and_say(f"saved; go on with the same command and --resume (--out {word(event['out'])})")

    def _stop_and_say(self, sentence: str) -> None:
        self.__exit__(None, None, None)
        self._console.print(Text(sentence, "bold"), soft_wrap=True, highlight=False)

    def _line(self, text: str) -> None:
        if self._display or self._quiet:
            return
        self._line_at = self._clock()
        elapsed = Text(f"{wording.duration(round(self._clock() - self._began)):>10}  ", "dim")
        self._console.print(elapsed.append(text, "default"), soft_wrap=True, highlight=False)

    def _figures(self) -> str:
        """`epoch 2 of 9, step 140 of 846, loss 0.213, 1,830 examples a second, 41 s left, 512 MB`."""
        step = self._step
        if step is None:
            return ""
        of = f" of {step['steps']}" if step["steps"] else ""
        parts = [f"epoch {step['epoch']} of {step['epochs']}", f"step {step['step']}{of}"]
        if step["loss"] is not None:
            parts.append(f"loss {wording.significant(step['loss'])}")
        parts.append(f"{wording.significant(step['examples_per_second'])} examples a second")
        if step["left"] is not None and self._ms is not None:
            parts.append(f"{wording.duration(round(step['left'] * self._ms / 1000))} left")
        if step.get("memory_bytes"):
            parts.append(wording.byte_size(step["memory_bytes"]))
        return ", ".join(parts)

    def _render(self) -> Group:
        step = self._step
        shown = self._phase if self._score is None else f"{self._phase}; last score {self._score:.4f}"
        rows: list[RenderableType] = [Text(shown, "bold", no_wrap=True, overflow="ellipsis")]
        if step is not None and step["steps"]:
            bar = Table.grid()  # By itself it does not end its line.
            bar.add_row(ProgressBar(total=step["steps"], completed=step["step"], width=32))
            rows.append(bar)
        if step is not None:
            # Of eighty columns they take more than one line, and none of them is to be cut off.
            rows.append(Text(self._figures(), overflow="fold"))
        return Group(*rows)


def closing(result: Json, target: str, out: Path) -> Group:
    """What came of a run: its score, its speed, and the line that goes on from it."""
    best, training = result["best"], result["training"]
    lines = [Text(f"{plain(result['workload'])}: trained {training['steps']:,} steps, {plain(best['name'])}", "bold")]
    if best["score"] is not None:
        before = training["score_before"]
        was = f" (before: {before:.4f})" if before is not None else ""
        lines.append(Text(f"score {best['score']:.4f}{was}", "green"))
    else:
        lines.append(Text("no score: the workload has no evaluation"))
    speed = f"{wording.milliseconds(best['median_ms'])} a step"
    # Where it was not timed, a warning says so, and the figure is the run's own.
    if result["baseline"]["name"] != best["name"] and result["baseline"]["median_ms"] != best["median_ms"]:
        own = wording.milliseconds(result["baseline"]["median_ms"])
        speed += f"; {own} with {result['baseline']['name']}, without what makes steps faster, timed once before"
    lines.append(Text(speed))
    if training["skipped_steps"]:
        lines.append(Text(_skipped(training["skipped_steps"], best["precision"])))
    lines += [Text(f"warning: {plain(warning)}", "yellow") for warning in result["warnings"]]
    again = word(f"{_workload_of(target)}@{out}")
    lines.append(Text(f"weights in {plain(out)}; go on with: hotlap optimize {again} --out ..."))
    return Group(*lines)


def _skipped(steps: int, precision: str) -> str:
    """Why steps left the weights as they were, as far as that is known."""
    count = f"{steps:,} step{'' if steps == 1 else 's'}"
    if precision == "fp16":
        return f"{count} skipped: gradients overflowed in fp16, or there was nothing to learn from (loss_weight 0)"
    return f"{count} had nothing to learn from: {'its' if steps == 1 else 'their'} loss_weight was 0"


def _workload_of(target: str) -> str:
    """The target without the folder whose weights it began with: `base.py:small` of `base.py:small@runs/first`."""
    cuts = [match.start() for match in re.finditer("@", target)]
    return next((target[:cut] for cut in reversed(cuts) if _WORKLOAD.search(target[:cut])), target)


def tuned(result: Json, target: str, out: Path) -> Group:
    """What a search for the fastest set-up found, and the line that trains with it."""
    baseline, best = result["baseline"], result["best"]
    table = Table(box=None, pad_edge=False)
    for heading in ("change", "status", "a step", "over the baseline", "why not"):
        table.add_column(heading, overflow="fold")
    for row in result["candidates"]:
        speed = wording.ratio(row.get("speedup"))
        table.add_row(
            plain(row["name"]),
            row["status"],
            wording.milliseconds(row.get("median_ms")) or "-",
            f"{speed.estimate}x" if speed else "-",
            Text(plain(row.get("reason", ""))),
        )
    beside = beside_the_workload(result["settings"]) if "settings" in result else []
    own = f"the workload's own set-up{' with ' if beside else ''}{', '.join(beside)}"
    lines = [Text(f"\n{own}: {wording.milliseconds(baseline['median_ms'])} a step, {_bound(baseline)}")]
    if result["confirmed"]:
        speed = wording.ratio(best["speedup"])
        assert speed is not None
        lines.append(
            Text(f"{plain(best['name'])}: {speed.estimate}x as fast ({speed.interval}), {_bound(best)}", "bold green")
        )
        lines.append(Text(proof_words(result)))
        kept = word(out / "settings.json")
        lines.append(Text(f"train with it: hotlap train {word(target)} --out ... --settings {kept}"))
    else:
        refused = at(result, "proof_details", "trials") or []
        said = "nothing was confirmed as faster" if tried(result).changes else "the settings of today stay"
        if refused:
            said = "nothing that is faster was shown to train as well"
            if refused[-1]["answer"] == "as good":
                said = "what was shown to train as well was not confirmed as faster"
        lines.append(Text(said, "bold"))
        lines += [Text(f"{plain(trial['name'])}: {plain(trial['reason'])}") for trial in refused]
    untried = tried(result).sentence
    lines += [Text(untried, "yellow")] if untried else []
    if result["locked"]:
        names = ", ".join(result["locked"])
        lines.append(Text(f"{names}: not hotlap's to choose, since `training` gives batches of its own"))
    lines += [Text(plain(result["proposal"]), "yellow")] if result["proposal"] else []
    lines += [Text(f"warning: {plain(warning)}", "yellow") for warning in result["warnings"]]
    return Group(table, *lines)


def proof_words(result: Json) -> str:
    """What is known of whether the best trains as well, in one sentence."""
    found = result.get("proof_details")
    if not found or result["proof"] == "pending":
        return "proof pending: that it trains as well has not been tried (--prove short)"
    trial = found["trials"][-1]
    if result["proof"] == "full":
        return f"proven in {trial['seeds']} trainings to the end: {trial['reason']}"
    return f"proven in short trainings only, with {trial['seeds']} seeds, not for the final score: {trial['reason']}"


def _bound(figures: Json) -> str:
    return f"bound by {figures['bound_by']} ({wording.percent(figures['loading_share'])} of a step is waiting for data)"
