"""Rows of one value each, put in the order of the keys that were asked for."""

from __future__ import annotations

from hotlap.features import times
from hotlap.features.online_stores import Answer, Ask


class Found:
    """What a table of (key, feature, value, event time) has for one view. A key's event is its values' oldest."""

    def __init__(self, ask: Ask, keys: list[bytes]) -> None:
        self._place = {key: place for place, key in enumerate(keys)}
        self._values: dict[str, list[bytes | None]] = {name: [None] * len(keys) for name in ask.features}
        self._events: list[int] = [times.NEVER] * len(keys)

    def add(self, key: bytes, feature: str, value: bytes, event: int) -> None:
        """event: microseconds since 1970, UTC."""
        column = self._values.get(feature)
        if column is not None:
            place = self._place[key]
            column[place] = value
            known = self._events[place]
            self._events[place] = event if known == times.NEVER or event < known else known

    def answer(self) -> Answer:
        return Answer(list(self._values.values()), self._events)
