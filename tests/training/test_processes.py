"""Several processes under torchrun: the result of one with the same effective batch, and a resume by another number."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trainable
from safetensors.numpy import load_file

import hotlap

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

class Plain(Rows):
    '''Augmented by what depends on the example alone, since the processes cut a batch elsewhere.'''
    def __getitem__(self, index):
        return self.rows[index], self.labels[index]

import dataclasses
workload = dataclasses.replace(workload, model=exact, training=lambda: Plain(147, 3))
"""
"""147 examples in windows of 16: the last window has 3, of which one of four processes gets none."""

CLOSE = 2e-5
"""Of the weights after 20 to 30 steps of AdamW, which divides rounding differences by small second moments."""


def torchrun(processes: int, target: str, out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += [
        "-m",
        "hotlap",
        "train",
        target,
        "--out",
        str(out),
        "--threads",
        "1",
        "--device",
        "cpu",
        "--json",
        *words,
    ]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False, timeout=300
    )


def sets(settings: dict[str, Any]) -> list[str]:
    return [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]


def furthest(a: Path, b: Path) -> float:
    """The largest relative difference between the weights of two runs, tensor by tensor."""
    first, second = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    assert first.keys() == second.keys()
    return max(float(np.linalg.norm(first[name] - second[name]) / np.linalg.norm(first[name])) for name in first)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "settings"),
    [
        (2, {"sharding": "ddp", "micro_batch": 3}),
        pytest.param(2, {"sharding": "fsdp2", "micro_batch": 3, "clip": 0.5}, marks=pytest.mark.exhaustive),
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


@pytest.mark.exhaustive
@pytest.mark.parametrize("sharding", ["ddp", "fsdp2"])
def test_another_number_of_processes_goes_on(sharding: str, tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows", add=EXACT)
    settings = {"sharding": sharding, "checkpoint_seconds": 0}
    hotlap.train(target, out=tmp_path / "one", settings=settings, threads=1, device="cpu")
    done = torchrun(2, target, tmp_path / "changing", *sets(settings))
    assert done.returncode == 0, done.stderr
    # Back to a checkpoint within the last epoch, as if both had been killed there.
    back_to(tmp_path / "changing", 29)
    hotlap.train(target, out=tmp_path / "changing", settings=settings, threads=1, device="cpu", resume=True)
    assert furthest(tmp_path / "one", tmp_path / "changing") < CLOSE
    back_to(tmp_path / "changing", 29)
    done = torchrun(2, target, tmp_path / "changing", "--resume")
    assert done.returncode == 0, done.stderr
    assert furthest(tmp_path / "one", tmp_path / "changing") < CLOSE


def back_to(out: Path, step: int) -> None:
    """Take away what came after a checkpoint."""
    for path in [out / "result.json", out / "model.safetensors", *(out / "checkpoints").iterdir()]:
        if path.parent == out or int(path.stem.partition("-")[2]) > step:
            path.unlink()
    assert list((out / "checkpoints").glob(f"step-{step:08d}.json"))


SPOILT = """
class Spoilt(Plain):
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
    assert f"in step {step + 1} (epoch 1, batch {step + 1}, examples" in done.stderr
    assert list((tmp_path / "out" / "checkpoints").glob(f"step-{step:08d}.json"))


@pytest.mark.exhaustive
def test_a_refusal_is_said_by_all_and_ends_all(tmp_path: Path) -> None:
    done = torchrun(2, trainable.write(tmp_path, "rows", add=EXACT), tmp_path / "out", "--set", "precision=int8")
    assert done.returncode != 0
    assert "precision is 'int8'; give one of fp32, bf16, fp16" in done.stderr
