"""The noise floor: the very same model timed against itself."""

from __future__ import annotations

from hotlap.core import Start
from hotlap.measure import pairs, statistics
from hotlap.measure.worker import Worker
from hotlap.search.setting import Setting


def against_itself(setting: Setting, baseline: Worker, *, starts: int) -> list[Start]:
    """Time the original against itself over so many starts of a second process."""
    found = []
    for _ in range(starts):
        with setting.baseline() as other:
            found.append(pairs.measure(baseline, other, pairs.SCREENING)[0])
    return found


def floor(found: list[Start]) -> float:
    """The relative difference that the same thing shows against itself."""
    return statistics.noise_floor(found)
