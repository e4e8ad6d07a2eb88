"""The rows of a pass put into several passes by their length, so that each is only as wide as its own longest row.

A batch of texts is as wide as its longest one, and most are shorter. The step stays the same: gradients of passes add
up to those of the whole batch, whatever row is in which of them.

The text of `groups` is part of the snippets (report), so that it stands on its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from hotlap.training.reading import MicroBatch, picked
from hotlap.training.trimming import lengths
from hotlap.workload.workload import Workload

_FEWEST = 2
"""Rows of a pass, as `groups` says."""


def by_length(one: MicroBatch, most: int, workload: Workload) -> list[MicroBatch]:
    """The pass in `most` passes at the most, the shortest rows first; itself alone where that saves nothing, or its
    rows can't be told apart."""
    found = lengths(one) if one.rows >= 2 * _FEWEST and one.weight else None
    if found is None:
        return [one]
    longest, order = found.sort(stable=True)
    cuts = groups(longest.tolist(), most)
    parts = [picked(one, order[start:stop], start, workload) for start, stop in cuts] if len(cuts) > 1 else [one]
    # A loss_weight of which the parts' do not add up to the whole's would make another step of them.
    return parts if math.isclose(sum(part.weight for part in parts), one.weight, rel_tol=1e-6) else [one]


def groups(longest: Sequence[int], most: int, a_pass: float = 0.02) -> list[tuple[int, int]]:
    """Where rows of these lengths, in rising order, are cut into `most` groups at the most: (start, stop) of each.

    Each has two rows at least: a row alone is a case of its own for many a model (`squeeze`). The sum of rows times
    longest row is the least that so many groups can have; one more group has to save more than `a_pass` of what all in
    one are.
    """
    import numpy as np

    ends = np.asarray(longest, dtype=np.float64)
    count = len(ends)
    # least[stop]: of the first `stop` rows in so many groups.
    least = np.concatenate([[0.0], np.arange(1, count + 1) * ends])
    cuts = []
    best, fewest, cost = least[count], 1, a_pass * least[count]
    for number in range(2, min(most, count // 2) + 1):
        cut = np.zeros(count + 1, dtype=np.int64)
        following = np.full(count + 1, np.inf)
        for stop in range(2 * number, count + 1):
            starts = np.arange(2 * number - 2, stop - 1)
            sums = least[starts] + (stop - starts) * ends[stop - 1]
            cut[stop] = starts[sums.argmin()]
            following[stop] = sums.min()
        least = following
        cuts.append(cut)
        if least[count] + (number - 1) * cost < best:
            best, fewest = least[count] + (number - 1) * cost, number
    found, stop = [], count
    for cut in reversed(cuts[: fewest - 1]):
        found.append((int(cut[stop]), stop))
        stop = int(cut[stop])
    return [(0, stop), *reversed(found)]
