"""Scales of a plot: values to positions, and round numbers for the ticks. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

_LOG_STEPS: tuple[tuple[float, ...], ...] = (
    (1.0,),
    (1.0, 3.0),
    (1.0, 2.0, 5.0),
    (1.0, 1.5, 2.0, 3.0, 5.0, 7.0),
    (1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Maps values from `low` to `high` onto positions from `start` to `end`, in px; logarithmic where `log`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The position of `value`, which may lie outside; rounded to a tenth of a px."""
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def within(self, value: float) -> float:
        """The position of `value`, or of the end beyond which it lies."""
        return self(min(max(value, self.low), self.high))

    def ticks(self, most: int) -> list[float]:
        """Round values within the scale, at most `most`, rising."""
        return log_ticks(self.low, self.high, most) if self.log else linear_ticks(self.low, self.high, most)


def linear_ticks(low: float, high: float, most: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten from `low` to `high`, at most `most`."""
    rough = (high - low) / max(1, most - 1)
    magnitude = 10.0 ** math.floor(math.log10(rough))
    for step in (magnitude, 2 * magnitude, 5 * magnitude, 10 * magnitude, 20 * magnitude):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 <= most:
            return [float(f"{index * step:.12g}") for index in range(first, last + 1)]
    return []


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Round values from `low` to `high`, as many as there is room for but no more than `most`."""
    best: list[float] = []
    for steps in _LOG_STEPS:
        found = _between(steps, low, high)
        if len(found) > most:
            break
        best = found
    if best:
        return best
    decades = _between((1.0,), low, high)
    return decades[:: math.ceil(len(decades) / most)] if decades else []


def _between(steps: tuple[float, ...], low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.floor(math.log10(high))
    values = [float(f"{step * 10.0**power:.6g}") for power in range(first, last + 1) for step in steps]
    return [value for value in values if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
