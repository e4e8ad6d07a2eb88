"""The search on real processes: memory on the largest batch, and what is out of memory and what is not."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import trainable

from hotlap.errors import CandidateFailed, OutOfMemory, WorkloadError
from hotlap.training import timing
from hotlap.training.settings import Settings
from hotlap.training.tuner import Bench, kept_for_confirming, memory_told, told

LATE = """
def batches():
    found = [(torch.ones(2, 5, dtype=torch.int64), torch.ones(2, 5, dtype=torch.int64)) for _ in range(20)]
    return [*found, (torch.ones(400, 2000, dtype=torch.int64), torch.ones(400, 2000, dtype=torch.int64))]
import dataclasses
workload = dataclasses.replace(workload, training=batches)
"""
"""The last batch of the epoch is two hundred times as large as the others."""
BROKEN = """
def broken(outputs, labels):
    raise ValueError("no such label")
import dataclasses
workload = dataclasses.replace(workload, loss=broken)
"""
ENOUGH, TOO_LITTLE = 4 * 2**30, 480 * 2**20


def bench(folder: Path, add: str, limit: int) -> Bench:
    return Bench(
        target=trainable.write(folder, "tokens", add=add),
        study={},
        memory_limit=limit,
        work=folder,
        deadline=time.monotonic() + 300,
        compiler=False,
        other_batch_sizes=False,
        tell=lambda event: None,
    )


@pytest.mark.slow
def test_memory_is_that_of_the_largest_batch_of_the_epoch(tmp_path: Path) -> None:
    settings = Settings(threads=1)
    with bench(tmp_path, LATE, TOO_LITTLE).hold(settings) as (worker,):
        held = worker.call("hotlap.training.timing:held", timeout=60)
    assert held["peak_memory_bytes"] < TOO_LITTLE
    assert bench(tmp_path, LATE, ENOUGH).peak_bytes(settings) > TOO_LITTLE
    with pytest.raises(OutOfMemory, match=r"more than its limit of 0\.5 GiB"):
        bench(tmp_path, LATE, TOO_LITTLE).peak_bytes(settings)


READ = """
_read = Rows.__getitem__
def _noted(self, index):
    with open(__file__ + ".read", "a") as file:
        file.write("x")
    return _read(self, index)
Rows.__getitem__ = _noted
"""


@pytest.mark.slow
def test_a_dataset_is_looked_through_once(tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows", add=READ)
    search = replace(bench(tmp_path, "", ENOUGH), target=target)
    read = tmp_path / "rows_workload.py.read"
    search.peak_bytes(Settings(threads=1, batch_size=8))
    assert len(read.read_text()) == 150
    search.peak_bytes(Settings(threads=1, batch_size=8, fused=True))
    assert len(read.read_text()) == 151


@pytest.mark.slow
def test_another_error_is_none_of_memory(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="no such label"):
        bench(tmp_path, BROKEN, ENOUGH).peak_bytes(Settings(threads=1))


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ("loss=lambda outputs, labels: outputs.sum() * float('nan')", "gave a loss that is not finite"),
        ("training=lambda: []", "`training` gave no batch"),
    ],
)
def test_steps_that_cant_be_timed(tmp_path: Path, replaced: str, message: str) -> None:
    add = f"import dataclasses\nworkload = dataclasses.replace(workload, {replaced})\n"
    threads = torch.get_num_threads()
    with pytest.raises(WorkloadError, match=message):
        timing.hold(
            {}, target=trainable.write(tmp_path, "tokens", add=add), settings=Settings(threads=threads).to_json()
        )


def test_slow_steps_keep_more_time_for_their_confirmation() -> None:
    fast, slow, slower = (kept_for_confirming(150, 5, seconds) for seconds in (5.0, 13.0, 60.0))
    assert fast == pytest.approx(0.35 * 150)
    assert slow == pytest.approx(5 + 4 * 15.5 + 13)
    assert slower == pytest.approx(0.75 * 150)
    assert kept_for_confirming(-3, 5, 2) == 0


@pytest.mark.parametrize("kind", [CandidateFailed, WorkloadError])
def test_torch_says_in_words_that_memory_ran_out(kind: type[Exception]) -> None:
    with pytest.raises(OutOfMemory), memory_told():
        raise kind("RuntimeError in torch: DefaultCPUAllocator: can't allocate memory: you tried 4000 bytes")
    with pytest.raises(kind, match="shapes cannot be multiplied"), memory_told():
        raise kind("RuntimeError in torch: mat1 and mat2 shapes cannot be multiplied")


def test_a_failure_is_told_in_one_line() -> None:
    compiled = CandidateFailed(
        "InductorError in torch: CppCompileError: C++ compile error\n\nCommand:\ng++ " + "x" * 9000
    )
    assert told(compiled) == "InductorError in torch: CppCompileError: C++ compile error"
    assert told(CandidateFailed("y" * 400)) == "y" * 300 + "..."
    assert told(CandidateFailed()) == "CandidateFailed"
