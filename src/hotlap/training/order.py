"""The order of the data, as a pure function of the seed: what a killed run, or one of other size, takes up again.

An epoch's order is a seeded permutation; a window is one optimizer's step of it; a slot is one forward pass of a
window, by one process. Random choices made while a slot is read or computed are seeded by its place, so no
generator's state has to be kept, and neither loader workers nor the number of processes change what it holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from hotlap.core import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One forward pass: the examples `indices` of the training data, at `start` of `window` in `epoch`.

    `count` slots of this process make up the window, `total` examples that of all processes. `padding` is true for
    examples that only keep a process busy which has none of a short window; they weigh nothing.
    """

    epoch: int
    window: int
    start: int
    indices: tuple[int, ...]
    count: int
    total: int
    padding: bool = False


def derived_seed(seed: int, *place: int | str) -> int:
    """A seed of 64 bits that depends on `seed` and on the whole `place`."""
    digest = hashlib.blake2b(repr((seed, *place)).encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "big")


def windows_in(examples: int, batch_size: int) -> int:
    """Optimizer's steps in an epoch; the last may be short."""
    return -(-examples // batch_size)


def epoch_order(examples: int, *, seed: int, epoch: int) -> Array:
    """A permutation of range(examples), int64, other for each epoch."""
    import numpy as np

    return np.random.Generator(np.random.PCG64(derived_seed(seed, "order", epoch))).permutation(examples)


def slots(
    examples: int,
    *,
    batch_size: int,
    micro_batch: int,
    seed: int,
    epochs: int,
    epoch: int = 0,
    window: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Slot]:
    """The slots of process `rank` of `world`, from `window` of `epoch` to the end of the last epoch.

    Each window is dealt out in `world` contiguous shares of like size, each cut into passes of `micro_batch`.
    """
    for number in range(epoch, epochs):
        order = epoch_order(examples, seed=seed, epoch=number)
        first = window if number == epoch else 0
        for place in range(first, windows_in(examples, batch_size)):
            whole = order[place * batch_size : (place + 1) * batch_size]
            yield from _of_window(whole, number, place, micro_batch, rank, world)


def _of_window(whole: Array, epoch: int, window: int, micro_batch: int, rank: int, world: int) -> Iterator[Slot]:
    total = len(whole)
    begin, end = (total * part // world for part in (rank, rank + 1))
    padding = begin == end
    if padding:
        begin, end = 0, 1
    starts = range(begin, end, micro_batch)
    for start in starts:
        indices = tuple(whole[start : min(start + micro_batch, end)].tolist())
        yield Slot(
            epoch=epoch, window=window, start=start, indices=indices, count=len(starts), total=total, padding=padding
        )
