"""Handwritten digits: a small ResNet on 28x28 images.

    hotlap optimize examples/digits.py --out runs/digits --budget 90s

`train_digits.py` made the weights; `data/README.md` names the source of the data.
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
WEIGHTS = DATA / "digits.safetensors"
TRAINING_IMAGES = 6_000
"""The first so many of the 10,000 images train; the other 4,000 are held out for evaluation."""


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al., 2015)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class DigitNet(nn.Module):
    """Float images [batch, 1, 28, 28] in [0, 1] to scores [batch, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 32, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(32)
        self.blocks = nn.Sequential(
            Block(32, 32, 1), Block(32, 32, 1), Block(32, 64, 2), Block(64, 64, 1), Block(64, 96, 2)
        )
        self.head = nn.Linear(96, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.norm(self.stem(image)))
        return self.head(self.blocks(x).mean(dim=(2, 3)))


class Digits(Dataset):
    """(image float32 [1, 28, 28] in [0, 1], label int64) pairs, of the training or the held-out images."""

    def __init__(self, *, training: bool) -> None:
        part = slice(None, TRAINING_IMAGES) if training else slice(TRAINING_IMAGES, None)
        with np.load(DATA / "digits10k.npz") as data:
            self.images = torch.from_numpy(data["images"][part])[:, None].float() / 255
            self.labels = torch.from_numpy(data["labels"][part]).long()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.images[index], self.labels[index]


def model() -> nn.Module:
    net = DigitNet()
    net.load_state_dict(load_file(WEIGHTS))
    return net.eval()


def example(batch: int) -> torch.Tensor:
    return torch.rand(batch, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def evaluation():
    """The held-out images, in batches of 100."""
    digits = Digits(training=False)
    yield from zip(digits.images.split(100), digits.labels.split(100), strict=True)


def training() -> Dataset:
    return Digits(training=True)


def score(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """1 where the digit is right, 0 where it is wrong."""
    return (outputs.argmax(1) == labels).float()


def slices(images: torch.Tensor, labels: torch.Tensor) -> list[str]:
    return [f"digit {label}" for label in labels.tolist()]


def optimizer(parameters) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=3e-3, weight_decay=0.05)


workload = Workload(
    name="digits",
    model=model,
    example=example,
    evaluation=evaluation,
    score=score,
    slices=slices,
    training=training,
    loss=functional.cross_entropy,
    optimizer=optimizer,
    batch_size=64,
    epochs=9,
)
