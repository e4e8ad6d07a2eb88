"""Workers that misbehave in every way become one reason each; none is left when their parent is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from hotlap.errors import CandidateFailed, InputError, OutOfMemory, TargetError, WorkerDied, WorkerTimeout
from hotlap.machine import containers
from hotlap.measure.worker import Worker, _raise_again
from hotlap.measure.worker_main import _describe

MISBEHAVIOUR = """
import ctypes, json, os, subprocess, sys, time
from hotlap.errors import TargetError
def twice(state, values):
    state["calls"] = state.get("calls", 0) + 1
    return {"values": values * 2, "calls": state["calls"]}
def segfault(state): ctypes.string_at(0)
def hang(state): time.sleep(600)
def eat(state):
    held = []
    while True: held.append(bytearray(b"x" * 20_000_000))
def leave(state):
    print("goodbye", flush=True)
    os._exit(7)
def rubbish(state):
    os.write(int(sys.argv[1]), b"\\x00rubbish" * 100)
    time.sleep(600)
def no_answer(state): return object
def chatter(state):
    for _ in range(20_000): print("x" * 100)
    return "done"
def user_error(state): raise TargetError("there is no such file")
def library_error(state): json.loads("{")
def bug(state): return undefined_name
def offspring(state):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    return child.pid
def pid(state): return os.getpid()
def fork_that_shares(state):
    state["held"] = bytearray(b"x") * 150_000_000  # made in place: it is never there twice
    if os.fork() == 0: time.sleep(600)
    time.sleep(1.5)
    return "done"
def fork_that_eats(state):
    if os.fork() == 0:
        held = bytearray(b"x" * 400_000_000)
        time.sleep(600)
    time.sleep(30)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("worker")
    (folder / "misbehaviour.py").write_text(MISBEHAVIOUR)
    return {"PYTHONPATH": str(folder)}


def gone(pid: int, seconds: float = 5.0) -> bool:
    """Whether the process ends within so many seconds."""
    try:
        psutil.Process(pid).wait(seconds)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


def test_keeps_state_between_calls_and_passes_arrays(environment: dict[str, str]) -> None:
    with Worker(environment=environment) as worker:
        values = np.arange(6, dtype=np.float32).reshape(2, 3)
        worker.call("misbehaviour:twice", values=values, timeout=30)
        answer = worker.call("misbehaviour:twice", values=values, timeout=30)
    assert answer["calls"] == 2
    np.testing.assert_array_equal(answer["values"], values * 2)
    assert answer["values"].dtype == np.float32


@pytest.mark.parametrize(
    ("function", "kind", "reason"),
    [
        ("segfault", WorkerDied, "killed by SIGSEGV"),
        ("leave", WorkerDied, "left with exit code 7: goodbye"),
        ("rubbish", WorkerDied, "something that is no message"),
        ("hang", WorkerTimeout, "no answer within 2 s"),
        ("eat", OutOfMemory, "more than its limit of 286.1 MiB"),
        ("fork_that_eats", OutOfMemory, "more than its limit of 286.1 MiB"),
        ("user_error", TargetError, "there is no such file"),
    ],
)
def test_every_way_of_failing_has_its_reason(
    environment: dict[str, str], function: str, kind: type[Exception], reason: str
) -> None:
    with Worker(memory_limit=300_000_000, environment=environment) as worker:
        pid = worker.pid
        with pytest.raises(kind, match=reason):
            worker.call(f"misbehaviour:{function}", timeout=2 if function == "hang" else 60)
        if not issubclass(kind, InputError):
            assert gone(pid)
    assert gone(pid)


def test_a_fork_that_shares_its_memory_is_counted_once(environment: dict[str, str]) -> None:
    with Worker(memory_limit=300_000_000, environment=environment) as worker:
        assert worker.call("misbehaviour:fork_that_shares", timeout=30) == "done"


def test_a_library_error_is_a_failed_candidate_and_the_process_goes_on(environment: dict[str, str]) -> None:
    with Worker(environment=environment) as worker:
        with pytest.raises(CandidateFailed, match=r"JSONDecodeError in .*: Expecting property name"):
            worker.call("misbehaviour:library_error", timeout=30)
        assert worker.call("misbehaviour:pid", timeout=30) == worker.pid


def test_a_bug_of_hotlaps_own_is_not_hidden(environment: dict[str, str]) -> None:
    with Worker(environment=environment) as worker, pytest.raises(RuntimeError, match="a bug of hotlap's"):
        worker.call("hotlap.search.work.holding:load", timeout=30)


def test_what_it_prints_fills_nothing_and_breaks_nothing(environment: dict[str, str]) -> None:
    with Worker(environment=environment) as worker:
        assert worker.call("misbehaviour:chatter", timeout=60) == "done"


def test_a_stopped_worker_uses_no_time_and_goes_on(environment: dict[str, str]) -> None:
    with Worker(environment=environment) as worker:
        worker.call("misbehaviour:pid", timeout=30)
        worker.pause()
        process = psutil.Process(worker.pid)
        while process.status() != psutil.STATUS_STOPPED:
            os.sched_yield()
        assert worker.call("misbehaviour:pid", timeout=30) == worker.pid


def test_closing_ends_what_the_worker_started(environment: dict[str, str]) -> None:
    with Worker(environment=environment) as worker:
        child = worker.call("misbehaviour:offspring", timeout=30)
    assert gone(child)


@pytest.mark.parametrize("stopped", [False, True])
def test_none_outlives_a_killed_parent(environment: dict[str, str], tmp_path: Path, stopped: bool) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import time\nfrom hotlap.measure.worker import Worker\n"
        "worker = Worker()\nchild = worker.call('misbehaviour:offspring', timeout=30)\n"
        + ("worker.pause()\n" if stopped else "worker.begin('misbehaviour:hang')\n")
        + "print(worker.pid, child, worker._guard.pid, flush=True)\ntime.sleep(600)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    began = time.monotonic()
    assert all(gone(pid) for pid in pids)
    assert time.monotonic() - began < 5


def test_a_process_that_can_not_be_started_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "guard.py"
    broken.write_text("raise BlockingIOError(11, 'Resource temporarily unavailable')\n")
    monkeypatch.setattr("hotlap.measure.worker._GUARD", str(broken))
    with pytest.raises(WorkerDied, match="could not be started"):
        Worker()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), OutOfMemory),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), CandidateFailed),
        (RuntimeError("mine"), RuntimeError),
    ],
    ids=lambda given: getattr(given, "__name__", None),
)
def test_what_torch_has_types_for_is_no_bug_wherever_it_is_raised(error: Exception, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=str(error)):
        _raise_again(_describe(error))


@pytest.mark.parametrize(
    ("before", "kind"), [(-1, OutOfMemory), (None, WorkerDied)], ids=["by the kernel", "by others"]
)
def test_who_killed_a_worker_is_told(before: int | None, kind: type[Exception], environment: dict[str, str]) -> None:
    with Worker(environment=environment) as worker:
        worker._kernel_kills = containers.memory_kills() if before is None else before
        worker.begin("misbehaviour:hang")
        os.kill(worker.pid, signal.SIGKILL)
        words = "killed by the kernel, which had no memory left" if before else "SIGKILL, most often for want of memory"
        with pytest.raises(kind, match=words):
            worker.finish(30)
