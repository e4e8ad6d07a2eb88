"""Gradient checkpointing draws in its second pass what it drew in the first."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from hotlap.errors import InputError
from hotlap.training.recompute import recompute_layers, repeated_layers

DRAWS: dict[str, Callable[[torch.nn.Module], float]] = {
    "a torch.Generator": lambda layer: float(torch.rand((), generator=layer.own["torch"])),
    "a NumPy Generator": lambda layer: layer.own["numpy"].random(),
    "a random.Random": lambda layer: layer.own["python"].random(),
    "NumPy's global one": lambda layer: np.random.random(),
    "Python's global one": lambda layer: random.random(),
    "torch's global one": lambda layer: float(torch.rand(())),
}


class Noisy(nn.Module):
    """A layer that scales by a number it draws, as stochastic depth does."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.linear, self.name = nn.Linear(4, 4), name
        self.own = {
            "torch": torch.Generator().manual_seed(1), "numpy": np.random.default_rng(1), "python": random.Random(1)
        }  # fmt: skip

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.linear(batch)) * (0.5 + DRAWS[self.name](self))


class Stack(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.layers = nn.Sequential(Noisy(name), Noisy(name), Noisy(name))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layers(batch)
        return found


def gradients(model: nn.Module) -> list[torch.Tensor]:
    """Of two steps: what the first one's backward pass drew would be missing in the second."""
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    for seed in range(2):
        batch = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))
        model(batch).square().sum().backward()
    return [one.grad for one in model.parameters() if one.grad is not None]


@pytest.mark.parametrize("name", DRAWS)
def test_the_second_pass_draws_what_the_first_did(name: str) -> None:
    plain = Stack(name)
    cut = copy.deepcopy(plain)
    assert recompute_layers(cut) == ["layers.0", "layers.1", "layers.2"]
    for one, other in zip(gradients(plain), gradients(cut), strict=True):
        assert torch.equal(one, other)


class Averaging(nn.Module):
    """A layer whose output depends on buffers and numbers that each pass changes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.calls = nn.Linear(4, 4), 0
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("wide", torch.zeros(5000))
        self.register_buffer("still", torch.ones(5000))
        self.hidden: torch.Tensor | None = None

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.wide.add_(1)
        self.mean = 0.9 * self.mean + 0.1 * batch.detach().mean(0)  # another tensor each time
        found = torch.tanh(self.linear(batch - self.mean)) * (self.calls + self.wide[0] + self.still[0])
        if self.hidden is not None:
            found = found + self.hidden
        self.hidden = found.detach().mean(0)
        return found


def spectral() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)), nn.Tanh())


def normalized() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(inplace=True))


@pytest.mark.parametrize("build", [Averaging, spectral, normalized])
def test_the_second_pass_finds_what_the_first_did_and_leaves_nothing(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Sequential(build(), build(), build()))
    cut = copy.deepcopy(plain)
    recompute_layers(cut)
    for one, other in zip(gradients(plain), gradients(cut), strict=True):
        assert torch.equal(one, other)
    buffers = dict(cut.named_buffers())
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in plain.named_buffers())
    assert [getattr(one, "calls", 0) for one in plain.modules()] == [getattr(one, "calls", 0) for one in cut.modules()]


def test_layers_in_lists_of_lists_are_found() -> None:
    def layer() -> nn.Module:
        return nn.Sequential(nn.Linear(2, 2), nn.ReLU())

    lists = nn.ModuleList([nn.ModuleList([layer(), nn.Bilinear(2, 2, 2)]) for _ in range(2)])
    assert list(repeated_layers(nn.ModuleDict({"layers": lists}))) == ["layers.0.0", "layers.1.0"]


def test_a_layer_that_changes_a_large_buffer_is_refused() -> None:
    layer = Averaging()
    layer.wide = torch.zeros(1_000_001)
    model = nn.Sequential(nn.Sequential(layer, Averaging()))
    recompute_layers(model)
    with pytest.raises(InputError, match=r"'0\.0' changes a buffer of more than 1,000,000 numbers"):
        gradients(model)


def test_a_layer_that_draws_from_its_own_generator_is_not_compiled_too() -> None:
    with pytest.raises(InputError, match=r"'layers\.0' draws from a generator of its own"):
        recompute_layers(Stack("a torch.Generator"), compiled=True)


OF_THE_FILE = np.random.default_rng(0)


class Sees(nn.Linear):
    """A layer whose file has a generator, for something else."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        self.inner = nn.ReLU()

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.inner(super().forward(batch))


def test_a_generator_that_only_the_file_has_forbids_no_compiling() -> None:
    assert recompute_layers(nn.Sequential(nn.Sequential(Sees(), Sees())), compiled=True) == ["0.0", "0.1"]
