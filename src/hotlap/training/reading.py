"""Reads what slots name, in loader processes if wanted, and puts the passes of a step together into a window."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from hotlap.errors import HotlapError, LoaderDied, WorkloadError
from hotlap.training.at_once import Failed, batch_of
from hotlap.training.order import Slot
from hotlap.training.seeding import own_generators, seed_generators
from hotlap.training.stopping import end_with_parent, outlive_a_request
from hotlap.workload.examples import make_example
from hotlap.workload.inputs import input_kind
from hotlap.workload.roles import pair
from hotlap.workload.user_code import describe, running
from hotlap.workload.workload import Inputs, Workload

if TYPE_CHECKING:
    import torch
    from torch.utils.data import DataLoader


NO_BATCH = "the workload's `training` gave no batch; give at least one an epoch"


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """What one forward pass takes. `weight`: what its loss was averaged over; 0 for what only keeps in step.

    `start` is its place in the window, `part` that of its first row where it is a part of what was read, `indices` are
    its examples in the Dataset (none of an iterable's).
    """

    inputs: Inputs
    targets: Any
    rows: int
    weight: float
    start: int
    part: int = 0
    indices: tuple[Any, ...] = ()


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


class Reader:
    """A Dataset that takes a Slot and gives it with its batch, or with why there is none.

    Every random generator that reading may draw from, the global ones and `generators`, is seeded by the slot's
    place, or `apart` by each example's, so that augmentations do not depend on which process reads it, when, or what
    was read before.
    """

    def __init__(
        self,
        dataset: Any,
        collate: Callable[[Any], Any],
        *,
        seed: int,
        generators: Sequence[Any],
        in_batches: bool = False,
        at_once: bool = False,
        apart: bool = False,
    ) -> None:
        """`collate` makes a batch of a list of items; of the one item of a slot where the Dataset is `in_batches`.
        `at_once`: the Dataset is indexed with all of a slot's indices together, and what it gives is the batch.
        """
        from torch.utils.data import Subset

        self._dataset, self._collate, self._seed = dataset, collate, seed
        self._generators, self._in_batches, self._at_once, self._apart = generators, in_batches, at_once, apart
        self._looked = False
        # A Subset only goes on to its Dataset, whose examples may well be read apart.
        has_own = getattr(dataset, "__getitems__", None) is not None
        self._together = has_own and not apart
        self._one_by_one = has_own and apart and type(dataset) is not Subset

    def __getitem__(self, slot: Slot) -> tuple[Slot, Any]:
        try:
            found = self._read(slot)
            if not self._looked:
                self._looked = True
                # Some are made as the first example is read, or by a worker_init_fn: these are seeded too.
                now = own_generators(self._dataset, self._collate)
                if set(map(id, now)) - set(map(id, self._generators)):
                    self._generators = now
                    found = self._read(slot)
            return slot, found
        except HotlapError as error:
            return slot, Failed(str(error))

    def _read(self, slot: Slot) -> Any:
        self._seed_for(slot, slot.start)
        with running("training"):
            return pair(batch_of(self._dataset, slot.indices) if self._at_once else self._collate(self._items(slot)))

    def begin_worker(self, then: Callable[[int], Any] | None, parent: int | None, number: int) -> None:
        """Have this loader process end with its parent and `get_worker_info().dataset` in it be the user's, then call
        their worker_init_fn.
        """
        from torch.utils.data import get_worker_info

        end_with_parent(parent)
        # It refuses to be changed, but nothing of torch's reads its dataset again.
        object.__setattr__(get_worker_info(), "dataset", self._dataset)
        outlive_a_request()
        if then is not None:
            with running("training"):
                then(number)

    def _seed_for(self, slot: Slot, start: int) -> None:
        seed_generators(self._seed, "data", slot.epoch, slot.window, start, own=self._generators)

    def _items(self, slot: Slot) -> Any:
        if self._in_batches:
            return self._dataset[slot.indices[0]]
        if self._together:
            return self._dataset.__getitems__(list(slot.indices))
        dataset, items = self._dataset, list[Any]()
        try:
            # In place: a call for each example would cost a tiny model a hundredth of its step.
            for place, index in enumerate(slot.indices, slot.start):
                if self._apart:
                    self._seed_for(slot, place)
                items.append(dataset.__getitems__([index])[0] if self._one_by_one else dataset[index])
        except Exception as error:
            failed = slot.indices[len(items)]
            raise WorkloadError(f"the workload's `training` raised {describe(error)}, at example {failed!r}") from error
        return items


def collate(items: list[Any]) -> Any:
    """Examples as one batch. Raises WorkloadError where they are no pairs or can't be stacked."""
    from torch.utils.data import default_collate

    pair(items[0])
    try:
        return default_collate(items)
    except (RuntimeError, TypeError) as error:
        raise WorkloadError(
            f"the workload's `training` gives examples that can't be stacked into a batch ({error}); pad "
            "them to one size, or give an iterable of batches"
        ) from error


class Windows:
    """The windows of an order of slots, one after the other; loader processes read ahead."""

    def __init__(
        self, order: Iterator[Slot], reader: Reader, workload: Workload, *, workers: int = 0, **options: Any
    ) -> None:
        """`options` are a DataLoader's."""
        self._workload, self._axis = workload, batch_axis(workload)
        # In this process a DataLoader adds nothing but its own time, unless it has memory to pin.
        plain = not workers and not options.get("pin_memory")
        self._items: Iterator[Any] = (
            (reader[slot] for slot in order) if plain else iter(_loader(order, reader, workers, options))
        )

    def next(self) -> Window:
        """The next window."""
        slot, batch = self._next()
        parts = [self._micro_batch(slot, batch)]
        while len(parts) < slot.count:
            parts.append(self._micro_batch(*self._next()))
        return Window(epoch=slot.epoch, number=slot.window, micro_batches=tuple(parts))

    def close(self) -> None:
        """End the loader processes; one that is stuck, and so heeds nothing, is killed."""
        workers = list(getattr(self._items, "_workers", ()))
        try:
            self._items = iter(())
        finally:
            for worker in workers:
                if worker.is_alive():
                    worker.kill()

    def _next(self) -> tuple[Slot, Any]:
        try:
            slot, batch = next(self._items)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise LoaderDied(
                "a loader process ended by itself, most often for want of memory; go on with --resume, with fewer "
                "workers (--set workers=0)"
            ) from error
        if isinstance(batch, Failed):
            raise WorkloadError(batch.sentence)
        return slot, batch

    def _micro_batch(self, slot: Slot, batch: Any) -> MicroBatch:
        inputs, targets = batch
        rows = count_rows(inputs, self._axis)
        weight = 0.0 if slot.padding else loss_weight(self._workload, targets, rows)
        return MicroBatch(
            inputs=inputs, targets=targets, rows=rows, weight=weight, start=slot.start, indices=slot.indices
        )


def _loader(order: Iterator[Slot], reader: Reader, workers: int, options: dict[str, Any]) -> DataLoader[Any]:
    from torch.utils.data import DataLoader

    given: Any = {"multiprocessing_context": "fork" if workers else None, **options}
    context = given["multiprocessing_context"]
    method = context if isinstance(context, str | None) else context.get_start_method()
    # A fork server, which is their parent then, ends with this process.
    parent = None if method == "forkserver" else os.getpid()
    given["worker_init_fn"] = partial(reader.begin_worker, options.get("worker_init_fn"), parent)
    return DataLoader(
        reader,  # type: ignore[arg-type]
        batch_size=None,
        sampler=order,
        num_workers=workers,
        collate_fn=_as_it_is,
        **given,
    )


def loss_weight(workload: Workload, targets: Any, rows: int) -> float:
    """What the loss of these targets is averaged over: the workload's `loss_weight`, or the examples."""
    if workload.loss_weight is None:
        return float(rows)
    with running("loss_weight"):
        weight = float(workload.loss_weight(targets))
    if not 0 <= weight < float("inf"):
        raise WorkloadError(f"the workload's `loss_weight` gave {weight}; it must give a finite number from 0 on")
    return weight


def picked(one: MicroBatch, rows: Any, place: int, workload: Workload) -> MicroBatch:
    """A pass of these rows (a Tensor of indices) of one `of_tensors`, `place` rows after its beginning."""
    from torch.utils import _pytree as pytree

    def of(leaf: Any) -> Any:
        return None if leaf is None else leaf[rows]

    inputs, targets = pytree.tree_map(of, one.inputs), pytree.tree_map(of, one.targets)
    named = len(one.indices) == one.rows
    return replace(
        one,
        inputs=inputs,
        targets=targets,
        rows=len(rows),
        weight=loss_weight(workload, targets, len(rows)),
        part=one.part + place,
        indices=tuple(one.indices[row] for row in rows.tolist()) if named else one.indices,
    )


def of_tensors(one: MicroBatch) -> bool:
    """Whether it consists of dense Tensors of so many rows. What is none may belong to its rows, and stay as it is."""
    import torch
    from torch.utils import _pytree as pytree

    leaves = (leaf for leaf in pytree.tree_leaves((one.inputs, one.targets)) if leaf is not None)

    def is_dense(leaf: Any) -> bool:
        return isinstance(leaf, torch.Tensor) and leaf.layout is torch.strided and not leaf.is_nested

    return all(is_dense(leaf) and leaf.ndim and len(leaf) == one.rows for leaf in leaves)


def check_axes(inputs: Inputs, workload: Workload) -> None:
    """Raise WorkloadError where the inputs have other numbers of axes than those of `example`: rows, not batches."""
    with running("example"):
        wanted = workload.example(2)
    given, known = _flat(inputs), _flat(wanted)
    if given.keys() != known.keys():
        return  # The model's call tells what is wrong.
    for name, tensor in given.items():
        if tensor.ndim != known[name].ndim:
            raise WorkloadError(
                f"the workload's `training` gives inputs of {_axes(tensor)}, and `example` of {_axes(known[name])}; an "
                "iterable must give batches: put its examples together in a DataLoader(..., batch_size=N), or give a "
                "Dataset"
            )


def _axes(tensor: torch.Tensor) -> str:
    return f"{tensor.ndim} {'axis' if tensor.ndim == 1 else 'axes'} {list(tensor.shape)}"


def _flat(inputs: Inputs) -> dict[Any, torch.Tensor]:
    """The inputs' tensors by name, or by place."""
    kind = input_kind(inputs)
    if kind == "tensor":
        return {0: inputs}
    return dict(inputs) if kind == "dict" else dict(enumerate(inputs))


def batch_axis(workload: Workload) -> tuple[Any, int] | None:
    """An input, by its name or its place, and its axis that is the batch; None where it is axis 0 of the first."""
    if workload.dynamic is None:
        return None
    two, three = (_flat(make_example(workload, rows, {})) for rows in (2, 3))
    for name in two:
        sizes = zip(two[name].shape, three[name].shape, strict=True) if name in three else ()
        axis = next((index for index, size in enumerate(sizes) if size == (2, 3)), None)
        if axis is not None:
            return name, axis
    return None


def count_rows(inputs: Inputs, axis: tuple[Any, int] | None = None) -> int:
    """The rows of a batch: the size of the axis that `batch_axis` gave, else of axis 0 of its first input."""
    kind = input_kind(inputs)
    first = inputs if kind == "tensor" else next(iter(inputs.values())) if kind == "dict" else inputs[0]
    index = 0
    if axis is not None and axis[0] in (given := _flat(inputs)):
        first, index = given[axis[0]], axis[1]
    if first.ndim <= index:
        what = f"has {_axes(first)}" if first.ndim else "is a single number"
        raise WorkloadError(f"the first of `training`'s inputs {what}; axis {index} of it must be the batch")
    return int(first.shape[index])


def _as_it_is(batch: Any) -> Any:
    return batch
