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
class Largest:
    """The largest example (or batch) of the training data.

    `make(batch)` gives (inputs, targets) with `batch` rows, all as large as the largest; a fresh one each time.
    `rows` is the size of the user's own batches where the data is an iterable of them, else None. `looked_at` counts
    examples (or batches); `whole` says whether that were all.
    """

    make: Callable[[int], tuple[Any, Any]]
    rows: int | None
    looked_at: int
    whole: bool


def largest(workload: Workload) -> Largest:
    """Look through a workload's `training`, as far as the limits above allow.

    A Dataset's largest example is repeated, which is what the batch that holds the longest texts is padded to. Raises
    WorkloadError where there is no data or it is no (inputs, targets) pairs.
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
    step = max(1, -(-size // MOST_LOOKED_AT))
    item, looked_at, ended = _largest_of(data[index] for index in range(0, size, step))
    return Largest(
        make=lambda batch: pair(default_collate([item] * batch)),
        rows=None,
        looked_at=looked_at,
        whole=ended and step == 1,
    )


def _of_batches(data: Iterable[Any]) -> Largest:
    item, looked_at, ended = _largest_of(iter(data))
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


def _largest_of(items: Iterable[Any]) -> tuple[Any, int, bool]:
    """The item with the most bytes, how many were looked at, and whether that were all."""
    end = time.monotonic() + MOST_SECONDS
    best, most, count = None, -1, 0
    iterator = iter(items)
    with running("training"):
        for item in islice(iterator, MOST_LOOKED_AT):
            count += 1
            size = tensor_bytes(item)
            if size > most:
                best, most = pair(item), size
            if time.monotonic() > end:
                return best, count, False
        ended = count < MOST_LOOKED_AT or next(iterator, iterator) is iterator
    if not count:
        raise WorkloadError("the workload's `training` is empty; it must give at least one example")
    return best, count, ended


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
