from __future__ import annotations

import pytest
import torch
from torch import nn

from hotlap.profiling.modules import module_names, unchanged, watched


class Failing(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise ValueError("no")


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.drop(x) + torch.rand(())


def test_each_forward_is_seen_nested_and_in_order() -> None:
    shared = nn.ReLU()
    model = nn.Sequential(shared, nn.Sequential(nn.Identity(), shared))
    names = [module.name for module in module_names(model)]
    assert names == ["(model)", "0", "1", "1.0"], "a module that is used twice is one module"
    seen: list[str] = []
    with watched(model, lambda index: seen.append(names[index]), lambda: seen.append("/")):
        model(torch.zeros(1))
    assert seen == ["(model)", "0", "/", "1", "1.0", "/", "0", "/", "/", "/"]


def test_nothing_is_left_behind_also_where_a_forward_fails() -> None:
    model = nn.Sequential(nn.ReLU(), Failing())
    patched = model[0].forward = lambda x: -x  # type: ignore[method-assign, assignment]
    depth = 0

    def enter(index: int) -> None:
        nonlocal depth
        depth += 1

    def leave() -> None:
        nonlocal depth
        depth -= 1

    with pytest.raises(ValueError, match="no"), watched(model, enter, leave):
        model(torch.zeros(1))
    assert depth == 0
    assert "forward" not in vars(model)
    assert "forward" not in vars(model[1])
    assert vars(model[0])["forward"] is patched, "what the user put there stays"
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_transformer_layers_fast_path_is_kept() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    seen: list[int] = []
    with torch.inference_mode(), watched(model, seen.append, lambda: None):
        model(torch.zeros(1, 3, 8))
    assert seen == [0], "on the fast path the layer computes without its parts"


def test_buffers_and_random_numbers_are_put_back() -> None:
    model = Counting().train()
    expected = torch.random.get_rng_state()
    with torch.inference_mode(), unchanged(model):
        model(torch.zeros(3))
        assert model.calls == 1
    assert model.calls == 0
    assert torch.equal(torch.random.get_rng_state(), expected)
