"""The rows of a pass put into several passes by their length, so that each is only as wide as its own longest row.

A batch of texts is as wide as its longest one, and most are shorter. The step stays the same: gradients of passes add
up to those of the whole batch, whatever row is in which of them.

The text of `groups` is part of the snippets (report), so that it stands on its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from hotlap.training.reading import MicroBatch, picked
from hotlap.training.trimming import lengths
from hotlap.workload.workload import Workload


def by_length(one: MicroBatch, most: int, workload: Workload) -> list[MicroBatch]:
    """The pass in `most` passes at the most, the shortest rows first; itself alone where that saves nothing, or its
    rows can't be told apart."""
    found = lengths(one) if one.rows > 1 and one.weight else None
    if found is None:
        return [one]
    longest, order = found.sort(stable=True)
    parts = groups(longest.tolist(), most)
    return [picked(one, order[start:stop], start, workload) for start, stop in parts] if len(parts) > 1 else [one]


def groups(longest: Sequence[int], most: int, a_pass: float = 0.02) -> list[tuple[int, int]]:
    """Where rows of these lengths, in rising order, are cut into `most` groups at the most: (start, stop) of each.

    The sum of rows times longest row is the least that so many groups can have; one more group has to save more than
    `a_pass` of what all in one are.
    """
    import numpy as np

    ends = np.asarray(longest, dtype=np.float64)
    count = len(ends)
    starts = np.arange(count)
    # least[stop]: of the first `stop` rows in so many groups.
    least = np.concatenate([[0.0], np.arange(1, count + 1) * ends])
    cuts = []
    best, fewest, cost = least[count], 1, a_pass * least[count]
    for number in range(2, min(most, count) + 1):
        cut = np.zeros(count + 1, dtype=np.int64)
        following = np.full(count + 1, np.inf)
        for stop in range(number, count + 1):
            sums = least[number - 1 : stop] + (stop - starts[number - 1 : stop]) * ends[stop - 1]
            cut[stop] = number - 1 + int(sums.argmin())
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
