"""What kinds of training there are, and what is said where a resumed run may not be exact."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
import trainable
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    Sampler,
    Subset,
    TensorDataset,
    get_worker_info,
)

from hotlap.errors import InputError, WorkloadError
from hotlap.training import at_once
from hotlap.training.iterables import BatchesSource
from hotlap.training.loading import DatasetSource, LoaderSource, source_of
from hotlap.training.settings import Settings
from hotlap.workload.target import load_target


class Numbers(Dataset):
    def __init__(self, size: int = 7) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int):
        return torch.tensor([float(index)]), torch.tensor(index)


class Counting(Numbers):
    def __init__(self) -> None:
        super().__init__()
        self.reads, self.file = 0, None

    def __getitem__(self, index: int):
        self.reads += 1
        self.file = object()
        return super().__getitem__(index)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(Numbers())


class Own(DataLoader):
    def __iter__(self):
        yield from [*super().__iter__()][:1]


class Opened(Numbers):
    """Opens what it reads from in each loader process, by its worker_init_fn."""

    added = None

    def __getitem__(self, index: int):
        inputs, target = super().__getitem__(index)
        return inputs, target + self.added


def open_in_worker(number: int) -> None:
    get_worker_info().dataset.added = 100


class Counted(Sampler):
    """Begins each epoch elsewhere, and counts them itself."""

    def __init__(self) -> None:
        self.epochs = 0

    def __len__(self) -> int:
        return 7

    def __iter__(self):
        self.epochs += 1
        yield from ((place + self.epochs) % 7 for place in range(7))


class Short(Sampler):
    def __len__(self) -> int:
        return 3

    def __iter__(self):
        yield from range(2)


@pytest.fixture(scope="module")
def workload(tmp_path_factory: pytest.TempPathFactory):
    return load_target(trainable.write(tmp_path_factory.mktemp("loading"), "rows")).workload


def source(training, workload, rank: int = 0, world: int = 1, **settings):
    chosen = Settings(batch_size=2, epochs=2, **settings)
    return source_of(training, replace(workload, training=lambda: training), chosen, rank=rank, world=world)


def targets(found, epoch: int = 0, first: int = 0) -> list[list[list[int]]]:
    return [[one.targets.tolist() for one in window.micro_batches] for window in found.epoch(epoch, first)]


@pytest.mark.parametrize(
    ("training", "kind"),
    [
        (Numbers(), DatasetSource),
        (DataLoader(Numbers(), batch_size=2), LoaderSource),
        (DataLoader(Numbers(), batch_size=None), LoaderSource),
        (DataLoader(Stream(), batch_size=2), BatchesSource),
        (Own(Numbers(), batch_size=2), BatchesSource),
        ([(torch.zeros(2, 1), torch.zeros(2))], BatchesSource),
    ],
)
def test_each_kind_is_read_in_its_way(training, kind, workload) -> None:
    assert type(source(training, workload)) is kind


def test_a_loaders_batches_are_its_own(workload) -> None:
    def loader() -> DataLoader:
        return DataLoader(Numbers(), batch_size=3, shuffle=True, drop_last=True, collate_fn=lambda rows: default(rows))

    def default(rows):
        inputs, found = torch.utils.data.default_collate(rows)
        return inputs, found + 100

    whole = targets(source(loader(), workload))
    assert [len(batch) for (batch,) in whole] == [3, 3]
    assert {number - 100 for (batch,) in whole for number in batch} < set(range(7))
    assert targets(source(loader(), workload), first=1) == whole[1:]
    other = source(loader(), workload)
    assert targets(other) == whole
    assert targets(other, epoch=1) == targets(source(loader(), workload), epoch=1) != whole


class Noisy(Numbers):
    """Every second example is augmented, by each kind of generator."""

    def __init__(self) -> None:
        super().__init__(16)
        self.own = np.random.default_rng()

    def __getitem__(self, index: int):
        inputs, target = super().__getitem__(index)
        if index % 2:
            noise = torch.rand(1) + random.random() + np.random.rand() + self.own.random()
            return inputs + noise, target
        return inputs, target


class TorchAlone(Numbers):
    def __init__(self) -> None:
        super().__init__(16)

    def __getitem__(self, index: int):
        inputs, target = super().__getitem__(index)
        return (inputs + torch.rand(1), target) if index % 2 else (inputs, target)


class Together(Noisy):
    """Gives the examples of a batch at once."""

    def __getitems__(self, indices: list[int]):
        return [self[index] for index in indices]


@pytest.mark.parametrize("make", [Noisy, TorchAlone, Together, lambda: Subset(Noisy(), list(range(16)))])
def test_augmentation_does_not_depend_on_how_a_step_is_cut(make, workload) -> None:
    def windows(rank: int = 0, world: int = 1, **settings) -> list[list[float]]:
        chosen = Settings(batch_size=7, epochs=2, **settings)
        found = source_of(make(), workload, chosen, rank=rank, world=world).epoch(0, 0)
        return [[x for one in window.micro_batches for x in one.inputs.flatten().tolist()] for window in found]

    whole = windows()
    assert sum(x != round(x) for window in whole for x in window) == 8
    assert windows(micro_batch=3) == whole
    assert windows(micro_batch=2, workers=2) == whole
    shares = [windows(rank, 2) for rank in (0, 1)]
    assert [one + other for one, other in zip(*shares, strict=True)] == whole


def test_two_processes_share_a_loaders_batches(workload) -> None:
    one = targets(source(DataLoader(Numbers(), batch_size=2, shuffle=True), workload, accumulation=3))
    parts = [
        source(DataLoader(Numbers(), batch_size=2, shuffle=True), workload, rank, 2, accumulation=3) for rank in (0, 1)
    ]
    first, second = (list(part.epoch(0, 0)) for part in parts)
    assert [[batch.targets.tolist() for batch in window.micro_batches] for window in first] == [one[0][::2], one[1]]
    # The last window has one batch, which the second process computes too and which weighs nothing there.
    assert [batch.targets.tolist() for batch in second[0].micro_batches] == one[0][1::2]
    assert [batch.weight for batch in second[1].micro_batches] == [0.0]


@pytest.mark.parametrize("batched", [False, True])
def test_a_sampler_of_shares_is_refused_where_processes_share(batched: bool, workload) -> None:
    sampler = DistributedSampler(Numbers(), num_replicas=2, rank=0)
    options = {"batch_sampler": BatchSampler(sampler, 2, drop_last=False)} if batched else {"sampler": sampler}
    loader = DataLoader(Numbers(), **options)
    with pytest.raises(InputError, match="has a DistributedSampler, which gives each of 2 processes a share; hotlap"):
        source(loader, workload, world=2, accumulation=2)
    source(loader, workload)


def test_a_worker_init_fn_finds_its_own_dataset(workload) -> None:
    loader = DataLoader(Opened(), batch_size=7, num_workers=1, worker_init_fn=open_in_worker)
    found = source(loader, workload)
    assert targets(found) == [[[100, 101, 102, 103, 104, 105, 106]]]
    found.close()


COUNTED = {
    "a sampler": lambda: {"batch_size": 4, "sampler": Counted()},
    "a sampler in torch's batch sampler": lambda: {"batch_sampler": BatchSampler(Counted(), 4, drop_last=False)},
}


@pytest.mark.parametrize("kind", COUNTED)
def test_a_sampler_that_counts_its_epochs_is_taken_up_where_it_was(kind: str, workload) -> None:
    def loader() -> DataLoader:
        return DataLoader(Numbers(), **COUNTED[kind]())

    whole = source(loader(), workload)
    first, second = targets(whole, 0), targets(whole, 1)
    assert first != second
    assert targets(source(loader(), workload), 1) == second


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_a_check_of_reading_at_once_moves_no_sampler_on(
    seconds: float, workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loader() -> DataLoader:
        return DataLoader(TensorDataset(torch.zeros(7, 1), torch.arange(7)), batch_size=4, sampler=Counted())

    monkeypatch.setattr(at_once, "_ENOUGH_SECONDS", seconds)
    checked = source(loader(), workload)
    assert checked.check_at_once().reason is None
    whole = source(loader(), workload)
    for epoch in (0, 1):
        assert targets(checked, epoch) == targets(whole, epoch)


def test_a_sampler_in_a_batch_sampler_is_told_the_epoch(workload) -> None:
    def loader() -> DataLoader:
        drawn_from = DistributedSampler(Numbers(), num_replicas=1, rank=0)
        return DataLoader(Numbers(), batch_sampler=BatchSampler(drawn_from, 4, drop_last=False))

    whole = source(loader(), workload)
    first, second = targets(whole, 0), targets(whole, 1)
    assert first != second
    assert targets(source(loader(), workload), 1) == second


def test_a_sampler_shorter_than_it_says(workload) -> None:
    with pytest.raises(WorkloadError, match="gave 2 batches in an epoch and its length is 3"):
        targets(source(DataLoader(Numbers(), batch_size=None, sampler=Short()), workload))


@pytest.mark.parametrize("wrap", [lambda data: data, lambda data: DataLoader(data, batch_size=2)])
def test_a_dataset_that_counts_is_named(wrap, workload) -> None:
    (said,) = source(wrap(Counting()), workload).warnings
    assert said.startswith("reading an example of `training` changes its 'reads', which is not kept")
    assert source(wrap(Numbers()), workload).warnings == ()


def test_loader_processes_that_outlive_an_epoch_are_named(workload) -> None:
    loader = DataLoader(Stream(), batch_size=2, num_workers=1, persistent_workers=True)
    (said,) = source(loader, workload).warnings
    assert "exact with persistent_workers=False only" in said
    assert source(DataLoader(Numbers(), num_workers=1, persistent_workers=True), workload).warnings == ()


class Lazy(Numbers):
    """Makes its generator as the first example is read."""

    rng = None

    def __getitem__(self, index: int):
        if self.rng is None:
            self.rng = np.random.default_rng(5)
        inputs, _ = super().__getitem__(index)
        return inputs, torch.tensor(self.rng.random())


class Replaced(Lazy):
    rng = np.random.default_rng(6)


def renew(number: int) -> None:
    get_worker_info().dataset.rng = np.random.default_rng(1000 + number)


class Augment:
    def __init__(self) -> None:
        self.rng = np.random.default_rng(7)


class Many(Lazy):
    """Holds many examples before what holds the generator."""

    def __init__(self) -> None:
        super().__init__()
        self.samples = [(f"{number}.png", number) for number in range(20_000)]
        self.augment = Augment()

    def __getitem__(self, index: int):
        return torch.tensor([float(index)]), torch.tensor(self.augment.rng.random())


@pytest.mark.parametrize("make", [Lazy, Many], ids=lambda make: make.__name__)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_generator_that_comes_late_is_seeded_from_the_first_example_on(make, workers: int, workload) -> None:
    whole = source(make(), workload, workers=workers)
    later = source(make(), workload, workers=workers)
    assert whole.warnings == later.warnings == ()
    assert targets(whole)[2:] == targets(later, first=2)
    whole.close()
    later.close()


def test_a_generator_that_a_worker_init_fn_makes_is_seeded(workload) -> None:
    def loader() -> DataLoader:
        return DataLoader(Replaced(), batch_size=2, num_workers=1, worker_init_fn=renew)

    whole, later = source(loader(), workload), source(loader(), workload)
    assert targets(whole)[2:] == targets(later, first=2)
    whole.close()
    later.close()


class Unseeded(Numbers):
    def __getitem__(self, index: int):
        return torch.tensor([float(index)]), torch.tensor(np.random.default_rng().random())


@pytest.mark.parametrize("wrap", [lambda dataset: dataset, DataLoader], ids=["a Dataset", "a DataLoader"])
def test_a_dataset_that_nobody_can_seed_is_named(wrap, workload) -> None:
    (warning,) = source(wrap(Unseeded()), workload).warnings
    assert "reading an example of `training` twice gives two" in warning
    assert source(wrap(Noisy()), workload).warnings == ()


def test_the_rows_of_a_batch_are_those_of_its_own_axis(workload) -> None:
    def example(rows: int, time: int = 4):
        return {"x": torch.zeros(time, rows, 3)}

    other = replace(workload, example=example, dynamic={"x": {0: "time", 1: "batch"}}, loss_weight=None)
    batches = [({"x": torch.zeros(20, 2, 3)}, torch.zeros(2)), ({"x": torch.zeros(5, 8, 3)}, torch.zeros(8))]
    (window,) = source(batches, other, accumulation=2).epoch(0, 0)
    assert [(one.rows, one.weight) for one in window.micro_batches] == [(2, 2.0), (8, 8.0)]
    with pytest.raises(WorkloadError, match=r"has 1 axis \[2\]; axis 1 of it must be the batch"):
        next(iter(source([({"x": torch.zeros(2)}, torch.zeros(2))], other).epoch(0, 0)))
