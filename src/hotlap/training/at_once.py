"""A batch read by indexing the Dataset once with all its indices, and the check that this gives the same bits.

Many Datasets over tensors and arrays answer `dataset[np.array([3, 8, 1])]`, ten times faster than row by row; whether
one does, and with the very values that its rows have when they are put together, is not assumed but tried, before a
run takes part in it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hotlap.training.encoding import same_values
from hotlap.training.order import Slot

_ENOUGH_SECONDS = 5.0
"""Of a Dataset that takes longer, fewer than all examples are compared."""


@dataclass(frozen=True, slots=True)
class Failed:
    """What went wrong in reading, as a sentence: from a loader process an exception comes with its whole story."""

    sentence: str


class Reads(Protocol):
    """What gives a slot with its batch, or with why there is none, with randomness seeded by the slot's place."""

    def __getitem__(self, slot: Slot) -> tuple[Slot, Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AtOnce:
    """What a check found: how many examples were compared, and why batches can't be read so, None where they can."""

    examples: int
    reason: str | None


def batch_of(dataset: Any, indices: Sequence[int]) -> Any:
    """What the Dataset gives for all indices together, with the containers that torch's `default_collate` makes."""
    import numpy as np
    from torch.utils.data import Subset

    while type(dataset) is Subset:
        dataset, indices = dataset.dataset, [dataset.indices[index] for index in indices]
    return _collated(dataset[np.array(indices)])


def check(one_by_one: Reads, at_once: Reads, slots: Iterable[Slot]) -> AtOnce:
    """Read slots in both ways, which are Readers, and compare what they give bit by bit, for a few seconds at most."""
    compared, began = 0, time.monotonic()
    for slot in slots:
        together = at_once[slot][1]
        if isinstance(together, Failed):
            reason = f"the Dataset does not take an array of indices: {together.sentence}"
            return AtOnce(examples=compared, reason=reason)
        if not _same(together, one_by_one[slot][1]):
            reason = "indexed with an array, the Dataset gives other values than row by row"
            return AtOnce(examples=compared, reason=reason)
        # One example alone shows that it comes as a batch, and nothing of its order among others.
        compared += len(slot.indices) if len(slot.indices) > 1 else 0
        if time.monotonic() - began > _ENOUGH_SECONDS:
            break
    return AtOnce(examples=compared, reason=None if compared else "a batch has one example")


def _collated(value: Any) -> Any:
    import numpy as np
    import torch

    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return [_collated(one) for one in value]
    if isinstance(value, list):
        return [_collated(one) for one in value]
    if isinstance(value, dict):
        return {name: _collated(one) for name, one in value.items()}
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def _same(first: Any, second: Any) -> bool:
    """Alike in structure, types, layout in memory and every bit that is not in a NaN."""
    import torch
    from torch.utils import _pytree as pytree

    leaves, shape = pytree.tree_flatten(first)
    others, other_shape = pytree.tree_flatten(second)
    if shape != other_shape or not leaves:
        return False
    for one, other in zip(leaves, others, strict=True):
        if type(one) is not torch.Tensor or type(other) is not torch.Tensor:
            return False
        if one.layout != torch.strided or other.layout != torch.strided or one.stride() != other.stride():
            return False
        if not same_values(one, other):
            return False
    return True
