"""Batches that a Dataset gives when it is indexed once: taken only where they are the same bits."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, StackDataset, Subset, TensorDataset

from hotlap import Workload
from hotlap.training.loading import source_of
from hotlap.training.settings import Settings

ROWS = 40
NUMBERS = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(0))
CLASSES = torch.arange(ROWS) % 4


class Asked(Dataset):
    """Rows that `give` makes of an index, or of an array of them."""

    def __init__(self, give):
        self.give = give

    def __len__(self):
        return ROWS

    def __getitem__(self, index):
        return self.give(index)


def per_row(index):
    numbers = NUMBERS[index]
    return numbers - numbers.mean(), CLASSES[index]


def drawn(index):
    return NUMBERS[index] + torch.randn(()), CLASSES[index]


ALIKE = {
    "tensors": TensorDataset(NUMBERS, CLASSES),
    "some of them": Subset(TensorDataset(NUMBERS, CLASSES), list(range(0, ROWS, 2))),
    "arrays": Asked(lambda index: (NUMBERS.numpy()[index], CLASSES.numpy()[index])),
    "a dict and nested tuples": Asked(lambda index: ({"a": NUMBERS[index]}, (CLASSES[index], NUMBERS[index, 0]))),
    "NaN": Asked(lambda index: (torch.full((ROWS, 2), torch.nan)[index], CLASSES[index])),
}
OTHERWISE = {
    "a row's own mean": (Asked(per_row), "other values"),
    "a draw for each row": (Asked(drawn), "other values"),
    "another type": (Asked(lambda index: (NUMBERS[index].double() + 0.0, float(CLASSES[index]))), "an array"),
    "Python numbers": (Asked(lambda index: (NUMBERS[index], int(CLASSES[index]))), "an array of indices"),
    "a branch": (Asked(lambda index: (NUMBERS[index], CLASSES[index] if index % 2 else 1)), "an array of indices"),
    "texts": (Asked(lambda index: (NUMBERS[index], [str(one) for one in np.atleast_1d(index)])), "other values"),
    "another layout": (
        Asked(lambda index: (NUMBERS.T.contiguous().T[index].T.contiguous().T, CLASSES[index])),
        "other",
    ),
}


def source(training, **settings):
    workload = Workload(model=lambda: torch.nn.Linear(3, 4), example=lambda batch: NUMBERS[:batch], batch_size=8)
    return source_of(training, workload, Settings(batch_size=8, epochs=2, **settings))


def batches(training, **settings):
    found = source(training, **settings)
    return [one for epoch in range(2) for window in found.epoch(epoch, 0) for one in window.micro_batches]


@pytest.mark.parametrize("name", ALIKE)
def test_a_dataset_that_gives_the_same_bits_is_read_at_once(name):
    found = source(ALIKE[name]).check_at_once()
    assert (found.reason, found.examples) == (None, len(ALIKE[name]))
    for one, other in zip(batches(ALIKE[name]), batches(ALIKE[name], at_once=True), strict=True):
        torch.testing.assert_close(one.inputs, other.inputs, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(one.targets, other.targets, rtol=0, atol=0)
        assert (one.weight, one.rows, one.indices) == (other.weight, other.rows, other.indices)


def test_it_asks_once_a_batch():
    asked = []
    training = Asked(lambda index: (asked.append(index), (NUMBERS[index], CLASSES[index]))[1])
    batches(training, at_once=True)
    assert [len(index) for index in asked if not isinstance(index, int)] == [8] * 10


@pytest.mark.parametrize("name", OTHERWISE)
def test_one_that_does_not_is_not(name):
    training, reason = OTHERWISE[name]
    assert reason in source(training).check_at_once().reason


def test_one_that_takes_no_array_is_not_read_row_by_row():
    asked = []
    found = source(Asked(lambda index: (asked.append(index), (NUMBERS[int(index)], CLASSES[int(index)]))[1]))
    asked.clear()
    assert "does not take an array of indices" in found.check_at_once().reason
    assert [len(index) for index in asked] == [8]


def test_loader_processes_and_smaller_passes_read_the_same():
    training = TensorDataset(NUMBERS, CLASSES)
    plain, other = batches(training, micro_batch=3), batches(training, micro_batch=3, at_once=True, workers=1)
    for one, two in zip(plain, other, strict=True):
        assert torch.equal(one.inputs, two.inputs)
        assert torch.equal(one.targets, two.targets)


def test_a_loader_of_rows_is_read_at_once_too_but_for_ways_of_its_own():
    training = TensorDataset(NUMBERS, CLASSES)
    loader = DataLoader(training, batch_size=8, shuffle=True)
    assert source(loader).check_at_once().reason is None
    for one, two in zip(batches(loader), batches(loader, at_once=True), strict=True):
        assert torch.equal(one.inputs, two.inputs)
    own = DataLoader(training, batch_size=8, collate_fn=lambda items: torch.utils.data.default_collate(items))
    assert "a way of its own" in source(own).check_at_once().reason
    opens = DataLoader(training, batch_size=8, worker_init_fn=print)
    assert "worker_init_fn" in source(opens).check_at_once().reason
    assert "as they come" in source([(NUMBERS, CLASSES)]).check_at_once().reason


def test_stacked_datasets_are_asked_too():
    stacked = StackDataset(TensorDataset(NUMBERS), CLASSES)
    assert source(stacked).check_at_once().reason is None


def test_one_example_a_batch_has_nothing_to_read_at_once():
    workload = Workload(model=lambda: torch.nn.Linear(3, 4), example=lambda batch: NUMBERS[:batch], batch_size=1)
    found = source_of(TensorDataset(NUMBERS, CLASSES), workload, Settings(batch_size=1)).check_at_once()
    assert found.reason == "a batch has one example"
