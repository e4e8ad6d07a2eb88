"""The largest batch that an epoch of a workload can hold, at any batch size."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from hotlap.errors import WorkloadError
from hotlap.workload.roles import is_map_style, pair
from hotlap.workload.user_code import running
from hotlap.workload.workload import Workload

MOST_LOOKED_AT = 20_000
MOST_SECONDS = 20.0
"""Where these end the look through the data, `Largest.whole` is false and a longer example may be left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a look through a Dataset found: the index of its largest example, and that one's bytes."""

    index: int
    bytes: int
    looked_at: int
    whole: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Largest:
    """The largest example (or batch) of the training data.

    `make(batch)` gives (inputs, targets) with `batch` rows, all as large as the largest; a fresh one each time.
    `rows` is the size of the user's own batches where the data is an iterable of them, else None. `looked_at` counts
    examples (or batches); `whole` says whether that were all. `place` is where in a Dataset the example was found.
    """

    make: Callable[[int], tuple[Any, Any]]
    rows: int | None
    looked_at: int
    whole: bool
    place: Place | None = None


def largest(workload: Workload, known: Place | None = None) -> Largest:
    """Look through a workload's `training`, as far as the limits above allow.

    A Dataset's largest example is repeated, which is what the batch that holds the longest texts is padded to. Where an
    earlier look found it at `known`, and one of that size is still there, it alone is read. Raises WorkloadError where
    there is no data or it is no (inputs, targets) pairs.
    """
    if workload.training is None:
        raise WorkloadError("the workload has no `training`; give the data that it trains on")
    with running("training"):
        data = workload.training()
    if not is_map_style(data):
        return _of_batches(data)
    from torch.utils.data import default_collate

    with running("training"):
        size = len(data)
        item = data[known.index] if known and known.index < size else None
    place = known
    if known is None or tensor_bytes(item) != known.bytes:
        step = max(1, -(-size // MOST_LOOKED_AT))
        item, number, looked_at, ended = _largest_of(data[index] for index in range(0, size, step))
        place = Place(index=number * step, bytes=tensor_bytes(item), looked_at=looked_at, whole=ended and step == 1)
    assert place is not None
    return Largest(
        make=lambda batch: pair(default_collate([item] * batch)),
        rows=None,
        looked_at=place.looked_at,
        whole=place.whole,
        place=place,
    )


def _of_batches(data: Iterable[Any]) -> Largest:
    item, _, looked_at, ended = _largest_of(iter(data))
    rows = _rows(item)

    def make(batch: int) -> tuple[Any, Any]:
        import torch
        from torch.utils import _pytree as pytree

        chosen = torch.arange(batch) % rows

        def cut(value: Any) -> Any:
            by_row = isinstance(value, torch.Tensor) and value.dim() > 0 and len(value) == rows
            return value[chosen] if by_row else value

        return pair(pytree.tree_map(cut, item))

    return Largest(make=make, rows=rows, looked_at=looked_at, whole=ended)


def _largest_of(items: Iterable[Any]) -> tuple[Any, int, int, bool]:
    """The item with the most bytes and its number, how many were looked at, and whether that were all."""
    end = time.monotonic() + MOST_SECONDS
    best, number, most, count = None, 0, -1, 0
    iterator = iter(items)
    with running("training"):
        for item in islice(iterator, MOST_LOOKED_AT):
            count += 1
            size = tensor_bytes(item)
            if size > most:
                best, number, most = pair(item), count - 1, size
            if time.monotonic() > end:
                return best, number, count, False
        ended = count < MOST_LOOKED_AT or next(iterator, iterator) is iterator
    if not count:
        raise WorkloadError("the workload's `training` is empty; it must give at least one example")
    return best, number, count, ended


def tensor_bytes(value: Any) -> int:
    """Bytes of all tensors in a nested value."""
    import torch
    from torch.utils import _pytree as pytree

    return sum(leaf.nbytes for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor))


def _rows(item: Any) -> int:
    import torch
    from torch.utils import _pytree as pytree

    leaves = (leaf for leaf in pytree.tree_leaves(item) if isinstance(leaf, torch.Tensor) and leaf.dim())
    first = next(leaves, None)
    if first is None:
        raise WorkloadError("the workload's `training` gives batches without a Tensor that has rows")
    return len(first)
