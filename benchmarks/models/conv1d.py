"""A 1-D residual network of 22 million parameters on digits read as one signal, row after row."""

import torch
from digit_data import classifier, learn
from torch import nn
from torch.nn import functional

KERNEL = 9


class Block(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(channels_in, channels, KERNEL, stride, KERNEL // 2, bias=False)
        self.norm1 = nn.BatchNorm1d(channels)
        self.conv2 = nn.Conv1d(channels, channels, KERNEL, 1, KERNEL // 2, bias=False)
        self.norm2 = nn.BatchNorm1d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv1d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm1d(channels)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class Conv1dNet(nn.Module):
    """Signals [batch, 1, 784] to scores [batch, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, 64, 15, 2, 7, bias=False)
        self.norm = nn.BatchNorm1d(64)
        self.pool = nn.MaxPool1d(3, 2, 1)
        stages = ((64, 64, 2, 1), (64, 128, 2, 2), (128, 256, 3, 2), (256, 512, 4, 2))
        self.blocks = nn.Sequential(
            *(
                Block(before if index == 0 else channels, channels, stride if index == 0 else 1)
                for before, channels, count, stride in stages
                for index in range(count)
            )
        )
        self.head = nn.Linear(512, 10)

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        x = self.pool(functional.relu(self.norm(self.stem(signal))))
        return self.head(self.blocks(x).mean(dim=2))


def as_signal(images: torch.Tensor) -> torch.Tensor:
    return (2 * images - 0.5).flatten(2)


workload = classifier("conv1d", Conv1dNet, as_signal, (1, 784), held_out=2_000)
STAGES = {"conv1d": [learn(as_signal, epochs=2, rate=7e-4)]}
BUILD = Conv1dNet
