"""Training data as windows: all that one process computes for one step of the optimizer.

A map-style Dataset is read in the order of `order.slots`, by loader processes if wanted. An iterable of batches is
read in this process, `accumulation` batches a window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from hotlap.core import Json
from hotlap.errors import HotlapError, InputError, TrainingStopped, WorkloadError
from hotlap.training.encoding import encode
from hotlap.training.order import Slot, slots, windows_in
from hotlap.training.seeding import seed_generators
from hotlap.training.settings import Settings
from hotlap.workload.evaluation import END
from hotlap.workload.inputs import input_kind
from hotlap.workload.roles import pair
from hotlap.workload.user_code import running
from hotlap.workload.workload import Inputs, Workload

if TYPE_CHECKING:
    from torch.utils.data import DataLoader


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """What one forward pass takes. `weight`: what its loss was averaged over; 0 for what only keeps in step.

    `start` is its place in the window, `indices` are its examples in the Dataset (none of an iterable's).
    """

    inputs: Inputs
    targets: Any
    rows: int
    weight: float
    start: int
    indices: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """This process's share of one step of the optimizer."""

    epoch: int
    number: int
    micro_batches: tuple[MicroBatch, ...]

    @property
    def rows(self) -> int:
        """Examples of this process that count."""
        return sum(one.rows for one in self.micro_batches if one.weight)


class Source(Protocol):
    """Where windows come from. `windows` is how many an epoch has; None where only reading it tells.

    `examples` is what a Dataset holds. `locked` names the settings that this kind of data leaves no choice in.
    """

    windows: int | None
    examples: int | None
    locked: tuple[str, ...]

    def epoch(self, number: int, first: int) -> Iterator[Window]:
        """The windows of an epoch from `first` on. Epochs are asked for in order."""
        ...

    def state(self) -> Json:
        """What an iterable needs, besides epoch and window, to be taken up again; None if nothing."""
        ...

    def close(self) -> None:
        """End the loader processes."""
        ...


@dataclass(frozen=True, slots=True)
class _Failed:
    """What went wrong in a loader process, as a sentence: an exception would arrive with its whole story."""

    sentence: str


class DatasetSource:
    """Windows of a map-style Dataset, whose order and randomness depend on the seed and the place alone."""

    locked: tuple[str, ...] = ()

    def __init__(self, dataset: Any, workload: Workload, settings: Settings, *, rank: int = 0, world: int = 1) -> None:
        with running("training"):
            self.examples: int | None = len(dataset)
        if not self.examples:
            raise WorkloadError("the workload's `training` is empty; give at least one example")
        self.windows: int | None = windows_in(self.examples, settings.batch_size)
        self._dataset, self._workload, self._settings = dataset, workload, settings
        self._rank, self._world = rank, world
        self._loader: DataLoader[Any] | None = None
        self._items: Iterator[Any] = iter(())

    def epoch(self, number: int, first: int) -> Iterator[Window]:
        """The windows of an epoch from `first` on; loader processes read on into the next epoch meanwhile."""
        assert self.windows is not None
        if self._loader is None and first < self.windows:
            self._loader = self._start(number, first)
            self._items = iter(self._loader)
        for _ in range(first, self.windows):
            yield self._window()

    def state(self) -> Json:
        """Nothing: epoch and window say it all."""
        return None

    def close(self) -> None:
        """End the loader processes."""
        self._loader, self._items = None, iter(())

    def _start(self, epoch: int, first: int) -> DataLoader[Any]:
        from torch.utils.data import DataLoader

        settings = self._settings
        assert self.examples is not None
        order = slots(
            self.examples,
            batch_size=settings.batch_size,
            micro_batch=settings.examples_a_pass,
            seed=settings.seed,
            epochs=settings.epochs,
            epoch=epoch,
            window=first,
            rank=self._rank,
            world=self._world,
        )
        workers = settings.workers
        return DataLoader(
            reader(self._dataset, settings.seed),
            batch_size=None,
            sampler=order,
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=settings.pin,
            # A workload's file is no importable module, so that only a fork has it.
            multiprocessing_context="fork" if workers else None,
            prefetch_factor=settings.prefetch if workers else None,
        )

    def _window(self) -> Window:
        slot, batch = self._next()
        parts = [self._micro_batch(slot, batch)]
        while len(parts) < slot.count:
            parts.append(self._micro_batch(*self._next()))
        return Window(epoch=slot.epoch, number=slot.window, micro_batches=tuple(parts))

    def _next(self) -> tuple[Slot, Any]:
        try:
            slot, batch = next(self._items)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise TrainingStopped(
                "a loader process ended by itself, most often for want of memory; go on with --resume, with fewer "
                "workers (--set workers=0)"
            ) from error
        if isinstance(batch, _Failed):
            raise WorkloadError(batch.sentence)
        return slot, batch

    def _micro_batch(self, slot: Slot, batch: Any) -> MicroBatch:
        inputs, targets = batch
        rows = len(slot.indices)
        weight = 0.0 if slot.padding else loss_weight(self._workload, targets, rows)
        return MicroBatch(
            inputs=inputs, targets=targets, rows=rows, weight=weight, start=slot.start, indices=slot.indices
        )


class BatchesSource:
    """Windows of an iterable that gives batches of its own."""

    locked: tuple[str, ...] = ("batch_size", "micro_batch", "workers", "prefetch", "pin")

    def __init__(self, batches: Any, workload: Workload, settings: Settings, *, rank: int = 0, world: int = 1) -> None:
        if settings.accumulation < world:
            raise InputError(
                f"`training` is an iterable of batches, which {world} processes share batch by batch: "
                f"give --set accumulation={world} or a multiple of it"
            )
        self._batches, self._workload, self._settings = batches, workload, settings
        self._rank, self._world = rank, world
        self._fresh, self._state_to_load = True, None
        self.examples: int | None = None
        try:
            self.windows: int | None = -(-len(self._batches) // settings.accumulation)
        except TypeError:
            self.windows = None

    def epoch(self, number: int, first: int) -> Iterator[Window]:
        """The windows of an epoch; those before `first` are read and left, unless a state brought them back."""
        window = 0
        if self._state_to_load is not None and first:
            with running("training"):
                self._batches.load_state_dict(self._state_to_load)
            window = first
        self._state_to_load = None
        iterator = self._iterator(number)
        count = window * self._settings.accumulation
        while True:
            group: list[Any] = []
            while len(group) < self._settings.accumulation:
                seed_generators(self._settings.seed, "data", number, count)
                with running("training"):
                    batch = next(iterator, END)
                if batch is END:
                    break
                group.append(batch)
                count += 1
            if group and window >= first:
                yield self._window(group, number, window)
            if len(group) < self._settings.accumulation:
                return
            window += 1

    def state(self) -> Json:
        """The iterable's own state, where it has one that can be kept (torchdata's StatefulDataLoader); else None."""
        if not self.has_state:
            return None
        with running("training"):
            found = self._batches.state_dict()
        try:
            encode(found, "")
        except InputError:
            return None
        return found

    def load_state(self, state: Json) -> None:
        """Have the next epoch begin where `state` says, which is the window it is asked for from."""
        self._state_to_load = state

    @property
    def has_state(self) -> bool:
        """Whether the iterable gives and takes a state."""
        return all(hasattr(self._batches, name) for name in ("state_dict", "load_state_dict"))

    def close(self) -> None:
        """Nothing to end."""

    def _iterator(self, epoch: int) -> Iterator[Any]:
        seed_generators(self._settings.seed, "data", epoch)
        assert self._workload.training is not None
        with running("training"):
            # What is its own iterator can be gone through once only.
            if not self._fresh and iter(self._batches) is self._batches:
                self._batches = self._workload.training()
            self._fresh = False
            return iter(self._batches)

    def _window(self, group: list[Any], epoch: int, number: int) -> Window:
        mine = [(place, batch) for place, batch in enumerate(group) if place % self._world == self._rank]
        parts = []
        for place, batch in mine or [(self._rank, group[0])]:
            inputs, targets = pair(batch)
            rows = count_rows(inputs)
            weight = loss_weight(self._workload, targets, rows) if mine else 0.0
            parts.append(MicroBatch(inputs=inputs, targets=targets, rows=rows, weight=weight, start=place))
        return Window(epoch=epoch, number=number, micro_batches=tuple(parts))


def reader(dataset: Any, seed: int) -> Any:
    """A Dataset that takes a Slot and gives it with its collated batch, or with why there is none.

    The global random generators are seeded by the slot's place, so that augmentations do not depend on which
    process reads it, or when.
    """
    from torch.utils.data import Dataset, default_collate

    class Reader(Dataset[Any]):
        def __getitem__(self, slot: Slot) -> tuple[Slot, Any]:
            seed_generators(seed, "data", slot.epoch, slot.window, slot.start)
            try:
                with running("training"):
                    if getattr(dataset, "__getitems__", None):
                        items = dataset.__getitems__(list(slot.indices))
                    else:
                        items = [dataset[index] for index in slot.indices]
                for item in items:
                    pair(item)
                try:
                    inputs, targets = default_collate(items)
                except (RuntimeError, TypeError) as error:
                    raise WorkloadError(
                        f"the workload's `training` gives examples that can't be stacked into a batch ({error}); pad "
                        "them to one size, or give an iterable of batches"
                    ) from error
            except HotlapError as error:
                return slot, _Failed(str(error))
            return slot, (inputs, targets)

    return Reader()


def loss_weight(workload: Workload, targets: Any, rows: int) -> float:
    """What the loss of these targets is averaged over: the workload's `loss_weight`, or the examples."""
    if workload.loss_weight is None:
        return float(rows)
    with running("loss_weight"):
        weight = float(workload.loss_weight(targets))
    if not 0 <= weight < float("inf"):
        raise WorkloadError(f"the workload's `loss_weight` gave {weight}; it must give a finite number from 0 on")
    return weight


def count_rows(inputs: Inputs) -> int:
    """The rows of a batch: the size of axis 0 of its first input."""
    kind = input_kind(inputs)
    first = inputs if kind == "tensor" else next(iter(inputs.values())) if kind == "dict" else inputs[0]
    return int(first.shape[0])


def _as_it_is(batch: Any) -> Any:
    return batch
