"""Requests to end: what they raise and when, and that runs which get them keep all and leave nothing behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trainable

import hotlap
from hotlap.training import stopping
from hotlap.training.stopping import EndNow, Stop

SLOW = trainable.slow_rows(0.001)
SLOW_EVALUATION = """
import dataclasses, pathlib
def long():
    if pathlib.Path(OUT, "metrics.jsonl").exists():
        pathlib.Path(OUT + ".scoring").touch()
        time.sleep(60 if not pathlib.Path(OUT + ".again").exists() else 0)
    yield from evaluation()
workload = dataclasses.replace(workload, evaluation=long)
"""
READS_ITSELF = """
import dataclasses
from torch.utils.data import DataLoader, IterableDataset
class Stream(IterableDataset):
    def __iter__(self):
        yield from (Rows(150, 3)[index] for index in range(150))
workload = dataclasses.replace(workload, training=lambda: DataLoader(Stream(), batch_size=16, num_workers=1), epochs=9)
"""
SLOW_STEP = """
import pathlib
def slow(outputs, labels):
    if pathlib.Path(OUT, "metrics.jsonl").exists() and not pathlib.Path(OUT + ".step").exists():
        pathlib.Path(OUT + ".step").touch()
        until = time.monotonic() + 2
        while time.monotonic() < until:
            time.sleep(0.05)
    return functional.cross_entropy(outputs, labels)
workload = dataclasses.replace(workload, loss=slow)
"""
STUCK = """
import ctypes, pathlib
_free = Rows.__getitem__
def stuck(self, index):
    if pathlib.Path(OUT, "metrics.jsonl").exists():
        pathlib.Path(OUT + ".stuck").touch()
        lock, mutex = ctypes.CDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(64)
        lock(mutex)
        lock(mutex)
    return _free(self, index)
Rows.__getitem__ = stuck
"""
"""A loader process that waits in C, where no handler of Python's runs."""

SLOW_TO_BEGIN = """
import dataclasses, pathlib
from torch.utils.data import DataLoader
def slow(number):
    pathlib.Path(OUT + ".worker").write_text(str(os.getpid()))
    time.sleep(600)
loader = lambda: DataLoader(Rows(150, 3), 16, num_workers=1, worker_init_fn=slow)
workload = dataclasses.replace(workload, training=loader)
"""


@pytest.fixture(autouse=True)
def _hang_ups_are_heeded() -> Iterator[None]:
    """Also where the tests themselves run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def stop() -> Iterator[Stop]:
    made = Stop()
    with made.heeded():
        yield made


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, EndNow), (signal.SIGHUP, EndNow)]
)
def test_a_request_raises_where_nothing_is_to_be_kept(number: int, kind: type[BaseException], stop: Stop) -> None:
    with pytest.raises(kind) as raised:
        send(number)
    assert raised.type is kind
    assert stop.asked


def test_within_patience_it_is_noted_and_its_echo_too(stop: Stop) -> None:
    with stop.after_the_work_in_hand():
        send(signal.SIGINT)
        send(signal.SIGTERM)
        assert stop.asked


def test_a_later_one_is_not_put_off(stop: Stop, monkeypatch: pytest.MonkeyPatch) -> None:
    with stop.after_the_work_in_hand():
        send(signal.SIGINT)
        monkeypatch.setattr(stopping, "_ONE_REQUEST_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_what_can_be_left_within_patience_is_left_at_once(stop: Stop) -> None:
    with stop.after_the_work_in_hand():
        with stop.at_once(), pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        send(signal.SIGINT)


def test_tidying_up_is_not_disturbed(stop: Stop) -> None:
    stop.over()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        send(number)


def test_handlers_are_put_back_and_nohup_is_heeded() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        found = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        with Stop().heeded():
            send(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == found
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_forked_process_of_the_users_can_be_ended(stop: Stop) -> None:
    with stop.after_the_work_in_hand():
        context = multiprocessing.get_context("fork")
        there = context.Event()
        child = context.Process(target=lambda: (there.set(), time.sleep(60)))
        child.start()
        assert there.wait(30)
        for number in (signal.SIGINT, signal.SIGTERM):
            assert child.pid is not None
            os.kill(child.pid, number)
        child.join(10)
        assert child.exitcode == -signal.SIGTERM


def begun(out: Path) -> bool:
    metrics = out / "metrics.jsonl"
    return metrics.exists() and bool(metrics.stat().st_size)


def scoring(out: Path) -> bool:
    return Path(f"{out}.scoring").exists()


def ended(target: str, out: Path, words: list[str], numbers: list[int], ready: Callable[[Path], bool]) -> str:
    """Train, send signals to the whole group once it is ready, 10 ms apart; gives what it said."""
    command = [sys.executable, "-m", "hotlap", "train", target, "--out", str(out), "--threads", "1", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        while process.poll() is None and not ready(out):
            time.sleep(0.005)
        for number in numbers:
            os.killpg(process.pid, number)
            time.sleep(0.01)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "saved; go on with the same command and --resume" in said
    assert not (out / "work").exists()
    return said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("numbers", "words", "add"),
    [
        ([signal.SIGTERM] * 3, [], ""),
        ([signal.SIGINT, signal.SIGINT], ["--set", "workers=2"], ""),
        ([signal.SIGTERM], ["--set", "workers=2"], ""),
        ([signal.SIGHUP], ["--set", "workers=2"], ""),
        ([signal.SIGTERM], [], READS_ITSELF),
    ],
    ids=["SIGTERM thrice", "SIGINT twice", "SIGTERM to all", "SIGHUP to all", "SIGTERM to all of an iterable's"],
)
def test_signals_to_all_processes_save(numbers: list[int], words: list[str], add: str, tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows", add=SLOW + add)
    ended(target, tmp_path / "out", words, numbers, begun)
    result = hotlap.train(target, out=tmp_path / "out", threads=1, device="cpu", resume=True)
    assert 1 <= result["training"]["resumed_from_step"] < result["training"]["steps"]
    hotlap.train(target, out=tmp_path / "whole", settings={"workers": 2} if words else {}, threads=1, device="cpu")
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "whole"))
    assert one == other


@pytest.mark.slow
def test_loader_processes_that_end_in_the_midst_of_a_step_do_not_spoil_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    target = trainable.write(tmp_path, "rows", add=SLOW + READS_ITSELF + SLOW_STEP.replace("OUT", repr(str(out))))
    ended(target, out, [], [signal.SIGTERM], lambda out: Path(f"{out}.step").exists())
    result = hotlap.train(target, out=out, threads=1, device="cpu", resume=True)
    assert 1 <= result["training"]["resumed_from_step"] < result["training"]["steps"]
    hotlap.train(target, out=tmp_path / "whole", threads=1, device="cpu")
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "whole"))
    assert one == other


@pytest.mark.slow
def test_a_stuck_loader_process_keeps_nobody_from_ending_a_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    target = trainable.write(tmp_path, "rows", add=STUCK.replace("OUT", repr(str(out))))
    command = [sys.executable, "-m", "hotlap", "train", target, "--out", str(out), "--set", "workers=1"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        while process.poll() is None and not Path(f"{out}.stuck").exists():
            time.sleep(0.05)
        for _ in range(2):
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(1.5)
        try:
            assert process.wait(40) == 130
        finally:
            process.kill()
    assert not (out / "work").exists()


@pytest.mark.slow
def test_a_loader_process_ends_with_a_run_that_is_killed_before_it_has_begun(tmp_path: Path) -> None:
    out, worker = tmp_path / "out", tmp_path / "out.worker"
    add = "import os, time\n" + SLOW_TO_BEGIN.replace("OUT", repr(str(out)))
    target = trainable.write(tmp_path, "rows", add=add)
    command = [sys.executable, "-m", "hotlap", "train", target, "--out", str(out)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not (worker.exists() and worker.read_text()):
            time.sleep(0.005)
        process.kill()
        try:
            # What it says ends with the last process that could say something.
            said, _ = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            os.kill(int(worker.read_text()), signal.SIGKILL)
            raise
    assert worker.exists(), said


def test_a_loader_process_whose_parent_had_ended_ends() -> None:
    context = multiprocessing.get_context("fork")
    for parent, code in ((os.getpid(), 0), (None, 0), (os.getppid(), 1)):
        child = context.Process(target=stopping.end_with_parent, args=(parent,))
        child.start()
        child.join()
        assert child.exitcode == code


@pytest.mark.slow
def test_scoring_is_not_waited_for(tmp_path: Path) -> None:
    out = tmp_path / "out"
    add = SLOW + SLOW_EVALUATION.replace("OUT", repr(str(out)))
    target = trainable.write(tmp_path, "rows", add=add)
    words = ["--set", "ema=0.9"]
    ended(target, out, words, [signal.SIGINT], scoring)
    Path(f"{out}.again").touch()
    result = hotlap.train(target, out=out, threads=1, device="cpu", resume=True)
    assert result["training"]["resumed_from_step"] == 10
    hotlap.train(target, out=tmp_path / "whole", settings={"ema": 0.9}, threads=1, device="cpu")
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "whole"))
    assert one == other
