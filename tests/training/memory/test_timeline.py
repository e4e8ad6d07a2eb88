"""Timelines of real processes, to a file and back."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hotlap.errors import OutputError
from hotlap.training.memory.timeline import Timeline, alive, watch


def test_the_file_has_a_line_a_look_and_the_marks(tmp_path: Path) -> None:
    file = tmp_path / "memory.jsonl"
    with Timeline(every=60, file=file) as timeline:
        held = bytearray(b"x" * 60_000_000)
        timeline.mark("held")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line.get("mark") for line in lines] == [None, "held", None]
    assert timeline.looks == 2
    assert timeline.peak_bytes == max(line["tree_bytes"] for line in lines if "tree_bytes" in line)
    assert lines[-1]["tree_bytes"] - lines[0]["tree_bytes"] > 40_000_000
    assert lines[0]["processes"][0]["pid"] == os.getpid()
    assert len(held) == 60_000_000


def test_looks_come_by_themselves(tmp_path: Path) -> None:
    with Timeline(every=0.001) as timeline:
        while timeline.looks < 4:
            os.sched_yield()
    assert timeline.peak_bytes > 0


def test_a_file_that_is_there_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "memory.jsonl"
    file.write_text("mine")
    with pytest.raises(OutputError, match="exists already; give another file or remove it"):
        Timeline(file=file)
    with pytest.raises(OutputError, match="can't be written: No such file or directory"):
        Timeline(file=tmp_path / "nowhere" / "memory.jsonl")
    assert file.read_text() == "mine"


def test_watching_ends_with_the_process() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert child.stdin is not None
    looks = watch([child.pid], every=0.001)
    assert next(looks).processes[0].pid == child.pid
    child.stdin.close()
    for use in looks:
        assert len(use.processes) <= 1
    assert not alive(child.pid), "one that ended and was not waited for is no longer alive"
    child.wait()


def test_watching_ends_when_told_and_looks_once_at_least() -> None:
    assert len(list(watch([os.getpid()], stop=lambda: True))) == 1


def test_the_code_in_the_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).parents[3] / "docs" / "monitor.md"
    code = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)[0]
    monkeypatch.chdir(tmp_path)
    exec(compile(code, page.name, "exec"), {})
    assert "epoch 1" in (tmp_path / "memory.jsonl").read_text()
