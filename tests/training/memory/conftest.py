"""A small workload that trains, and GPUs where there are none, for the tests of memory."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

TRAINS = """
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset
from hotlap import Workload

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide = nn.Linear(256, 1024)
        self.norm = nn.BatchNorm1d(1024)
        self.head = nn.Linear(1024, 10)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.wide(x))))

class Rows(Dataset):
    def __len__(self):
        return 50
    def __getitem__(self, index):
        return torch.full((256,), float(index)), torch.tensor(index % 10)

def batches():
    return [(torch.zeros(rows, 256), torch.zeros(rows, dtype=torch.int64)) for rows in (3, 7, 5)]

def example(batch):
    return torch.zeros(batch, 256)

loss = functional.cross_entropy
workload = Workload(name="trains", model=Net, example=example, training=Rows, loss=loss)
in_batches = Workload(model=Net, example=example, training=batches, loss=loss)
fails = Workload(model=Net, example=example, training=Rows, loss=lambda outputs, targets: outputs.nothing)
"""


@pytest.fixture(scope="session")
def trains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the workloads `workload`, `in_batches` and `fails`."""
    file = tmp_path_factory.mktemp("trains") / "trains.py"
    file.write_text(TRAINS)
    return file


class Cards:
    """Answers as torch.cuda does: `cached` bytes of each device are in torch's cache, where no tensor holds them."""

    def __init__(self, *, initialized: bool) -> None:
        self.initialized, self.cached = initialized, [10, 0]

    def is_initialized(self) -> bool:
        return self.initialized

    def device_count(self) -> int:
        assert self.initialized, "looking was what first used a device"
        return 2

    def get_device_properties(self, index: int) -> SimpleNamespace:
        return SimpleNamespace(uuid=("1", "elsewhere")[index])

    def get_device_name(self, index: int) -> str:
        return f"card {index}"

    def mem_get_info(self, index: int) -> tuple[int, int]:
        return 60 + index, 100

    def memory_allocated(self, index: int) -> int:
        return 20 + index

    def memory_reserved(self, index: int) -> int:
        return self.memory_allocated(index) + self.cached[index]

    def max_memory_allocated(self, index: int) -> int:
        return 33 + index

    def max_memory_reserved(self, index: int) -> int:
        return 44 + index

    def empty_cache(self) -> None:
        self.cached = [0, 0]


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> Cards:
    """Two devices that this process has used, in the place of torch's own."""
    found = Cards(initialized=True)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=found))  # type: ignore[arg-type]
    return found
