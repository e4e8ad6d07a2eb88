"""The noise floor: the very same model timed against itself."""

from __future__ import annotations

from collections.abc import Sequence

from hotlap.core import Start
from hotlap.measure import pairs, statistics
from hotlap.measure.worker import Worker


def against_itself(workers: Sequence[Worker]) -> list[Start]:
    """Time the first of several processes that hold the same against each of the others."""
    for worker in workers:
        worker.pause()
    return [pairs.measure(workers[0], other, pairs.SCREENING)[0] for other in workers[1:]]


def floor(found: list[Start]) -> float:
    """The relative difference that the same thing shows against itself."""
    return statistics.noise_floor(found)
