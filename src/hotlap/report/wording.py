"""How a figure is written: units, and no more digits than its noise permits.

Bounds are rounded away from the claim: a lower end down, an upper end up, so that no text promises more than was
measured. A figure that is missing, or is no finite number, gives an empty text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from hotlap.core import Json
from hotlap.runtimes import RUNTIMES

_WORD = re.compile(r"[a-z][a-z'’]*[,;:]?")
_NAMES = {*RUNTIMES, "hotlap", "nncf", "onnx", "torch"}  # written small even where a sentence begins
_PREFIXES = ("", "k", "M", "G", "T", "P")


def at(value: Json, *path: str) -> Json:
    """The value under nested keys, or None where one of them is missing."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def number(value: Json) -> float | None:
    """`value` as a float, or None where it is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def significant(value: Json, digits: int = 3) -> str:
    """`value` with that many significant digits, never in exponents between 1e-5 and 1e9: 0.0456, 1.31, 1,234."""
    figure = number(value)
    if figure is None:
        return ""
    if figure == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(figure)))
    if not -5 <= magnitude <= 9:
        return f"{figure:.{digits - 1}e}"
    # Rounding may carry into the next magnitude (9.996 to 10.0), which then takes one decimal less.
    magnitude = math.floor(math.log10(abs(float(f"{figure:.{digits - 1}e}"))))
    return f"{figure:,.{max(0, digits - 1 - magnitude)}f}"


def milliseconds(value: Json) -> str:
    return _with_unit(significant(value), "ms")


def byte_size(value: Json) -> str:
    """Bytes in kB, MB, GB of 1000 each."""
    return _prefixed(value, "B")


def count(value: Json) -> str:
    """A whole number with its thousands apart."""
    figure = number(value)
    return "" if figure is None else f"{figure:,.0f}"


def rate(value: Json, unit: str) -> str:
    """Units a second: `812 G multiply-adds/s`."""
    return _prefixed(value, f"{unit}/s")


def multiply_adds(value: Json) -> str:
    """Multiply-adds, where the heading names them: `150 M`."""
    return _prefixed(value, "")


def percent(share: Json) -> str:
    """A share of one as a percentage: one decimal below 10%, none above."""
    figure = number(share)
    if figure is None:
        return ""
    return f"{100 * figure:.1f}%" if 0 < abs(figure) < 0.0995 else f"{100 * figure:.0f}%"


def duration(seconds: Json) -> str:
    figure = number(seconds)
    if figure is None:
        return ""
    if figure < 59.5:
        return f"{significant(figure, 2)} s"
    minutes, rest = divmod(round(figure), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if rest else f"{minutes} min"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A speed-up in words: `low` and `high` are empty where there is no interval."""

    estimate: str
    low: str
    high: str

    @property
    def interval(self) -> str:
        return f"{self.low}–{self.high}" if self.low else ""


def ratio(speedup: Json) -> Ratio | None:
    """A `{estimate, low, high}` in words, or None where there is no estimate.

    The interval's half width decides the digits: 7.41 within 7.22 to 7.60 is "7.4 (7.2 to 7.7)".
    """
    estimate, low, high = (number(at(speedup, name)) for name in ("estimate", "low", "high"))
    if estimate is None:
        return None
    if low is None or high is None:
        return Ratio(estimate=significant(estimate), low="", high="")
    half = max((high - low) / 2, 1e-9)
    places = min(3, max(0, math.ceil(-math.log10(half))))
    if estimate < 10:
        places = max(1, places)
    return Ratio(
        estimate=f"{estimate:,.{places}f}",
        low=f"{_toward(low, places, math.floor):,.{places}f}",
        high=f"{_toward(high, places, math.ceil):,.{places}f}",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A drop in words; either may be empty. `flips` says how many examples changed, both ways."""

    estimate: str
    high: str
    flips: str


def loss(drop: Json, max_drop: Json) -> Loss:
    """A `{estimate, high, lost, gained, examples}` in words, to a hundredth of the allowed drop."""
    estimate, high = number(at(drop, "estimate")), number(at(drop, "high"))
    places = _loss_places(max_drop, high if high is not None else estimate)
    return Loss(
        estimate="" if estimate is None else f"{estimate:.{places}f}",
        high="" if high is None else f"{_toward(high, places, math.ceil):.{places}f}",
        flips=_flips(drop),
    )


def allowed(max_drop: Json) -> str:
    """The allowed drop, as the user gave it."""
    figure = number(max_drop)
    return "" if figure is None else f"{figure:.6g}"


def sentence(text: Json) -> str:
    """The same words with a capital in front and a full stop behind; a first word that is a name stays as it is."""
    words = str(text or "").strip()
    if not words:
        return ""
    first = words.split()[0]
    start = words[0].upper() + words[1:] if _WORD.fullmatch(first) and first not in _NAMES else words
    return start if start[-1] in ".!?…:" else f"{start}."


def moment(created: Json) -> str:
    """An ISO time as `2026-11-23 22:43 UTC`; anything else as it is."""
    try:
        when = datetime.fromisoformat(str(created or ""))
    except ValueError:
        return str(created or "")
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if when.tzinfo else f"{when:%Y-%m-%d %H:%M}"


def _flips(drop: Json) -> str:
    lost, gained = number(at(drop, "lost")), number(at(drop, "gained"))
    if lost is None or gained is None:
        return ""
    examples = number(at(drop, "examples"))
    of = f" of {count(examples)} examples" if examples is not None else ""
    return f"{count(lost)} lost, {count(gained)} gained{of}"


def _loss_places(max_drop: Json, shown: float | None) -> int:
    reference = number(max_drop) or abs(shown or 0) or 1.0
    return min(6, max(1, 2 - math.floor(math.log10(reference) + 1e-9)))


def _toward(value: float, places: int, rounding: Callable[[float], int]) -> float:
    """`value` rounded one way at that place; what is only a float's last bits away stays."""
    scale = 10.0**places
    return float(rounding(round(value * scale, 6))) / scale


def _prefixed(value: Json, unit: str) -> str:
    figure = number(value)
    if figure is None:
        return ""
    step = 0
    while abs(figure) >= 999.5 and step < len(_PREFIXES) - 1:
        figure, step = figure / 1000, step + 1
    prefix = _PREFIXES[step]
    gap = " " if prefix and not unit.startswith("B") else ""
    return f"{significant(figure)} {prefix}{gap}{unit}".rstrip()


def _with_unit(text: str, unit: str) -> str:
    return f"{text} {unit}" if text else ""
