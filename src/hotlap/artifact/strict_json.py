"""JSON from strangers: bounded in size and depth before it is parsed, and one meaning only.

Python's parser recurses once a level, keeps the last of two equal keys and takes NaN, Infinity and UTF-16; here
each of these is refused.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from hotlap.core import Json
from hotlap.errors import ArtifactRefused

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")


def parse(data: bytes, what: str, *, most_bytes: int, most_depth: int) -> Json:
    """Parse UTF-8 JSON of at most `most_bytes` bytes, nested at most `most_depth` deep.

    what: how messages call it. Raises ArtifactRefused where it is larger, deeper, not UTF-8, not JSON, repeats a
    key, or holds a number that is not finite.
    """
    if len(data) > most_bytes:
        raise ArtifactRefused(f"{what} is {len(data):,} bytes long; at most {most_bytes:,} are read")
    if depth(data) > most_depth:
        raise ArtifactRefused(f"{what} is nested more than {most_depth} deep")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArtifactRefused(f"{what} is not UTF-8 (byte {error.start})") from None
    try:
        return json.loads(text, object_pairs_hook=_once_each, parse_constant=_not_finite, parse_float=_finite_float)
    except ArtifactRefused as error:
        raise ArtifactRefused(f"{what} {error}") from None
    except ValueError as error:
        # JSONDecodeError, or an integer of more digits than Python converts.
        raise ArtifactRefused(f"{what} is not JSON: {error}") from None


def depth(data: bytes) -> int:
    """How deep brackets nest outside strings, without recursion; stops counting past 10,000."""
    deepest = now = 0
    for bracket in _BRACKET.finditer(_STRING.sub(b"", data)):
        now += 1 if bracket[0] in b"[{" else -1
        deepest = max(deepest, now)
        if deepest > 10_000:
            break
    return deepest


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ArtifactRefused(f"has {twice[:80]!r} twice")
    return found


def _not_finite(name: str) -> NoReturn:
    raise ArtifactRefused(f"holds {name}, which is no number")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ArtifactRefused(f"holds {text[:40]}, which is too large for a number")
    return value
