"""Memory that tensors free stays with the process, so that a step need not ask the system for it again.

The C library gives large blocks back as soon as they are freed, and the heap's end once 128 KiB to 64 MiB of it are. In
a training step that is most of the activations, and the next step gets the pages again, each one by a fault and filled
with zeros: 11,000 to 57,000 faults a step in the benchmark's models (docs/log.md). What is computed stays the same.

Source: mallopt(3), glibc.
"""

from __future__ import annotations

import ctypes
import os

from hotlap.errors import InputError

KEEPING = {"M_TRIM_THRESHOLD": (-1, -1), "M_MMAP_MAX": (-4, 0)}
"""What mallopt is called with, by the option's name in malloc.h: the heap's end is never given back, no block is a
mapping of its own. Threads keep heaps of their own: in one that they shared they would wait for each other, and a ViT's
step in bf16 took twice as long (docs/log.md)."""


def why_not() -> str | None:
    """Why this process can't be made to keep its memory; None where it can."""
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        return "the C library here has no mallopt"
    if any(name in os.environ.get("LD_PRELOAD", "") for name in ("jemalloc", "tcmalloc", "mimalloc")):
        return "LD_PRELOAD names another allocator, which keeps memory in its own way"
    return None


def keep_memory() -> None:
    """From now on, and for as long as this process lives, freed memory stays with it.

    Raises InputError where that can't be had.
    """
    reason = why_not()
    if reason is not None:
        raise InputError(f"settings: keep_memory=true: {reason}; leave it out")
    library = ctypes.CDLL(None)
    for option, value in KEEPING.values():
        library.mallopt(option, value)
