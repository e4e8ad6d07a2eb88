"""How many calls a block makes: of slow ones few, since a search has to try more than one candidate."""

from typing import Any

import pytest

from hotlap.measure import timing


@pytest.mark.parametrize(("call_seconds", "timed"), [(0.001, 5), (0.05, 3), (0.15, 1), (0.4, 1)])
def test_the_slower_a_call_the_fewer_are_timed(call_seconds: float, timed: int) -> None:
    made: list[None] = []
    state: dict[str, Any] = {"call": lambda: made.append(None), "call_seconds": call_seconds}
    answer = timing.block(state, seconds=0.0)
    assert len(answer["times_ms"]) == timed
    assert (len(made) > timed) == (call_seconds < 0.25)  # only very slow ones are not warmed up
