"""Small models for the contract suites, as workload files: written where a test wants them."""

from pathlib import Path

HEAD = """
import torch
from torch import nn
from hotlap import Workload

def seeded(make):
    torch.manual_seed(0)
    return make().eval()

def noise(batch, *shape):
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(1))
"""

CONVOLUTIONS = (
    HEAD
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.b = nn.Conv2d(16, 16, 3, padding=1, stride=2)
        self.head = nn.Linear(16, 10)

    def forward(self, image):
        x = torch.relu(self.norm(self.a(image)))
        return self.head(torch.relu(self.b(x)).mean((2, 3)))

def data(seed):
    images = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return images, seeded(Net)(images).argmax(1)

def evaluation():
    images, labels = data(2)
    yield from zip(images.split(16), labels.split(16))

def score(outputs, labels):
    return (outputs.argmax(1) == labels).float()

workload = Workload(
    name="convolutions", model=lambda: seeded(Net), example=lambda batch: noise(batch, 3, 16, 16),
    evaluation=evaluation, score=score, calibration=lambda: iter(data(3)[0].split(16)),
)
"""
)

NESTED = (
    HEAD
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        self.norm = nn.LayerNorm(32)
        self.mix = nn.Linear(32, 32)
        self.head = nn.Linear(32, 4)

    def forward(self, ids, weights):
        x = self.mix(self.norm(self.embed(ids)))
        pooled = (x * weights[..., None]).mean(1)
        return {"scores": self.head(pooled), "rest": (pooled, x)}

def example(batch, length=12):
    g = torch.Generator().manual_seed(4)
    ids = torch.randint(0, 50, (batch, length), generator=g)
    return {"ids": ids, "weights": torch.rand(batch, length, generator=g)}

workload = Workload(
    name="nested", model=lambda: seeded(Net), example=example,
    calibration=lambda: (example(8, length) for length in (8, 12, 16)),
    dynamic={"ids": {0: "batch", 1: ("length", 2, 64)}, "weights": {0: "batch", 1: ("length", 2, 64)}},
)
"""
)

LSTM = (
    HEAD
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells = nn.LSTM(8, 16, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, rows):
        return self.head(self.cells(rows)[0][:, -1])

workload = Workload(
    name="lstm", model=lambda: seeded(Net), example=lambda batch: noise(batch, 10, 8),
    calibration=lambda: iter([noise(16, 10, 8)]),
)
"""
)

ODD = (
    HEAD
    + """
from dataclasses import dataclass

@dataclass
class Answer:
    scores: torch.Tensor
    hidden: torch.Tensor
    masked: torch.Tensor
    table: torch.Tensor
    mean: torch.Tensor
    loss: torch.Tensor | None = None

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(8, 3)

    def forward(self, steps, table):
        x = self.mix(steps)
        scores = torch.tanh(x).sum(0) @ table
        off = torch.tensor([False, True, False])
        return Answer(scores, x, scores.masked_fill(off, float("-inf")), table.sum(0), x.mean())

TABLE = torch.eye(3)

workload = Workload(
    name="odd", model=lambda: seeded(Net), example=lambda batch: (noise(5, batch, 8), TABLE),
    evaluation=lambda: (((noise(5, 20 + extra, 8), TABLE), torch.zeros(20 + extra)) for extra in range(4)),
    score=lambda outputs, zeros: (outputs.scores.argmax(1) == outputs.masked.argmax(1)).float() + zeros,
    dynamic={"steps": {1: "batch"}, "table": {}},
)
"""
)
"""The batch on axis 1, an input and outputs without one, a number, a dataclass, infinities."""

MODELS = {"convolutions": CONVOLUTIONS, "nested": NESTED, "lstm": LSTM, "odd": ODD}


def write(folder: Path, name: str) -> str:
    """Write one of the models as a workload file; give its path."""
    path = folder / f"{name}_model.py"
    path.write_text(MODELS[name])
    return str(path)
