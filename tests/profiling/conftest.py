"""Small models of the common kinds, each with what it is called with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn


@dataclass(frozen=True)
class Case:
    model: nn.Module
    inputs: tuple[Any, ...]

    def __call__(self) -> None:
        with torch.inference_mode():
            self.model(*self.inputs)


def convolutions() -> Case:
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )
    return Case(model.eval(), (torch.randn(2, 3, 32, 32),))


def perceptron() -> Case:
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 3))
    return Case(model.eval(), (torch.randn(4, 16),))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.LSTM(16, 32, 2, batch_first=True)
        self.head = nn.Linear(32, 4)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.head(self.cells(rows)[0][:, -1])


def recurrent() -> Case:
    return Case(Recurrent().eval(), (torch.randn(2, 12, 16),))


class Attention(nn.Module):
    """A block written with functions, as most are: its products and softmax are in no module of their own."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = self.mix(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(*parts)
        return x + self.out(mixed.transpose(1, 2).flatten(2))


def transformer() -> Case:
    model = nn.Sequential(
        Attention(32, 4),
        nn.TransformerEncoderLayer(32, 4, 64, batch_first=True),
        nn.Linear(32, 5),
    )
    return Case(model.eval(), (torch.randn(2, 16, 32),))


MODELS: dict[str, Callable[[], Case]] = {
    "convolutions": convolutions,
    "perceptron": perceptron,
    "recurrent": recurrent,
    "transformer": transformer,
}


@pytest.fixture(params=MODELS)
def case(request: pytest.FixtureRequest) -> Case:
    torch.manual_seed(0)
    return MODELS[request.param]()
