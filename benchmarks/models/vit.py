"""A small vision transformer (Dosovitskiy et al., 2020) on digits enlarged to 64 pixels.

Places begin as sines and cosines and the patches' mean is classified (Beyer et al., 2022), which learns from few
images.
"""

import torch
from digit_data import classifier, enlarged, learn
from torch import nn
from torch.nn import functional

WIDTH, DEPTH, HEADS, PATCH, SIZE = 192, 6, 3, 8, 64
PATCHES = (SIZE // PATCH) ** 2


def waves() -> torch.Tensor:
    """Sines and cosines of each patch's row and column, [1, PATCHES, WIDTH]."""
    rows, columns = torch.meshgrid(torch.arange(SIZE // PATCH), torch.arange(SIZE // PATCH), indexing="ij")
    rates = 100.0 ** -torch.linspace(0, 1, WIDTH // 4)
    angles = torch.cat([axis.flatten()[:, None] * rates for axis in (rows, columns)], dim=1)
    return torch.cat([angles.sin(), angles.cos()], dim=1)[None]


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.project = nn.Linear(WIDTH, 3 * WIDTH)
        self.merge = nn.Linear(WIDTH, WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.wide = nn.Linear(WIDTH, 4 * WIDTH)
        self.narrow = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        parts = self.project(self.norm1(x)).view(batch, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        x = x + self.merge(mixed.transpose(1, 2).reshape(batch, length, WIDTH))
        return x + self.narrow(functional.gelu(self.wide(self.norm2(x))))


class Vit(nn.Module):
    """Images [batch, 3, 64, 64] to scores [batch, 10]; 64 tokens.

    In training half of the patches are left out (PatchDropout; Liu et al., 2022), which halves its time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.place = nn.Parameter(waves())
        self.layers = nn.Sequential(*(Layer() for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2) + self.place
        if self.training:
            x = x[:, torch.randperm(PATCHES)[: PATCHES // 2]]
        return self.head(self.norm(self.layers(x)).mean(1))


PREPARE = enlarged(SIZE, 3)
workload = classifier("vit", Vit, PREPARE, (3, SIZE, SIZE), held_out=3_000)
STAGES = {"vit": [learn(PREPARE, epochs=8, rate=1e-3, batch=32)]}
BUILD = Vit
