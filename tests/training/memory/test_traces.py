"""Traces: what is freed, how sizes scale, and the peak, against naive counting."""

from hypothesis import given
from hypothesis import strategies as st

from hotlap.training.memory.traces import Trace, from_arrays, live_peak, scaled, to_arrays, trace_of

SIZES = st.lists(st.integers(1, 10_000), min_size=1, max_size=30)


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    """Allocations, some of which are freed again, in any order that makes sense."""
    sizes = draw(SIZES)
    records: list[tuple[int, int, str]] = []
    live: list[tuple[int, int]] = []
    for place, size in enumerate(sizes):
        records.append((place + 1, size, draw(st.sampled_from(["conv", "relu"]))))
        live.append((place + 1, size))
        while live and draw(st.booleans()):
            address, freed = live.pop(draw(st.integers(0, len(live) - 1)))
            records.append((address, -freed, ""))
    return trace_of(records)


def test_an_address_that_comes_again_is_another_allocation() -> None:
    trace = trace_of([(1, 10, "a"), (1, -10, "a"), (1, 30, "b"), (9, -5, "c")])
    assert trace == Trace(sizes=(10, 30), names=("a", "b"), events=(1, -1, 2))


@given(traces())
def test_the_peak_is_the_largest_sum_of_what_lives(trace: Trace) -> None:
    sums, live = [0], set()
    for event in trace.events:
        live = live | {event} if event > 0 else live - {-event}
        sums.append(sum(trace.sizes[one - 1] for one in live))
    assert live_peak(trace.events, trace.sizes) == max(sums)


def test_a_granule_rounds_every_size_up() -> None:
    assert live_peak((1, 2, -1, -2), (1, 513), granule=512) == 512 + 1024


@given(st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 1000)), min_size=1, max_size=20), st.integers(1, 500))
def test_sizes_that_are_lines_are_met_exactly(lines: list[tuple[int, int]], batch: int) -> None:
    names = tuple("n" for _ in lines)
    events = tuple(range(1, len(lines) + 1))
    at = [Trace(sizes=tuple(a + b * n for a, b in lines), names=names, events=events) for n in (4, 8, batch)]
    assert scaled(at[0], 4, at[1], 8, batch) == (list(at[2].sizes), 0)


def test_an_operation_without_a_partner_grows_with_the_batch() -> None:
    small = Trace(sizes=(4, 100), names=("relu", "adam"), events=(1, 2))
    large = Trace(sizes=(8, 80, 100), names=("relu", "reorder", "adam"), events=(1, 2, 3))
    assert scaled(small, 4, large, 8, 16) == ([16, 160, 100], 1)


@given(traces())
def test_a_trace_survives_the_way_to_another_process(trace: Trace) -> None:
    assert from_arrays(**to_arrays(trace)) == trace  # type: ignore[arg-type]


@given(st.integers(1, 8), st.integers(1, 4096))
def test_what_sets_every_row_against_every_other_grows_by_the_square(bytes_each: int, batch: int) -> None:
    at = [Trace(sizes=(bytes_each * n * n, 100 * n), names=("mm", "relu"), events=(1, 2)) for n in (4, 8, batch)]
    assert scaled(at[0], 4, at[1], 8, batch) == (list(at[2].sizes), 0)
