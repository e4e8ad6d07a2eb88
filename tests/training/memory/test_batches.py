"""The largest batch of an epoch is the one that counts."""

from pathlib import Path

import pytest
import torch

from hotlap import Workload
from hotlap.errors import WorkloadError
from hotlap.training.memory import batches
from hotlap.training.memory.batches import largest, tensor_bytes
from hotlap.workload.target import load_target


def of(training) -> Workload:
    return Workload(model=torch.nn.Identity, example=lambda batch: torch.zeros(batch), training=lambda: training)


class Texts(torch.utils.data.Dataset):
    lengths = (3, 9, 5)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int):
        return {"ids": torch.zeros(self.lengths[index], dtype=torch.int64)}, torch.tensor(1.0)


def test_the_longest_example_fills_the_batch() -> None:
    found = largest(of(Texts()))
    inputs, targets = found.make(4)
    assert inputs["ids"].shape == (4, 9)
    assert targets.shape == (4,)
    assert (found.rows, found.looked_at, found.whole) == (None, 3, True)
    assert found.make(4)[0]["ids"].data_ptr() != inputs["ids"].data_ptr()


def test_the_largest_batch_of_an_iterable_is_cut_and_repeated(trains: Path) -> None:
    found = largest(load_target(f"{trains}:in_batches").workload)
    assert (found.rows, found.looked_at, found.whole) == (7, 3, True)
    for rows in (2, 7, 20):
        inputs, targets = found.make(rows)
        assert inputs.shape == (rows, 256)
        assert targets.shape == (rows,)


def test_data_that_is_too_much_is_looked_at_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MOST_LOOKED_AT", 2)
    assert (largest(of(Texts())).looked_at, largest(of(Texts())).whole) == (2, False)
    endless = ((torch.zeros(2, 3), torch.zeros(2)) for _ in iter(int, 1))
    assert (largest(of(endless)).looked_at, largest(of(endless)).whole) == (2, False)


@pytest.mark.parametrize(
    ("training", "text"),
    [([], "`training` is empty"), ([torch.zeros(2)], "must give .inputs, targets. pairs; it gave a Tensor")],
)
def test_data_that_is_none(training, text: str) -> None:
    with pytest.raises(WorkloadError, match=text):
        largest(of(training))


def test_bytes_of_nested_tensors() -> None:
    assert tensor_bytes(({"a": torch.zeros(3)}, [torch.zeros(2, dtype=torch.int64), "text"])) == 12 + 16


def test_an_example_that_was_found_before_is_read_alone() -> None:
    class Counted(Texts):
        read = 0

        def __getitem__(self, index: int):
            type(self).read += 1
            return super().__getitem__(index)

    place = largest(of(Counted())).place
    assert place is not None
    assert (place.index, Counted.read) == (1, 3)
    again = largest(of(Counted()), place)
    assert again.make(2)[0]["ids"].shape == (2, 9)
    assert (again.place, again.looked_at, again.whole, Counted.read) == (place, 3, True, 4)
    Counted.lengths = (3, 4, 5)  # Another size there: it is looked for again.
    assert largest(of(Counted()), place).make(2)[0]["ids"].shape == (2, 5)
    Counted.lengths = (7,)
    assert largest(of(Counted()), place).make(2)[0]["ids"].shape == (2, 7)
