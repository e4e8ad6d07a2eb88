"""Kernels that stand in for torch's: on one thread, for as long as a block runs, whoever else does so too."""

from __future__ import annotations

import threading
import warnings
from typing import Any

import torch

from hotlap.training.masks import LEAST, draw, fast_masks


def drawn(size: int) -> torch.Tensor:
    return torch.empty(size).bernoulli_(0.3, generator=torch.Generator().manual_seed(2))


def fast(size: int) -> torch.Tensor:
    return draw(torch.empty(size), 0.3, torch.Generator().manual_seed(2))


def test_other_threads_have_torchs_own() -> None:
    wanted, found = drawn(LEAST), []
    with fast_masks():
        other = threading.Thread(target=lambda: found.append(drawn(LEAST)))
        other.start()
        other.join()
        assert torch.equal(drawn(LEAST), fast(LEAST))
    assert torch.equal(found[0], wanted)


def test_one_that_ends_earlier_takes_nothing_from_another() -> None:
    small, entered, left, found = drawn(8), threading.Event(), threading.Event(), list[Any]()

    def stays() -> None:
        with fast_masks():
            entered.set()
            left.wait(60)
            found.extend([drawn(LEAST), drawn(8)])

    other = threading.Thread(target=stays)
    with fast_masks():
        other.start()
        entered.wait(60)
    left.set()
    other.join()
    assert torch.equal(found[0], fast(LEAST))
    assert torch.equal(found[1], small)
    assert not torch.equal(drawn(LEAST), fast(LEAST))


def test_a_block_in_a_block() -> None:
    with fast_masks():
        with fast_masks():
            pass
        assert torch.equal(drawn(LEAST), fast(LEAST))
    assert not torch.equal(drawn(LEAST), fast(LEAST))


def test_what_is_warned_of_once_stays_so_over_many_steps() -> None:
    with fast_masks():
        pass
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for _ in range(3):
            with fast_masks():
                warnings.warn("of the user's own", stacklevel=1)
    assert [str(one.message) for one in told] == ["of the user's own"]
