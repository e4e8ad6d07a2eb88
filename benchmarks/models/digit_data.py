"""What the benchmark's models learn and are judged on: the 10,000 digits of the examples, in other shapes.

Weights drawn at random give outputs that mean nothing, and a gate over them says nothing; so each model is trained
briefly (`train.py`) on the first 6,000 digits and judged on the others.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset

from hotlap import Workload

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "runs" / "bench-weights"
TRAINING_IMAGES = 6_000

Prepare = Callable[[torch.Tensor], torch.Tensor]
"""Digits float32 [n, 1, 28, 28] in [0, 1] to a model's inputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A part of a training: `images` digits for `epochs` epochs, the learning rate rising to `rate` and falling.

    `make` turns digits, their labels and a generator into inputs and targets.
    """

    images: int = TRAINING_IMAGES
    epochs: int
    batch: int = 64
    rate: float
    make: Callable[[torch.Tensor, torch.Tensor, torch.Generator], tuple[torch.Tensor, torch.Tensor]]


@cache
def digits(part: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images float32 [n, 1, 28, 28] in [0, 1] and labels int64 [n], of "training" or "evaluation"."""
    rows = slice(None, TRAINING_IMAGES) if part == "training" else slice(TRAINING_IMAGES, None)
    with np.load(ROOT / "examples" / "data" / "digits10k.npz") as data:
        images = torch.from_numpy(data["images"][rows])[:, None].float() / 255
        return images, torch.from_numpy(data["labels"][rows]).long()


def enlarged(size: int, channels: int) -> Prepare:
    """Digits as images [n, channels, size, size], around 0."""

    def prepare(images: torch.Tensor) -> torch.Tensor:
        larger = functional.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
        return (2 * larger - 0.5).expand(-1, channels, -1, -1).contiguous()

    return prepare


def shifted(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image moved by -2 to 2 pixels in both directions, filled with zeros."""
    around = functional.pad(images, (2, 2, 2, 2))
    corners = torch.randint(0, 5, (len(images), 2), generator=generator).tolist()
    return torch.stack([around[i, :, y : y + 28, x : x + 28] for i, (y, x) in enumerate(corners)])


def learn(prepare: Prepare, *, epochs: int, rate: float, images: int = TRAINING_IMAGES, batch: int = 64) -> Stage:
    """A stage that learns the labels of shifted digits."""
    return Stage(
        images=images,
        epochs=epochs,
        batch=batch,
        rate=rate,
        make=lambda digits, labels, generator: (prepare(shifted(digits, generator)), labels),
    )


class Labelled(Dataset):
    """(one model input, label) of the training digits."""

    def __init__(self, prepare: Prepare) -> None:
        self.prepare = prepare
        self.images, self.labels = digits("training")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.prepare(self.images[index : index + 1])[0], self.labels[index]


def missing(name: str) -> FileNotFoundError:
    """What to say where a model's weights are not there."""
    return FileNotFoundError(f"{name} has no weights; make them with: python benchmarks/models/train.py {name}")


def trained(net: nn.Module, name: str) -> nn.Module:
    """`net` with the weights that `train.py` made."""
    path = WEIGHTS / f"{name}.safetensors"
    if not path.is_file():
        raise missing(name)
    net.load_state_dict(load_file(path))
    return net.eval()


def correct(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """1 where the digit is right, 0 where it is wrong."""
    return (outputs.argmax(1) == labels).float()


def classifier(
    name: str,
    build: Callable[[], nn.Module],
    prepare: Prepare,
    shape: Sequence[int],
    *,
    held_out: int = 4_000,
    batch: int = 100,
) -> Workload:
    """A workload that tells digits apart, judged on the first `held_out` held-out digits in batches of `batch`."""

    def example(batch: int) -> torch.Tensor:
        images, _ = digits("training")
        return prepare(images[:batch]) if batch <= len(images) else torch.zeros(batch, *shape)

    def evaluation() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        images, labels = (part[:held_out] for part in digits("evaluation"))
        for some, their_labels in zip(images.split(batch), labels.split(batch), strict=True):
            yield prepare(some), their_labels

    return Workload(
        name=name,
        model=lambda: trained(build(), name),
        example=example,
        evaluation=evaluation,
        score=correct,
        training=lambda: Labelled(prepare),
        loss=functional.cross_entropy,
    )
