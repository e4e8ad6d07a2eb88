"""Seeds every global random generator, so that what is drawn next depends on the place alone."""

from __future__ import annotations

import random

from hotlap.training.order import derived_seed


def seed_generators(seed: int, *place: int | str) -> None:
    """Seed Python's, NumPy's and torch's global generators (CUDA's too, once it is in use) for one place."""
    import numpy as np
    import torch

    value = derived_seed(seed, *place)
    random.seed(value)
    np.random.seed(value & 0xFFFFFFFF)
    torch.default_generator.manual_seed(value >> 1)
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(value >> 1)
