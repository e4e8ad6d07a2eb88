"""The live display: lines where there is no terminal, a drawing where there is one, and silence when asked."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from hotlap.report.live import Live


class Clock:
    """Seconds, as told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _events(sample: dict[str, Any]) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = [{"event": "phase", "phase": "screening"}]
    for candidate in sample["candidates"]:
        events.append({"event": "start", "name": candidate["name"]})
        events.append({"event": "done", **candidate, "max_drop": 0.01, "waiting": 3})
    return events


def test_plain_lines_without_a_terminal(sample: dict[str, Any]) -> None:
    out, clock = io.StringIO(), Clock()
    with Live(budget_seconds=300, console=Console(file=out, width=80), clock=clock) as live:
        for event in _events(sample):
            clock.now += 2
            live(event)
    lines = out.getvalue().splitlines()
    assert len(lines) == 1 + len(sample["candidates"])
    assert lines[0] == "     2.0 s  screening"
    assert lines[1] == (
        "     6.0 s  chosen    openvino int8 (nncf, per channel)  0.638 ms  15.2x (14.8-15.6)  lost <= 0.0083"
    )
    assert lines[-1] == "1 min 42 s  skipped   tensorrt fp16  (there is no CUDA device here)"
    assert "\x1b" not in out.getvalue()


def test_the_search_begins_with_its_number() -> None:
    out = io.StringIO()
    with Live(budget_seconds=9, console=Console(file=out, width=80), clock=Clock()) as live:
        live({"event": "space", "candidates": 24, "budget": 9})
    assert out.getvalue() == "       0 s  trying 24 candidates\n"


def test_quiet_shows_nothing(sample: dict[str, Any]) -> None:
    for terminal in (False, True):
        out = io.StringIO()
        console = Console(file=out, force_terminal=terminal)
        with Live(budget_seconds=300, quiet=True, console=console) as live:
            for event in _events(sample):
                live(event)
        assert out.getvalue() == ""


def test_standard_output_stays_free(sample: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    with Live(budget_seconds=300) as live:
        for event in _events(sample):
            live(event)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "tensorrt fp16" in captured.err


def _drawn(live: Live) -> list[str]:
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(live._render())
    return [line.rstrip() for line in capture.get().splitlines()]


def test_a_terminal_shows_work_time_best_and_counts(sample: dict[str, Any]) -> None:
    out, clock = io.StringIO(), Clock()
    with Live(budget_seconds=300, console=Console(file=out, width=80, force_terminal=True), clock=clock) as live:
        assert len(_drawn(live)) == 2
        for event in _events(sample)[:-1]:
            live(event)
        clock.now = 61
        lines = _drawn(live)
        assert lines[0] == "screening"
        assert lines[1].endswith("  3 min 59 s left")
        assert lines[2] == "in work  tensorrt fp16"
        assert lines[3].startswith("best     openvino int8 (nncf, per channel)  0.638 ms  15.2x (14.8-15.6)")
        assert all(len(line) <= 80 for line in lines)
        assert " ".join(" ".join(lines[4:]).split()) == (
            "so far 1 chosen, 3 dropped, 12 passed, 3 rejected, 4 failed, 1 skipped, 3 waiting"
        )
        clock.now = 500
        assert _drawn(live)[1].endswith("  0 s left")
        live({"event": "start", "name": "x", "seconds_left": 12.2})
        assert _drawn(live)[1].endswith("  12 s left")
        live({"event": "phase", "phase": "proof of bf16: training with seed 0", "seconds_left": 3600.0})
        assert _drawn(live)[1].endswith("  1 h 0 min left")
    assert "\x1b[?25h" in out.getvalue()  # the cursor is back


def test_the_cursor_is_back_after_an_interrupt() -> None:
    out = io.StringIO()
    with pytest.raises(KeyboardInterrupt), Live(budget_seconds=9, console=Console(file=out, force_terminal=True)):
        raise KeyboardInterrupt
    assert "\x1b[?25h" in out.getvalue()


def test_hostile_names_stay_on_their_line() -> None:
    out = io.StringIO()
    with Live(budget_seconds=9, console=Console(file=out, width=80)) as live:
        live({"event": "done", "name": "a\x1b[2J\nb[bold]", "status": "failed", "reason": "x\r\ny" * 100})
        live({"event": "something else"})
    assert len(out.getvalue().splitlines()) == 1
    assert "a [2J b[bold]" in out.getvalue()


STATUSES = st.sampled_from(["chosen", "passed", "rejected", "failed"])


@given(outcomes=st.lists(st.tuples(STATUSES, st.none() | st.floats(0.1, 100)), max_size=20))
def test_the_best_is_the_fastest_that_passed(outcomes: list[tuple[str, float | None]]) -> None:
    live = Live(budget_seconds=9, quiet=True)
    for index, (status, speed) in enumerate(outcomes):
        speedup = {"estimate": speed, "low": speed, "high": speed} if speed else None
        live({"event": "done", "name": str(index), "status": status, "speedup": speedup})
    passed = [speed for status, speed in outcomes if speed and status in ("chosen", "passed")]
    assert (live._best["speedup"]["estimate"] if live._best else None) == max(passed, default=None)
