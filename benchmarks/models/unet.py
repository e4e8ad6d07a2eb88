"""A U-Net (Ronneberger et al., 2015) that finds a digit's pixels under heavy noise, at 128 pixels."""

from collections.abc import Iterator

import torch
from digit_data import Stage, digits, trained
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset

from hotlap import Workload

SIZE = 128
NOISE = 0.5
HELD_OUT = 800
"""So many held-out digits judge it: each has 16,384 pixels, and more would take longer to judge than to search."""


def two_convolutions(channels_in: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    )


class UNet(nn.Module):
    """Images [batch, 1, height, width] to the log-odds that a pixel is ink, of the same shape."""

    def __init__(self, channels: tuple[int, ...] = (32, 64, 128, 256)) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            two_convolutions(before, after) for before, after in zip((1, *channels), channels, strict=False)
        )
        pairs = list(zip(channels[::-1], channels[-2::-1], strict=False))
        self.grow = nn.ModuleList(nn.ConvTranspose2d(before, after, 2, 2) for before, after in pairs)
        self.up = nn.ModuleList(two_convolutions(2 * after, after) for _, after in pairs)
        self.head = nn.Conv2d(channels[0], 1, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x, kept = image, []
        for index, layer in enumerate(self.down):
            x = layer(functional.max_pool2d(x, 2) if index else x)
            kept.append(x)
        for grow, layer, beside in zip(self.grow, self.up, kept[-2::-1], strict=True):
            x = layer(torch.cat([grow(x), beside], dim=1))
        return self.head(x)


def noisy(images: torch.Tensor, generator: torch.Generator, size: int = SIZE) -> tuple[torch.Tensor, torch.Tensor]:
    """Enlarged digits under noise, and where their ink is (bool); both [n, 1, size, size]."""
    larger = functional.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
    noise = NOISE * torch.randn(larger.shape, generator=generator)
    return 0.5 * larger + noise, larger > 0.5


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Noisy(Dataset):
    """(noisy image, its ink) of the training digits, the same noise each time."""

    def __init__(self) -> None:
        self.images, _ = digits("training")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, ink = noisy(self.images[index : index + 1], _seeded(index))
        return image[0], ink[0]


def example(batch: int) -> torch.Tensor:
    images, _ = digits("training")
    return noisy(images[torch.arange(batch) % len(images)], _seeded(1))[0]


def evaluation() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    images = digits("evaluation")[0][:HELD_OUT]
    for index, some in enumerate(images.split(20)):
        yield noisy(some, _seeded(1_000_000 + index))


def score(outputs: torch.Tensor, ink: torch.Tensor) -> torch.Tensor:
    """The Dice coefficient of each image: 2 |A and B| / (|A| + |B|), in [0, 1]."""
    found = outputs > 0
    both = (found & ink).flatten(1).sum(1)
    return 2 * both / (found.flatten(1).sum(1) + ink.flatten(1).sum(1)).clamp(min=1)


def loss(outputs: torch.Tensor, ink: torch.Tensor) -> torch.Tensor:
    return functional.binary_cross_entropy_with_logits(outputs, ink.to(outputs.dtype))


workload = Workload(
    name="unet",
    model=lambda: trained(UNet(), "unet"),
    example=example,
    evaluation=evaluation,
    score=score,
    training=Noisy,
    loss=loss,
)
STAGES = {
    "unet": [
        Stage(images=3_000, epochs=1, batch=32, rate=3e-3, make=lambda images, _, seed: noisy(images, seed, SIZE // 2)),
        Stage(images=320, epochs=1, batch=16, rate=1e-3, make=lambda images, _, seed: noisy(images, seed)),
    ]
}
BUILD = UNet
