"""Small workloads to train, as files: written where a test wants them."""

from pathlib import Path

HEAD = """
import random
import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset
from hotlap import Workload

def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
"""

ROWS = (
    HEAD
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))

    def forward(self, rows):
        return self.layers(rows)

class Rows(Dataset):
    '''Augmented by every global generator.'''
    def __init__(self, count, seed):
        self.rows = drawn(seed, count, 6)
        self.labels = self.rows[:, :3].argmax(1)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        noise = 0.01 * (torch.randn(6) + random.random() + torch.from_numpy(np.random.randn(6)).float())
        return self.rows[index] + noise, self.labels[index]

def model():
    torch.manual_seed(0)
    return Net().eval()

def evaluation():
    data = Rows(60, 2)
    yield from zip(data.rows.split(20), data.labels.split(20))

def score(outputs, labels):
    return (outputs.argmax(1) == labels).float()

workload = Workload(
    name="rows", model=model, example=lambda batch: drawn(1, batch, 6), evaluation=evaluation, score=score,
    training=lambda: Rows(150, 3), loss=functional.cross_entropy,
    optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-2), batch_size=16, epochs=3,
)
"""
)
"""150 examples, so that the last window of an epoch is short; batch statistics, dropout and augmentation."""

TOKENS = (
    HEAD
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.mix = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 20))

    def forward(self, ids):
        return self.mix(self.embed(ids))

def model():
    torch.manual_seed(0)
    return Net()

def batches(seed=3, count=7):
    '''Batches of other sizes and lengths, filled up with -100.'''
    draw = torch.Generator().manual_seed(seed)
    found = []
    for number in range(count):
        rows, length = 2 + number % 3, 3 + number
        ids = torch.randint(0, 20, (rows, length), generator=draw)
        lengths = torch.randint(1, length + 1, (rows,), generator=draw)
        labels = torch.where(torch.arange(length) < lengths[:, None], ids.roll(1, 1), -100)
        found.append((ids, labels))
    return found

def loss(outputs, labels):
    return functional.cross_entropy(outputs.flatten(0, 1), labels.flatten(), ignore_index=-100)

workload = Workload(
    name="tokens", model=model, example=lambda batch, length=5: torch.ones(batch, length, dtype=torch.int64),
    training=batches, loss=loss, loss_weight=lambda labels: (labels != -100).sum().item(),
    dynamic={"ids": {0: "batch", 1: ("length", 1, 64)}}, epochs=2,
)
"""
)
"""A loss averaged over tokens, of batches that the data cuts itself."""

WORKLOADS = {"rows": ROWS, "tokens": TOKENS}


def slow_rows(seconds: float) -> str:
    """To add to `rows`, so that reading each example takes so much longer."""
    return f"""
import time
_fast = Rows.__getitem__
def _slow(self, index):
    time.sleep({seconds})
    return _fast(self, index)
Rows.__getitem__ = _slow
"""


def write(folder: Path, name: str, *, add: str = "") -> str:
    """Write one of the workloads as a file, with a few lines more at its end; gives its path."""
    path = folder / f"{name}_workload.py"
    path.write_text(WORKLOADS[name] + add)
    return str(path)


CONTRASTIVE = """
import dataclasses
def contrastive(outputs, labels):
    return functional.cross_entropy(outputs @ outputs.T, torch.arange(len(outputs)))
workload = dataclasses.replace(workload, loss=contrastive)
"""
"""A loss that sets the rows of a batch against each other."""

LOUD = """
import dataclasses
workload = dataclasses.replace(
    workload, loss=lambda outputs, labels: 1e4 * functional.cross_entropy(outputs, labels),
    optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-6),
)
"""
"""To add to `rows`: gradients that overflow in fp16 until its scale, 65536 at first, was halved some times."""
