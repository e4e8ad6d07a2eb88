"""The order of the data: each example once an epoch, and the same whoever computes it and wherever it begins."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hotlap.training.order import Slot, derived_seed, epoch_order, slots, windows_in

sizes = st.integers(1, 60)


def listed(examples: int, **settings: int) -> list[Slot]:
    return list(slots(examples, **{"seed": 1, "epochs": 2, **settings}))


@given(examples=sizes, batch_size=st.integers(1, 17), micro_batch=st.integers(1, 17), world=st.integers(1, 5))
def test_each_example_counts_once_an_epoch(examples: int, batch_size: int, micro_batch: int, world: int) -> None:
    parts = [
        listed(examples, batch_size=batch_size, micro_batch=micro_batch, rank=rank, world=world)
        for rank in range(world)
    ]
    for epoch in range(2):
        counted = [
            index
            for part in parts
            for slot in part
            if slot.epoch == epoch and not slot.padding
            for index in slot.indices
        ]
        assert sorted(counted) == list(range(examples))
    assert all(len(slot.indices) <= micro_batch for part in parts for slot in part)


@given(examples=sizes, batch_size=st.integers(1, 17), micro_batch=st.integers(1, 17), world=st.integers(1, 5))
def test_a_window_holds_the_same_examples_however_many_share_it(
    examples: int, batch_size: int, micro_batch: int, world: int
) -> None:
    def windows(count: int) -> dict[tuple[int, int], list[int]]:
        found: dict[tuple[int, int], list[int]] = {}
        for rank in range(count):
            for slot in listed(examples, batch_size=batch_size, micro_batch=micro_batch, rank=rank, world=count):
                if not slot.padding:
                    found.setdefault((slot.epoch, slot.window), []).extend(slot.indices)
        return found

    alone = windows(1)
    assert windows(world) == alone
    assert len(alone) == 2 * windows_in(examples, batch_size)


@given(examples=sizes, batch_size=st.integers(1, 17), world=st.integers(1, 5), data=st.data())
def test_every_process_has_a_part_in_each_window(
    examples: int, batch_size: int, world: int, data: st.DataObject
) -> None:
    rank = data.draw(st.integers(0, world - 1))
    found = listed(examples, batch_size=batch_size, micro_batch=3, rank=rank, world=world)
    seen = sorted({(slot.epoch, slot.window) for slot in found})
    assert seen == [(epoch, window) for epoch in range(2) for window in range(windows_in(examples, batch_size))]
    for place in seen:
        of_window = [slot for slot in found if (slot.epoch, slot.window) == place]
        assert {slot.count for slot in of_window} == {len(of_window)}
        assert {slot.total for slot in of_window} == {min(batch_size, examples - place[1] * batch_size)}


@given(examples=sizes, batch_size=st.integers(1, 17), data=st.data())
def test_it_can_begin_anywhere(examples: int, batch_size: int, data: st.DataObject) -> None:
    whole = listed(examples, batch_size=batch_size, micro_batch=4)
    epoch = data.draw(st.integers(0, 1))
    window = data.draw(st.integers(0, windows_in(examples, batch_size)))
    rest = listed(examples, batch_size=batch_size, micro_batch=4, epoch=epoch, window=window)
    assert rest == [slot for slot in whole if (slot.epoch, slot.window) >= (epoch, window)]


def test_epochs_and_seeds_differ_in_order() -> None:
    orders = [tuple(epoch_order(50, seed=seed, epoch=epoch)) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4
    assert all(np.array_equal(np.sort(order), np.arange(50)) for order in orders)


@given(
    st.integers(0, 5),
    st.lists(st.integers(0, 5), max_size=3),
    st.integers(0, 5),
    st.lists(st.integers(0, 5), max_size=3),
)
def test_a_seed_tells_every_place_apart(a: int, place_a: list[int], b: int, place_b: list[int]) -> None:
    assert (derived_seed(a, *place_a) == derived_seed(b, *place_b)) == ((a, place_a) == (b, place_b))
