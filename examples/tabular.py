"""What a diamond costs: a small multilayer perceptron on a table of numbers and categories.

    hotlap optimize examples/tabular.py --out runs/tabular --budget 60s

`train_tabular.py` made the weights; `data/README.md` names the source of the data.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset

from hotlap import Workload

DATA = Path(__file__).resolve().parent / "data"
WEIGHTS = DATA / "tabular.safetensors"
TRAINING_ROWS = 20_000
"""The first so many of the 25,000 rows train; the other 5,000 are held out for evaluation."""
CUTS = ("fair", "good", "very good", "premium", "ideal")
CATEGORY_SIZES = (len(CUTS), 7, 8)
"""How many values each category has: cut, colour, clarity."""


class PriceNet(nn.Module):
    """numbers float32 [batch, 6] and categories int64 [batch, 3] to the logarithm of the price, [batch]."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("deviation", torch.ones(6))
        self.embeddings = nn.ModuleList(nn.Embedding(size, 8) for size in CATEGORY_SIZES)
        self.layers = nn.Sequential(
            nn.Linear(6 + 8 * len(CATEGORY_SIZES), 256),
            nn.ReLU(),
            nn.Linear(256, 256),
            nn.ReLU(),
            nn.Linear(256, 128),
            nn.ReLU(),
            nn.Linear(128, 1),
        )

    def forward(self, numbers: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
        columns = [embed(categories[:, column]) for column, embed in enumerate(self.embeddings)]
        scaled = (numbers - self.mean) / self.deviation
        return self.layers(torch.cat([scaled, *columns], dim=1)).squeeze(1)


class Diamonds(Dataset):
    """({"numbers", "categories"}, logarithm of the price in dollars), of the training or the held-out rows."""

    def __init__(self, *, training: bool) -> None:
        part = slice(None, TRAINING_ROWS) if training else slice(TRAINING_ROWS, None)
        with np.load(DATA / "diamonds.npz") as data:
            self.numbers = torch.from_numpy(data["numbers"][part])
            self.categories = torch.from_numpy(data["categories"][part]).long()
            self.log_price = torch.from_numpy(data["price"][part].astype(np.float32)).log()

    def __len__(self) -> int:
        return len(self.log_price)

    def __getitem__(self, index):
        return {"numbers": self.numbers[index], "categories": self.categories[index]}, self.log_price[index]


def model() -> nn.Module:
    net = PriceNet()
    net.load_state_dict(load_file(WEIGHTS))
    return net.eval()


def example(batch: int) -> dict[str, torch.Tensor]:
    diamonds = Diamonds(training=True)
    rows = torch.arange(batch) % len(diamonds)
    return diamonds[rows][0]


def evaluation():
    """The held-out rows, in batches of 250."""
    diamonds = Diamonds(training=False)
    for rows in torch.arange(len(diamonds)).split(250):
        yield diamonds[rows]


def training() -> Dataset:
    return Diamonds(training=True)


def score(outputs: torch.Tensor, log_price: torch.Tensor) -> torch.Tensor:
    """How near the estimate comes: 1 minus the error as a share of the price, and not below 0."""
    return (1 - ((outputs - log_price).exp() - 1).abs()).clamp(min=0)


def slices(inputs: dict[str, torch.Tensor], log_price: torch.Tensor) -> list[str]:
    return [CUTS[cut] for cut in inputs["categories"][:, 0].tolist()]


def optimizer(parameters) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=2e-3)


workload = Workload(
    name="tabular",
    model=model,
    example=example,
    evaluation=evaluation,
    score=score,
    slices=slices,
    training=training,
    loss=functional.smooth_l1_loss,
    optimizer=optimizer,
    batch_size=128,
    epochs=15,
)
