"""The terminal's tables: narrow enough, complete, and deaf to markup and escape codes."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Any

import pytest
from rich.console import Console, RenderableType

from hotlap.report.table import candidates_table, closing, comparison, plain


def _printed(renderable: RenderableType, width: int = 80) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def _squeezed(text: str) -> str:
    return "".join(text.split())


def test_fits_80_columns_in_ascii(variation: dict[str, Any]) -> None:
    for renderable in (candidates_table(variation), closing(variation, PurePath("out"))):
        printed = _printed(renderable)
        assert all(len(line) <= 80 for line in printed.splitlines())
        assert printed.isascii()


def test_has_figures_of_those_that_ran_and_reasons_of_those_that_did_not(sample: dict[str, Any]) -> None:
    printed = _printed(candidates_table(sample))
    assert "9.72                  1x         -  44.7 MB  baseline" in printed
    assert "0.638     15.2x 14.8-15.6  <=0.0083  11.5 MB  chosen" in printed
    assert "2.41     4.03x 3.94-4.12      same  44.7 MB  passed" in printed
    for candidate in sample["candidates"]:
        assert _squeezed(candidate.get("reason", "")[:20]) in _squeezed(printed)


def test_many_candidates_are_cut_with_their_number(vary: Any) -> None:
    printed = _printed(candidates_table(vary("many")))
    assert len(printed.splitlines()) < 400
    assert re.search(r"\d{2,} more rows are in report.html", printed)


@pytest.mark.parametrize("text", ["[bold]x[/bold]", "[/nothing]", "[link=file:///x]y[/link]", ":smile:"])
def test_markup_is_text(text: str, sample: dict[str, Any]) -> None:
    sample["candidates"][0].update(name=text, reason=text)
    sample["best"]["name"] = text
    assert _squeezed(text) in _squeezed(_printed(candidates_table(sample)))
    assert text in _printed(closing(sample, PurePath("out")), width=200)


def test_escape_codes_are_taken_out(sample: dict[str, Any]) -> None:
    sample["best"]["name"] = sample["candidates"][0]["name"] = "a\x1b[2Jb\x07c\r\nd\u202ee\x9b31mf"
    sample["best"]["artifact"] = "art\x1b]0;title\x07"
    printed = _printed(candidates_table(sample)) + _printed(closing(sample, PurePath("out")))
    assert not {"\x1b", "\x07", "\r", "\u202e", "\x9b"} & set(printed)
    assert plain("a\x1b[2Jb\r\nc") == "a [2Jb c"


def test_closing_lines(sample: dict[str, Any]) -> None:
    printed = _printed(closing(sample, PurePath("my out")), width=200)
    lines = [line.strip() for line in printed.splitlines()]
    assert lines[0] == "15.2x faster, accuracy held"
    assert any(line.startswith("as accurate") and "At most 0.0061 lost: allowed: 0.01" in line for line in lines)
    assert 'load it        hotlap.load("my out/artifact")' in lines
    assert "verify it      hotlap verify 'my out/artifact'" in lines
    assert "read it        my out/report.html" in lines


def test_closing_lines_without_an_artifact(sample: dict[str, Any]) -> None:
    sample["best"]["artifact"] = None
    assert "load it" not in _printed(closing(sample, PurePath("out")))


@pytest.mark.parametrize(
    ("verdict", "line"),
    [
        ("faster", "B is faster: 15.2 times the speed of A, between 14.7 and 15.7"),
        ("slower", "B is slower: 15.2 times the speed of A, between 14.7 and 15.7"),
        ("no difference", "No difference between A and B: 15.2 times the speed of A, between 14.7 and 15.7"),
    ],
)
def test_comparison(verdict: str, line: str, sample: dict[str, Any]) -> None:
    best = sample["best"]
    compared = {"a": sample["baseline"], "b": best, "speedup": best["speedup"], "verdict": verdict}
    printed = _printed(comparison(compared))
    assert line in printed
    assert "A  eager fp32                          9.72  44.7 MB" in printed


def test_candidates_of_one_reason_stand_in_one_line(vary: Any) -> None:
    result = vary("sample")
    late = {"status": "skipped", "reason": "the budget ended before its turn"}
    result["candidates"] += [{"name": f"late {index}", **late} for index in range(7)]
    printed = _printed(candidates_table(result))
    assert "7 candidates" in printed
    assert printed.count("the budget ended before its turn") == 1
    assert "late 3" not in printed
