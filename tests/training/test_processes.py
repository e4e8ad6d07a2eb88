"""Several processes under torchrun: the result of one with the same effective batch, and a resume by another number."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import trainable
from several_processes import LAUNCHER, furthest, launched, rank_of, sets, torchrun

import hotlap
from hotlap.errors import InputError
from hotlap.training.processes import share_of

EXACT = """
class Exact(nn.Module):
    '''No batch statistics and no dropout: the parts of a batch add up to the whole.'''
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(3)), nn.Linear(6, 3))

    def forward(self, rows):
        return self.layers(rows)

def exact():
    torch.manual_seed(0)
    return Exact()

import dataclasses
workload = dataclasses.replace(workload, model=exact, training=lambda: Rows(147, 3))
"""
"""147 examples in windows of 16: the last window has 3, of which one of four processes gets none."""

CLOSE = 2e-5
"""Of the weights after 20 to 30 steps of AdamW, which divides rounding differences by small second moments."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "settings"),
    [
        (2, {"sharding": "ddp", "micro_batch": 3}),
        (2, {"sharding": "fsdp2", "micro_batch": 3, "clip": 0.5, "ema": 0.9}),
        pytest.param(4, {"sharding": "ddp", "ema": 0.9}, marks=pytest.mark.exhaustive),
    ],
    ids=["DDP", "FSDP2", "DDP of four"],
)
def test_the_same_as_one_process(processes: int, settings: dict[str, Any], tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows", add=EXACT)
    hotlap.train(target, out=tmp_path / "one", settings=settings, threads=1, device="cpu")
    done = torchrun(processes, target, tmp_path / "several", *sets(settings))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["training"]["processes"] == processes
    assert furthest(tmp_path / "one", tmp_path / "several") < CLOSE
    one = json.loads((tmp_path / "one" / "result.json").read_text())
    assert result["best"]["score"] == pytest.approx(one["best"]["score"], abs=0.02)


MASKED = """
class Masked(Exact):
    def forward(self, rows):
        return functional.pad(super().forward(rows), (0, 1), value=float("-inf"))

def masked():
    torch.manual_seed(0)
    return Masked()

workload = dataclasses.replace(workload, model=masked, training=lambda: Rows(33, 3), epochs=1)
"""
"""33 examples in windows of 16: the last one has one, so that one of two processes has none."""


@pytest.mark.slow
def test_a_process_without_a_share_computes_nothing_of_infinite_outputs(tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows", add=EXACT + MASKED)
    hotlap.train(target, out=tmp_path / "one", threads=1, device="cpu")
    done = torchrun(2, target, tmp_path / "several")
    assert done.returncode == 0, done.stderr
    assert furthest(tmp_path / "one", tmp_path / "several") < CLOSE


UNEQUAL = """
workload = dataclasses.replace(
    workload, training=lambda: Rows(41, 3), epochs=2,
    loss=lambda outputs, labels: functional.cross_entropy(outputs, labels, ignore_index=0),
    loss_weight=lambda labels: (labels != 0).sum().item())
"""
"""The last window has 9 examples, which are two passes of one process and three of the other; some weigh nothing."""


@pytest.mark.parametrize("sharding", [pytest.param("ddp", marks=pytest.mark.exhaustive), "fsdp2"])
@pytest.mark.parametrize(
    ("name", "add", "settings"),
    [
        pytest.param("rows", EXACT + UNEQUAL, {"micro_batch": 2}, marks=pytest.mark.slow),
        pytest.param("tokens", "", {"accumulation": 3}, marks=pytest.mark.exhaustive),
    ],
    ids=["shares of other sizes", "batches"],
)
def test_processes_with_other_numbers_of_passes(
    name: str, add: str, settings: dict[str, Any], sharding: str, tmp_path: Path
) -> None:
    target = trainable.write(tmp_path, name, add=add)
    hotlap.train(target, out=tmp_path / "one", settings=settings, threads=1, device="cpu")
    done = torchrun(2, target, tmp_path / "several", *sets({**settings, "sharding": sharding}))
    assert done.returncode == 0, done.stderr
    assert furthest(tmp_path / "one", tmp_path / "several") < CLOSE


STOPPED = """
import os, signal
def stopped(parameters):
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    def look(*_):
        if any(one["step"] == int(os.environ["STOP_AT"]) for one in optimizer.state.values()):
            signal.raise_signal(signal.SIGINT)
    optimizer.register_step_post_hook(look)
    return optimizer

workload = dataclasses.replace(workload, optimizer=stopped)
"""
"""Every process is asked to end within that step."""


@pytest.mark.parametrize(
    "sharding",
    [pytest.param("ddp", marks=pytest.mark.exhaustive), pytest.param("fsdp2", marks=pytest.mark.slow)],
)
def test_another_number_of_processes_goes_on(sharding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One, stopped within the first of three epochs of 10 steps; then two, stopped within the second; then one."""
    target, changing = trainable.write(tmp_path, "rows", add=EXACT + STOPPED), tmp_path / "changing"
    given: dict[str, Any] = {"settings": {"sharding": sharding}, "threads": 1, "device": "cpu"}
    monkeypatch.setenv("STOP_AT", "0")
    hotlap.train(target, out=tmp_path / "one", **given)
    monkeypatch.setenv("STOP_AT", "7")
    with pytest.raises(KeyboardInterrupt):
        hotlap.train(target, out=changing, **given)
    assert newest(changing) == 7
    monkeypatch.setenv("STOP_AT", "16")
    done = torchrun(2, target, changing, "--resume")
    assert done.returncode != 0
    assert newest(changing) == 16, done.stderr
    monkeypatch.setenv("STOP_AT", "0")
    result = hotlap.train(target, out=changing, resume=True, **given)
    assert result["training"]["resumed_from_step"] == 16
    assert losses(changing) == pytest.approx(losses(tmp_path / "one"), rel=1e-4), "other examples in some step"
    assert furthest(tmp_path / "one", changing) < CLOSE


def newest(out: Path) -> int:
    """The step of the last checkpoint."""
    return max(int(path.stem.partition("-")[2]) for path in (out / "checkpoints").glob("step-*.json"))


def losses(out: Path) -> list[float]:
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


MOVING = """
class Moving(Exact):
    def __init__(self):
        super().__init__()
        self.register_buffer("centre", torch.zeros(6))
        self.register_buffer("turn", torch.ones(1, dtype=torch.complex64))

    def forward(self, rows):
        if self.training:
            self.centre.lerp_(rows.mean(0), 0.1)
        return super().forward(rows - self.centre)

def moving():
    torch.manual_seed(0)
    return Moving()

workload = dataclasses.replace(workload, model=moving, training=lambda: Rows(64, 3), epochs=2)
"""
"""What the model gives depends on a buffer, which each process would move by its own examples."""


@pytest.mark.slow
def test_buffers_of_sharded_processes_are_the_same_over_a_resume(tmp_path: Path) -> None:
    target, out = trainable.write(tmp_path, "rows", add=EXACT + MOVING), tmp_path / "out"
    done = torchrun(2, target, out, *sets({"sharding": "fsdp2", "checkpoint_seconds": 0}))
    assert done.returncode == 0, done.stderr
    through = (out / "model.safetensors").read_bytes()
    back_to(out, 7)
    done = torchrun(2, target, out, "--resume")
    assert done.returncode == 0, done.stderr
    assert (out / "model.safetensors").read_bytes() == through


def back_to(out: Path, step: int) -> None:
    """Take away what came after a checkpoint."""
    for path in [out / "result.json", out / "model.safetensors", *(out / "checkpoints").iterdir()]:
        if path.parent == out or int(path.stem.partition("-")[2]) > step:
            path.unlink()
    assert list((out / "checkpoints").glob(f"step-{step:08d}.json"))


SPOILT = """
class Spoilt(Rows):
    '''One example of 147 is too large for the model, so that one process alone meets it.'''
    def __getitem__(self, index):
        rows, label = super().__getitem__(index)
        return (rows.abs() + 1000 if index == 50 else rows), label

class Rooted(Exact):
    def forward(self, rows):
        return super().forward(rows) + (100 - rows[:, :1]).sqrt() / 1000

def rooted():
    torch.manual_seed(0)
    return Rooted()

workload = dataclasses.replace(workload, model=rooted, training=lambda: Spoilt(147, 3))
"""


@pytest.mark.parametrize(
    "sharding",
    [pytest.param("ddp", marks=pytest.mark.slow), pytest.param("fsdp2", marks=pytest.mark.exhaustive)],
)
def test_what_is_not_finite_in_one_process_ends_all(sharding: str, tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows", add=EXACT + SPOILT)
    done = torchrun(2, target, tmp_path / "out", "--set", f"sharding={sharding}")
    assert done.returncode != 0
    assert "first in layer" in done.stderr, done.stderr
    assert "in another process's share" in done.stderr
    step = json.loads((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    assert f"in step {step} (epoch 1, batch {step}, examples" in done.stderr
    assert list((tmp_path / "out" / "checkpoints").glob(f"step-{step - 1:08d}.json"))


@pytest.mark.exhaustive
def test_a_refusal_is_said_by_all_and_ends_all(tmp_path: Path) -> None:
    done = torchrun(2, trainable.write(tmp_path, "rows", add=EXACT), tmp_path / "out", "--set", "precision=int8")
    assert done.returncode != 0
    assert "precision is 'int8'; give one of fp32, bf16, fp16" in done.stderr


SLOW = """
class Slow(Rows):
    def __getitem__(self, index):
        import time
        time.sleep(0.02)
        return super().__getitem__(index)

workload = dataclasses.replace(workload, training=lambda: Slow(147, 3), epochs=50)
"""


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_others_with_a_sentence(victim: int, tmp_path: Path) -> None:
    target, out = trainable.write(tmp_path, "rows", add=EXACT + SLOW), tmp_path / "out"
    command = [*launched(2, target, out), "--set", "checkpoint_seconds=0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as started:
        try:
            while not list((out / "checkpoints").glob("step-*.json")):
                assert started.poll() is None
                time.sleep(0.1)
            os.kill(rank_of(victim, started.pid), signal.SIGKILL)
            _, told = started.communicate(timeout=120)
        finally:
            started.terminate()
    assert "another of the 2 processes ended, and this one can't go on alone" in told, told
    assert "bug of hotlap's" not in told
    step = newest(out)
    more = ["--resume", "--set", "epochs=1"]
    done = torchrun(2, target, out, *more)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["training"]["resumed_from_step"] == step


SLOW_DISK = """
import os, time
_sync = os.fsync
def _slowly(file):
    time.sleep(2)
    _sync(file)
os.fsync = _slowly
workload = dataclasses.replace(workload, training=lambda: Slow(147, 3), epochs=2)
Slow.__getitem__ = lambda self, index: (time.sleep(0.2), Rows.__getitem__(self, index))[1]
"""
"""A step takes longer than signals that count as one request, and writing a checkpoint longer than a process to end."""


@pytest.mark.slow
def test_a_request_to_all_is_kept_before_any_ends(tmp_path: Path) -> None:
    target, out = trainable.write(tmp_path, "rows", add=EXACT + SLOW + SLOW_DISK), tmp_path / "out"
    with subprocess.Popen(launched(2, target, out), stderr=subprocess.PIPE, text=True) as started:
        try:
            while not (out / "metrics.jsonl").exists():
                assert started.poll() is None
                time.sleep(0.05)
            for rank in (0, 1):
                os.kill(rank_of(rank, started.pid), signal.SIGTERM)
            _, told = started.communicate(timeout=120)
        finally:
            started.terminate()
    assert told.count("interrupted; what was done so far is kept") == 2, told
    assert (out / "checkpoints" / "step-00000001.json").exists(), told


LONG = """
import pathlib, time
_calls = []
def long(outputs, labels):
    _calls.append(1)
    if len(_calls) > 3:
        pathlib.Path(OUT + ".scoring").touch()
        time.sleep(60)
    return score(outputs, labels)

workload = dataclasses.replace(workload, score=long)
"""
"""The score before training asks for three batches; that after the first epoch takes minutes."""


@pytest.mark.slow
def test_scoring_is_left_when_torchrun_is_asked_to_end(tmp_path: Path) -> None:
    out = tmp_path / "out"
    target = trainable.write(tmp_path, "rows", add=EXACT + f"\nOUT = {str(out)!r}\n" + LONG)
    with subprocess.Popen(launched(2, target, out), stderr=subprocess.PIPE, text=True) as started:
        try:
            while not Path(f"{out}.scoring").exists():
                assert started.poll() is None
                time.sleep(0.05)
            began = time.monotonic()
            started.terminate()
            _, told = started.communicate(timeout=120)
        finally:
            started.terminate()
    # torchrun kills what has not ended after 30 s.
    assert time.monotonic() - began < 25
    assert told.count("interrupted; what was done so far is kept") == 2, told
    assert (out / "checkpoints" / "step-00000010.json").exists(), told


WAITS = """
from datetime import timedelta
import torch
from torch import distributed
from hotlap.training.processes import Processes
processes = Processes("cpu")
options = distributed.group.WORLD._get_backend(torch.device("cpu")).options
assert options._timeout >= timedelta(hours=12)
processes.wait()
processes.close()
"""


@pytest.mark.slow
def test_processes_wait_for_one_that_scores_for_hours(tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text(WAITS)
    command = [*LAUNCHER, "--standalone", "--nproc-per-node", "2", str(tmp_path / "waits.py")]
    subprocess.run(command, check=True, timeout=120)


@pytest.mark.exhaustive
def test_parameters_that_forward_leaves_out_are_explained(tmp_path: Path) -> None:
    add = EXACT + "\ndef spare():\n    model = exact()\n    model.spare = nn.Linear(2, 2)\n    return model\n"
    add += "workload = dataclasses.replace(workload, model=spare)\n"
    done = torchrun(2, trainable.write(tmp_path, "rows", add=add), tmp_path / "out")
    assert done.returncode != 0
    assert "has parameters that its forward does not use" in done.stderr, done.stderr
    assert "find_unused_parameters" not in done.stderr.partition("Traceback")[0]


def test_a_start_without_torchrun_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    target = trainable.write(tmp_path, "rows")
    with pytest.raises(InputError, match="WORLD_SIZE is 2, and RANK, MASTER_ADDR, MASTER_PORT are not set: start"):
        hotlap.train(target, out=tmp_path / "out", device="cpu")
    with pytest.raises(InputError, match="tune times one process, and torchrun started several"):
        hotlap.tune(target, out=tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_each_process_takes_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert share_of(8) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert [share_of(cores) for cores in (2, 3, 8)] == [1, 1, 2]
