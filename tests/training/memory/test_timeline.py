"""Timelines of real processes, to a file and back."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hotlap.errors import InputError, OutputError
from hotlap.training.memory import timeline
from hotlap.training.memory.timeline import Timeline, open_lines, watch, write_line
from hotlap.training.memory.use import alive, started


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


@pytest.mark.parametrize("every", [0, -1.0, float("nan"), float("inf")])
def test_looks_need_a_time_between_them(every: float) -> None:
    with pytest.raises(InputError, match="give seconds above 0 between two looks"):
        Timeline(every=every)


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


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    timeline = Timeline(every=60, file=tmp_path / "memory.jsonl")
    timeline.__enter__()
    assert timeline._file is not None
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, timeline._file.fileno())
    os.close(full)
    with pytest.raises(OutputError, match=r"memory.jsonl can't be written: No space left on device; make room"):
        timeline.__exit__(None, None, None)
    assert timeline._file.closed


def test_a_line_that_finds_no_room_leaves_no_half_of_it(tmp_path: Path) -> None:
    """A limit on the size of files stands for a disk that is full."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with open_lines(tmp_path / "memory.jsonl") as file:
        write_line(file, "first")
        resource.setrlimit(resource.RLIMIT_FSIZE, (file.tell() + 3, before[1]))
        try:
            with pytest.raises(OutputError, match=r"memory.jsonl can't be written: File too large; make room"):
                write_line(file, "second")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        write_line(file, "third")
    assert (tmp_path / "memory.jsonl").read_text() == '"first"\n"third"\n'


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
    assert len(list(watch([os.getpid()], seconds=0))) == 1


def test_watching_ends_in_time_however_far_apart_looks_are() -> None:
    assert len(list(watch([os.getpid()], every=3600, seconds=0.01))) <= 2


def test_another_process_with_the_number_of_one_that_ended_is_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = watch([os.getpid()], every=0.001)
    assert next(looks).processes[0].started == started(os.getpid())
    monkeypatch.setattr(timeline, "started", lambda pid: 7)
    assert list(looks) == []


def waiting() -> subprocess.Popen[bytes]:
    """A process that ends when its input is closed."""
    return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)


def end(child: subprocess.Popen[bytes]) -> None:
    child.communicate()


def test_one_that_ends_leaves_the_others_to_be_looked_at() -> None:
    first, second = waiting(), waiting()
    looks = watch([first.pid, second.pid], every=0.001)
    assert [one.pid for one in next(looks).processes] == [first.pid, second.pid]
    end(first)
    assert [one.pid for one in next(looks).processes] == [second.pid]
    end(second)
    assert not any(use.processes for use in looks)


def test_one_that_ended_since_it_was_chosen_leaves_the_others() -> None:
    first, second = waiting(), waiting()
    end(first)
    assert [one.pid for one in next(watch([first.pid, second.pid])).processes] == [second.pid]
    end(second)


def test_a_timeline_of_a_process_that_ends_goes_on(tmp_path: Path) -> None:
    child, file = waiting(), tmp_path / "memory.jsonl"
    with Timeline(every=0.001, file=file, pids=[child.pid]) as timeline:
        end(child)
        before = timeline.looks
        while timeline.looks < before + 2:
            assert timeline._thread.is_alive()
    assert timeline._file is not None
    assert timeline._file.closed
    assert timeline.peak_bytes > 0


def test_a_timeline_of_a_process_that_is_not_there_is_refused(tmp_path: Path) -> None:
    timeline = Timeline(file=tmp_path / "memory.jsonl", pids=[4194305])
    with pytest.raises(InputError, match="there is no process 4194305"):
        timeline.__enter__()
    assert timeline._file is not None
    assert timeline._file.closed


def test_the_code_in_the_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).parents[3] / "docs" / "monitor.md"
    code = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)[0]
    monkeypatch.chdir(tmp_path)
    exec(compile(code, page.name, "exec"), {})
    assert "epoch 1" in (tmp_path / "memory.jsonl").read_text()
