"""ResNet-18 (He et al., 2015; torchvision's form of it) on digits at 64 pixels, and on sheets of them at 224.

A sheet is the same enlarged digit again and again, so that what was learnt at 64 pixels holds at 224. The head
keeps its 1,000 outputs, of which ten are used, so that it is the network that others measure.
"""

import torch
from digit_data import classifier, enlarged, learn
from torch import nn
from torch.nn import functional


class Block(nn.Module):
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


class ResNet18(nn.Module):
    """Images [batch, 3, height, width] to scores [batch, 1000]; 11,689,512 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.norm = nn.BatchNorm2d(64)
        self.pool = nn.MaxPool2d(3, 2, 1)
        blocks = [
            Block(before, channels, stride)
            for before, channels, first in ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2))
            for before, stride in ((before, first), (channels, 1))
        ]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(512, 1000)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.pool(functional.relu(self.norm(self.stem(image))))
        return self.head(self.blocks(x).mean(dim=(2, 3)))


def sheet(images: torch.Tensor) -> torch.Tensor:
    """Digits at 64 pixels, next to and below each other until they fill [n, 3, 224, 224]."""
    return SMALL(images).repeat(1, 1, 4, 4)[:, :, :224, :224].contiguous()


SMALL = enlarged(64, 3)
px64 = classifier("resnet18-64", ResNet18, SMALL, (3, 64, 64))
# Fewer than there are: each takes eager PyTorch some 20 ms, and every rival has to be judged.
px224 = classifier("resnet18-224", ResNet18, sheet, (3, 224, 224), held_out=2_000, batch=25)

STAGES = {
    "resnet18-64": [learn(SMALL, epochs=3, rate=1e-3)],
    "resnet18-224": [learn(sheet, images=320, epochs=1, batch=16, rate=1e-4)],
}
BEGINS_WITH = {"resnet18-224": "resnet18-64"}
BUILD = ResNet18
