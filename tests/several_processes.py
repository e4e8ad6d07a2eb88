"""Training in several processes, as torchrun starts them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from safetensors.numpy import load_file

LAUNCHER = [sys.executable, "-m", "torch.distributed.run"]


def launched(processes: int, target: str, out: Path) -> list[str]:
    """The command that trains in so many processes."""
    command = [*LAUNCHER, "--standalone", "--nproc-per-node", str(processes)]
    return [*command, "-m", "hotlap", "train", target, "--out", str(out), "--threads", "1", "--device", "cpu"]


def torchrun(processes: int, target: str, out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [*launched(processes, target, out), "--json", *words]
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


def rank_of(rank: int, launcher: int) -> int:
    """The process of that rank among those that a launcher started."""
    for child in psutil.Process(launcher).children(recursive=True):
        if child.environ().get("RANK") == str(rank):
            return child.pid
    raise AssertionError("no such process")
