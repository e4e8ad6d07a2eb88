"""Replaying at the real allocator: laws that hold whatever it does with holes."""

from hypothesis import given, settings
from hypothesis import strategies as st

from hotlap.training.memory.predict import replayed
from hotlap.training.memory.traces import live_peak

MB = 2**20


def test_large_blocks_take_what_they_hold() -> None:
    sizes, events = [100 * MB, 40 * MB, 100 * MB], [1, 2, -1, 3, -2, -3]
    peak = replayed(events, sizes)
    assert live_peak(events, sizes) == 140 * MB
    assert 140 * MB <= peak < 142 * MB


def test_what_is_never_used_may_be_larger_than_the_machine() -> None:
    sizes = [64 * 2**30] * 40
    peak = replayed(list(range(1, 41)), sizes)
    assert 40 * 64 * 2**30 <= peak < 40 * 64 * 2**30 + 2 * MB


def test_holes_count() -> None:
    """Every other block is freed, and what comes then fits none of the holes."""
    count, size = 200, 100_000
    events = [*range(1, count + 1), *(-index for index in range(1, count, 2)), *range(count + 1, count + 51)]
    sizes = [size] * count + [2 * size + 50_000] * 50
    peak = replayed(events, sizes, freed_first=32 * MB - 8192)
    assert live_peak(events, sizes) == count * size // 2 + 50 * 250_000
    assert peak > count * size + 50 * 250_000


def test_what_stays_with_the_process_is_counted() -> None:
    """Blocks that come and go beside one that stays: mapped each on its own, they take what lives at most."""
    sizes = [100 * MB, 1 * MB, 120 * MB]
    events = [1, 2, -1, 3, -2, -3]
    assert 121 * MB <= replayed(events, sizes) < 123 * MB
    assert 221 * MB <= replayed(events, sizes, kept=True) < 223 * MB


@settings(max_examples=15)
@given(st.lists(st.integers(1, 4 * MB), min_size=1, max_size=20))
def test_never_less_than_what_lives(sizes: list[int]) -> None:
    events = [*range(1, len(sizes) + 1), *(-index for index in range(1, len(sizes) + 1))]
    # The heap of a process is not quite empty when it begins: holes of its own may be filled.
    assert replayed(events, sizes) >= live_peak(events, sizes) - 256 * 1024
