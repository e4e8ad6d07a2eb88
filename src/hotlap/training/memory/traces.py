"""Traces of what was allocated and freed, and what they would be at another batch size. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from hotlap.core import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Allocations in their order. The i-th has `sizes[i]` bytes and was asked for by the operation `names[i]`.

    `events` says what happened: i + 1 for the i-th allocation, -(i + 1) when it is freed.
    """

    sizes: tuple[int, ...]
    names: tuple[str, ...]
    events: tuple[int, ...]


def trace_of(records: Sequence[tuple[int, int, str]]) -> Trace:
    """A Trace of (address, bytes, operation) in order of time; bytes are negative where memory is freed.

    What is freed without having been allocated in the trace is left out.
    """
    sizes: list[int] = []
    names: list[str] = []
    events: list[int] = []
    live: dict[int, int] = {}
    for address, size, name in records:
        if size > 0:
            sizes.append(size)
            names.append(name)
            live[address] = len(sizes)
            events.append(len(sizes))
        elif address in live:
            events.append(-live.pop(address))
    return Trace(sizes=tuple(sizes), names=tuple(names), events=tuple(events))


def scaled(small: Trace, small_batch: int, large: Trace, large_batch: int, batch: int) -> tuple[list[int], int]:
    """Sizes of `large`'s allocations at `batch`, and how many of them `small` has no partner for.

    Each allocation's size is a line through its two sizes: what does not depend on the batch has the same at both. One
    that grew by the square, as where a loss sets every row against every other, goes on so.
    Partners are found by the order of operations. One without a partner (another algorithm was taken) is taken for
    proportional to the batch.
    """
    partners = _partners(small.names, large.names)
    sizes, alone = [], 0
    for index, size in enumerate(large.sizes):
        partner = partners.get(index)
        if partner is None:
            alone += 1
            sizes.append(round(size * batch / large_batch))
            continue
        if size * small_batch**2 == small.sizes[partner] * large_batch**2:
            sizes.append(round(size * (batch / large_batch) ** 2))
            continue
        slope = (size - small.sizes[partner]) / (large_batch - small_batch)
        sizes.append(max(1, round(size + slope * (batch - large_batch))))
    return sizes, alone


def live_peak(events: Sequence[int], sizes: Sequence[int], granule: int = 1) -> int:
    """The most bytes that are allocated at once, each size rounded up to a multiple of `granule`."""
    held = peak = 0
    for event in events:
        size = -(-sizes[abs(event) - 1] // granule) * granule
        held += size if event > 0 else -size
        peak = max(peak, held)
    return peak


def _partners(small: Sequence[str], large: Sequence[str]) -> dict[int, int]:
    """For each of `large`'s places its partner in `small`."""
    if small == large:
        return {index: index for index in range(len(large))}
    blocks = difflib.SequenceMatcher(None, small, large, autojunk=False).get_matching_blocks()
    return {block.b + offset: block.a + offset for block in blocks for offset in range(block.size)}


def to_arrays(trace: Trace) -> dict[str, object]:
    """A trace as a worker sends it: arrays, and each name once."""
    import numpy as np

    known = {name: index for index, name in enumerate(dict.fromkeys(trace.names))}
    return {
        "sizes": np.asarray(trace.sizes, np.int64),
        "events": np.asarray(trace.events, np.int64),
        "names": list(known),
        "name": np.asarray([known[name] for name in trace.names], np.int64),
    }


def from_arrays(sizes: Array, events: Array, names: Sequence[str], name: Array) -> Trace:
    """The trace that `to_arrays` took apart."""
    return Trace(
        sizes=tuple(sizes.tolist()), names=tuple(names[index] for index in name.tolist()), events=tuple(events.tolist())
    )
