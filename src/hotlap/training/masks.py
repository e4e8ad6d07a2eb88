"""Dropout's random masks on the CPU, drawn several times as fast as torch draws them.

torch draws a mask's numbers one after the other from its Mersenne Twister, two of them for each: 4.5 ms for a million,
a quarter of a MiniLM's step on a CPU for which MKL draws none. Here each number takes 16 bits of SFC64, seeded from
torch's generator, so that what is drawn still depends on that one's seed alone. Who falls on the border of 16 bits is
drawn once more, so that each number is 1 with exactly the probability asked for.

The text of `draw` is part of the snippets (report), so that it stands on its own.

Source: numpy.random.SFC64 (Doty-Humphrey, PractRand).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from hotlap.training.replacing import Replaced

if TYPE_CHECKING:
    import torch

LEAST = 16_384
"""Numbers; torch draws fewer sooner."""


def fast_masks() -> AbstractContextManager[None]:
    """Within the block `Tensor.bernoulli_(p)` on the CPU, which dropout calls, draws large masks in the fast way."""
    return _REPLACED.here()


def draw(tensor: torch.Tensor, p: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """Fill a CPU tensor with ones, each with probability `p` within (0, 1), and zeros; gives the tensor."""
    import numpy as np
    import torch

    key = int(torch.empty((), dtype=torch.int64).random_(generator=generator))
    bits, count = np.random.SFC64(key), tensor.numel()
    lanes = bits.random_raw(-(-count // 4)).view(np.int16)[:count]
    below, rest = divmod(p * 2**16, 1)
    border = int(below) - 2**15
    whole = tensor if tensor.is_contiguous() else torch.empty(tensor.shape, dtype=tensor.dtype)
    flat = whole.view(-1)
    torch.lt(torch.from_numpy(lanes), border, out=flat)
    if rest:
        places = np.flatnonzero(lanes == border)
        ones = np.random.Generator(bits).random(len(places)) < rest
        flat[torch.from_numpy(places)] = torch.from_numpy(ones).to(flat.dtype)
    return tensor if whole is tensor else tensor.copy_(whole)


def _drawn(
    torchs: Any, tensor: torch.Tensor, p: float = 0.5, *, generator: torch.Generator | None = None
) -> torch.Tensor:
    if tensor.numel() < LEAST or not 0 < p < 1 or tensor.is_complex():
        found: torch.Tensor = torchs(tensor, p, generator=generator)
        return found
    return draw(tensor, p, generator)


_REPLACED = Replaced({"bernoulli_.float": _drawn})
