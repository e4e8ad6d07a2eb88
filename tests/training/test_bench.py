"""Processes that hold a training: memory on the largest batch, and what is out of memory and what is not."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
import trainable

from hotlap.errors import CandidateFailed, LoaderDied, OutOfMemory, Refusal, WorkloadError
from hotlap.training.bench import Bench, memory_told, studied, told
from hotlap.training.settings import Settings

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
    assert bench(tmp_path, LATE, ENOUGH).peak(settings).bytes > TOO_LITTLE
    with pytest.raises(OutOfMemory, match=r"more than its limit of 480\.0 MiB"):
        bench(tmp_path, LATE, TOO_LITTLE).peak(settings)


def test_an_empty_training_is_told_as_such(tmp_path: Path) -> None:
    add = "import dataclasses\nworkload = dataclasses.replace(workload, training=lambda: [])\n"
    target = trainable.write(tmp_path, "tokens", add=add)
    with pytest.raises(WorkloadError, match="the workload's `training` gave no batch; give at least one an epoch"):
        studied(target, Settings(threads=1), memory_limit=ENOUGH, work=tmp_path)


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
    search.peak(Settings(threads=1, batch_size=8))
    assert len(read.read_text()) == 150
    search.peak(Settings(threads=1, batch_size=8, fused=True))
    assert len(read.read_text()) == 151


@pytest.mark.slow
def test_another_error_is_none_of_memory(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="no such label"):
        bench(tmp_path, BROKEN, ENOUGH).peak(Settings(threads=1))


LARGE = """
import time
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(4, 2)
    def forward(self, ids):
        large = torch.ones(len(ids), 500_000) * self.out.weight.sum()
        if len(ids) > 8:
            time.sleep(1)
        return self.out(functional.one_hot(ids, 4).float().sum(1)) + large.mean(1, keepdim=True)
class Texts(Dataset):
    def __len__(self):
        return 256
    def __getitem__(self, index):
        return torch.tensor([1, 2, 0, 0]), index % 2
workload = Workload(
    name="texts", model=Net, example=lambda batch: torch.ones(batch, 4, dtype=torch.int64), training=Texts,
    loss=functional.cross_entropy, batch_size=256)
"""
"""2 MB a row: a process that looks at a few rows held 0.45 GB here, one that looks at whole batches 1.2 GB or more."""
FOR_A_FEW_ROWS = 720 * 2**20


@pytest.mark.slow
def test_what_has_no_room_for_whole_batches_is_known_by_a_few_rows(tmp_path: Path) -> None:
    target, settings = trainable.write(tmp_path, "tokens", add=LARGE), Settings(threads=1, batch_size=256)
    study = studied(target, settings, memory_limit=FOR_A_FEW_ROWS, work=tmp_path)
    assert re.match(r"the check of it failed: used \d+\.\d [MG]iB of memory", study["kernels"]["reason"])
    assert study["in_passes"]["reason"] is None
    assert study["trim"]["reason"].startswith("without padding, loss or gradients differ")
    with pytest.raises(
        Refusal,
        match=r"fits the memory: opening the workload: used \d+\.\d MiB of memory, more than its limit of 50\.0 MiB",
    ):
        studied(target, settings, memory_limit=50 * 2**20, work=tmp_path)


CRASHES = """
import ctypes, time
_row = Rows.__getitem__
def _native(self, index):
    if isinstance(index, np.ndarray):
        ctypes.string_at(0)
    return _row(self, index)
Rows.__getitem__ = _native
"""
"""As a native reader may that takes no array."""


@pytest.mark.slow
def test_a_check_that_crashes_is_a_reason_and_the_others_are_made(tmp_path: Path) -> None:
    target, settings = trainable.write(tmp_path, "rows", add=CRASHES), Settings(threads=1, batch_size=16)
    study = studied(target, settings, memory_limit=ENOUGH, work=tmp_path)
    assert study["at_once"]["reason"].startswith("the check of it failed: killed by SIGSEGV")
    assert "batch statistics" in study["in_passes"]["reason"]
    assert study["trim"]["reason"]
    assert (study["examples"], study["steps"]) == (150, 10)


NOTED = """
def noted(outputs, labels):
    with open(__file__ + ".rows", "a") as file:
        file.write(f"{len(labels)} ")
    return functional.cross_entropy(outputs, labels)
import dataclasses
workload = dataclasses.replace(workload, loss=noted)
"""


@pytest.mark.slow
def test_no_batch_is_larger_than_the_data_and_a_peak_is_looked_for_once(tmp_path: Path) -> None:
    target, settings = trainable.write(tmp_path, "rows", add=NOTED), Settings(threads=1, batch_size=20_000)
    search = replace(bench(tmp_path, "", ENOUGH), target=target, study={"examples": 150})
    peak = search.peak(settings)
    rows = (tmp_path / "rows_workload.py.rows").read_text()
    assert set(rows.split()) == {"150"}
    # Loader processes hold nothing there, and come on top.
    assert search.peak(replace(settings, workers=2, prefetch=4), beside=1000).bytes == peak.bytes + 1000
    assert (tmp_path / "rows_workload.py.rows").read_text() == rows
    with pytest.raises(OutOfMemory, match="more than its limit"):
        replace(search, peak_limit=peak.bytes + 10).peak(settings, beside=11)


@pytest.mark.slow
def test_a_peak_between_two_looks_is_held_to_its_limit(tmp_path: Path) -> None:
    held = replace(bench(tmp_path, "", ENOUGH), peak_limit=50 * 2**20)
    with pytest.raises(OutOfMemory, match=r"used \d+\.\d MiB of memory, more than its limit of 50\.0 MiB"):
        held.peak(Settings(threads=1))


@pytest.mark.slow
def test_each_of_two_that_are_timed_is_held_to_its_share(tmp_path: Path) -> None:
    held = replace(bench(tmp_path, "", ENOUGH), timing_limit=50 * 2**20)
    with pytest.raises(OutOfMemory), held.hold(Settings(threads=1)):
        pass


LOADERS_HOLD = """
from torch.utils.data import get_worker_info
_light = Rows.__getitem__
def _heavy(self, index):
    if get_worker_info() is not None and not hasattr(self, "held"):
        self.held = bytearray(b"x" * 500_000_000)
    return _light(self, index)
Rows.__getitem__ = _heavy
"""


@pytest.mark.slow
def test_the_memory_of_loader_processes_counts(tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows", add=LOADERS_HOLD)
    both = Settings(threads=1, batch_size=16), Settings(threads=1, batch_size=16, workers=1)
    with replace(bench(tmp_path, "", ENOUGH), target=target).hold(*both) as workers:
        alone, loading = (one.call("hotlap.training.timing:held", timeout=60) for one in workers)
    assert 450e6 < loading["peak_memory_bytes"] - alone["peak_memory_bytes"] < 650e6


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
    ended = LoaderDied("a loader process ended by itself, most often for want of memory; go on with --resume")
    assert told(ended) == "a loader process ended by itself, most often for want of memory"
