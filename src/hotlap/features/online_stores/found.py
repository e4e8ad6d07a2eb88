"""Rows of one value each, put in the order of the keys that were asked for."""

from __future__ import annotations

import numpy as np

from hotlap.features import times
from hotlap.features.online_stores import Answer, Ask


class Found:
    """What a table of (key, feature, value, event time) has for one view. A key's event is its values' oldest."""

    def __init__(self, ask: Ask) -> None:
        self._place = {key: place for place, key in enumerate(ask.keys)}
        self._values: dict[str, list[bytes | None]] = {name: [None] * len(ask.keys) for name in ask.features}
        self._events: list[int] = [times.NEVER] * len(ask.keys)

    def add(self, key: bytes, feature: str, value: bytes, event: int) -> None:
        """event: microseconds since 1970, UTC."""
        column = self._values.get(feature)
        if column is not None:
            place = self._place[key]
            column[place] = value
            known = self._events[place]
            self._events[place] = event if known == times.NEVER or event < known else known

    def answer(self) -> Answer:
        return Answer(values=list(self._values.values()), events=np.array(self._events, np.int64))
