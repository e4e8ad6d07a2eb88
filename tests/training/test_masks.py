"""Masks drawn fast: each number is 1 as often as it should be, and what is drawn depends on torch's seed alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from hotlap.training.masks import LEAST, draw, fast_masks

MANY = 4_000_000
SIGMAS = 5.0
"""So far from what is expected a right draw lies once in two million."""


def share(p: float, count: int = MANY) -> float:
    torch.manual_seed(3)
    return float(draw(torch.empty(count), p).mean(dtype=torch.float64))


@pytest.mark.parametrize("p", [0.5, 0.9, 0.1, 0.3, 1 - 1e-3, 1e-6, 0.25 + 2**-17])
def test_each_is_one_with_the_probability_asked_for(p: float) -> None:
    assert abs(share(p) - p) <= SIGMAS * math.sqrt(p * (1 - p) / MANY)


def test_what_falls_on_the_border_is_drawn_once_more() -> None:
    # 0.4 of 65,536ths: nothing lies below, and what falls on 0 counts 4 times in 10.
    p, count = 0.4 * 2**-16, 64_000_000
    expected = p * count
    assert abs(share(p, count) * count - expected) <= SIGMAS * math.sqrt(expected)


def test_neighbours_do_not_hang_together() -> None:
    torch.manual_seed(4)
    drawn = draw(torch.empty(MANY), 0.9).double() - 0.9
    for step in (1, 2, 3, 4, 8, 384):
        together = float((drawn[step:] * drawn[:-step]).mean()) / 0.09
        assert abs(together) <= SIGMAS / math.sqrt(MANY)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.bool, torch.int64])
def test_it_is_ones_and_zeros_of_any_type(dtype: torch.dtype) -> None:
    torch.manual_seed(5)
    given = torch.full((LEAST + 3,), 1, dtype=dtype)
    with fast_masks():
        assert given.bernoulli_(0.3) is given
    assert set(given.unique().tolist()) == {0, 1}
    assert 0.25 < float(given.double().mean()) < 0.35


@pytest.mark.parametrize("laid", ["channels_last", "transposed", "cut out"])
def test_it_fills_any_layout(laid: str) -> None:
    whole = torch.full((64, 8, 16, 16), 7.0)
    images = whole.contiguous(memory_format=torch.channels_last)
    given = {"channels_last": images, "transposed": whole.transpose(0, 3), "cut out": whole[::2, :, 1:]}[laid]
    kept = whole[1::2].clone()
    draw(given, 0.5)
    assert set(given.unique().tolist()) == {0.0, 1.0}
    assert laid != "cut out" or torch.equal(whole[1::2], kept)


def test_small_ones_are_torchs_own() -> None:
    torch.manual_seed(6)
    wanted = torch.empty(LEAST - 1).bernoulli_(0.3)
    torch.manual_seed(6)
    with fast_masks():
        assert torch.equal(torch.empty(LEAST - 1).bernoulli_(0.3), wanted)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_what_is_sure_stays_sure(p: float) -> None:
    with fast_masks():
        assert float(torch.empty(LEAST).bernoulli_(p).mean()) == p


def test_what_is_wrong_is_refused_as_by_torch() -> None:
    with fast_masks(), pytest.raises(RuntimeError, match=r"expects p to be in \[0, 1\]"):
        torch.empty(LEAST).bernoulli_(1.5)


def drawn(size: int = LEAST, **given: Any) -> torch.Tensor:
    return torch.empty(size).bernoulli_(0.3, **given)


def test_the_seed_decides_and_each_call_draws_anew() -> None:
    with fast_masks():
        torch.manual_seed(7)
        first, second = drawn(), drawn()
        torch.manual_seed(7)
        assert torch.equal(drawn(), first)
        assert torch.equal(drawn(), second)
        own = torch.Generator().manual_seed(7)
        stood = torch.get_rng_state()
        assert torch.equal(drawn(generator=own), first)
        assert torch.equal(torch.get_rng_state(), stood)
    assert not torch.equal(first, second)


def test_after_the_block_torch_draws_as_before() -> None:
    torch.manual_seed(8)
    wanted = drawn()
    with fast_masks():
        pass
    with pytest.raises(ValueError, match="on the way"), fast_masks():
        raise ValueError("on the way")
    torch.manual_seed(8)
    assert torch.equal(drawn(), wanted)


@pytest.mark.parametrize("name", ["dropout", "attention", "lstm"])
def test_dropout_wherever_it_is_computed_draws_so(name: str) -> None:
    rows = torch.ones(64, 4, 64, 16)
    runs: dict[str, Any] = {
        "dropout": lambda: functional.dropout(rows, 0.1),
        "attention": lambda: functional.scaled_dot_product_attention(rows, rows, rows, dropout_p=0.1),
        "lstm": lambda: torch.manual_seed(1) and torch.nn.LSTM(64, 64, 2, dropout=0.5)(torch.ones(64, 64, 64))[0],
    }
    found = []
    for fast in (False, True, True):
        torch.manual_seed(9)
        if fast:
            with fast_masks():
                found.append(runs[name]())
        else:
            found.append(runs[name]())
    assert not torch.equal(found[0], found[1])
    assert torch.equal(found[1], found[2])


def test_recomputed_layers_have_the_same_masks() -> None:
    weights = torch.randn(64, 64, requires_grad=True)
    rows = torch.randn(512, 64)

    def layer(given: torch.Tensor) -> torch.Tensor:
        return functional.dropout(given @ weights, 0.5)

    gradients = []
    for again in (False, True):
        torch.manual_seed(10)
        weights.grad = None
        with fast_masks():
            outputs = checkpoint(layer, rows, use_reentrant=False) if again else layer(rows)
            outputs.square().sum().backward()
        assert weights.grad is not None
        gradients.append(weights.grad)
    assert torch.equal(*gradients)
