"""`monitor` as a person calls it, on real processes."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from hotlap.actions.monitor import Peaks, monitor
from hotlap.cli.monitor import duration
from hotlap.cli.monitor import monitor as command
from hotlap.errors import InputError, OutputError
from hotlap.training.memory.use import look


def run(*arguments: str):
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_a_process_is_watched_until_it_ends(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    seen = []

    def end(line) -> None:
        seen.append(line)
        if len(seen) == 2:
            assert child.stdin is not None
            child.stdin.close()
            child.wait()

    result = monitor([child.pid], every=0.001, out=tmp_path / "memory.jsonl", progress=end)
    assert result["looks"] == 2
    assert [one["pid"] for one in result["processes"]] == [child.pid]
    assert result["peak_tree_bytes"] == max(line["tree_bytes"] for line in seen)
    written = [json.loads(line) for line in (tmp_path / "memory.jsonl").read_text().splitlines()]
    assert written == seen


def test_the_command_prints_the_peaks_as_json() -> None:
    done = run(str(os.getpid()), "--for", "0.01", "--json")
    result = json.loads(done.stdout)
    assert done.exit_code == 0
    assert os.getpid() in [one["pid"] for one in result["processes"]]
    assert result["peak_tree_bytes"] > 0


def test_the_command_prints_the_peaks_as_a_table() -> None:
    done = run("--for", "0.01")
    assert "in all of" in done.stdout
    assert "were left on the machine" in done.stdout


def test_what_is_wrong_is_said_before_anything_is_done(tmp_path: Path) -> None:
    file = tmp_path / "memory.jsonl"
    with pytest.raises(InputError, match="there is no process 4194305"):
        monitor([4194305], out=file)
    assert not file.exists()
    file.write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        monitor([os.getpid()], out=file)
    with pytest.raises(InputError, match="--every 0: give a time above 0"):
        monitor([os.getpid()], every=0)


def test_one_that_ended_and_was_not_waited_for_is_not_there(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(InputError, match=f"there is no process {child.pid}"):
        monitor([child.pid], out=tmp_path / "memory.jsonl")
    assert not (tmp_path / "memory.jsonl").exists()
    child.wait()


def test_a_number_that_no_process_has() -> None:
    with pytest.raises(InputError, match="there is no process -5"):
        monitor([-5])


def test_times_between_looks() -> None:
    assert duration("500ms", "--every") == 0.5
    assert duration("2m", "--every") == 120
    with pytest.raises(InputError, match="--every 0ms: not a duration"):
        duration("0ms", "--every")


def test_two_processes_that_had_one_number_are_two() -> None:
    peaks = Peaks()
    for started, name, held in ((1, "train", 9 * 2**30), (2, "ls", 2**20)):
        (one,) = look([os.getpid()]).processes[:1]
        process = replace(one, started=started, name=name, resident_bytes=held, peak_bytes=held)
        peaks.take(replace(look([os.getpid()]), processes=(process,)))
    assert [(one["name"], one["peak_bytes"]) for one in peaks.to_json()["processes"]] == [
        ("train", 9 * 2**30),
        ("ls", 2**20),
    ]
