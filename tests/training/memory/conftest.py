"""A small workload that trains, for the tests of memory."""

from pathlib import Path

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
