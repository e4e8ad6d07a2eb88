"""Fused steps of weights in channels_last: the same bits as torch's own, without its copies."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hotlap.training import kernels
from hotlap.training.fused import without_copies
from hotlap.training.settings import Settings

OPTIMIZERS: dict[str, Any] = {
    "AdamW": torch.optim.AdamW,
    "Adam, amsgrad": lambda given, **form: torch.optim.Adam(given, amsgrad=True, **form),
    "a rate that is a tensor": lambda given, **form: torch.optim.AdamW(given, lr=torch.tensor(0.01), **form),
    "SGD": lambda given, **form: torch.optim.SGD(given, lr=0.1, **form),
    "SGD, momentum": lambda given, **form: torch.optim.SGD(given, lr=0.1, momentum=0.9, nesterov=True, **form),
    "Adagrad": torch.optim.Adagrad,
}
SHAPES = ((8, 3, 3, 3), (16, 8, 1, 1), (5, 7, 2, 3), (16,), (4, 16))


def weights() -> list[torch.nn.Parameter]:
    """Most in channels_last; one gradient and one weight that lie otherwise."""
    draw = torch.Generator().manual_seed(1)
    found = []
    for number, shape in enumerate(SHAPES):
        values = torch.randn(shape, generator=draw)
        images = len(shape) == 4 and number != 2
        one = torch.nn.Parameter(values.contiguous(memory_format=torch.channels_last) if images else values)
        one.grad = torch.randn_like(one) if number else torch.randn(shape, generator=draw)
        found.append(one)
    return found


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_is_the_step_of_torch_to_the_bit(name: str) -> None:
    own, ours = weights(), weights()
    for one, other in zip(own, ours, strict=True):
        assert one.grad is not None
        other.grad = one.grad.clone(memory_format=torch.preserve_format)
    optimizers = [OPTIMIZERS[name](given, fused=True) for given in (own, ours)]
    for _ in range(3):
        optimizers[0].step()
        with without_copies():
            optimizers[1].step()
    for one, other in zip(own, ours, strict=True):
        assert torch.equal(one, other)
        assert one.stride() == other.stride()
        states = [optimizer.state[given] for optimizer, given in zip(optimizers, (one, other), strict=True)]
        for key, value in states[0].items():
            assert not torch.is_tensor(value) or torch.equal(value, states[1][key])


@pytest.mark.parametrize(("layout", "viewed"), [("channels_last", True), ("contiguous", False)])
def test_a_step_uses_it_where_weights_lie_so(layout: Any, viewed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("hotlap.training.fused._contiguous", lambda given: asked.append(1) or list(given))
    one = torch.nn.Parameter(torch.ones(4, 3, 3, 3).contiguous(memory_format=torch.channels_last))
    one.grad = torch.ones_like(one)
    optimizer = torch.optim.AdamW([one], fused=True)
    with kernels.chosen(Settings(fused=True, layout=layout)):
        optimizer.step()
    assert bool(asked) == viewed
    optimizer.step()
    assert len(asked) == viewed
