"""An iterable that gives batches of its own, gone through as it is, and found again where a run goes on."""

from __future__ import annotations

import copy
import types
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from hotlap.core import Json
from hotlap.errors import InputError, WorkloadError
from hotlap.training.at_once import AtOnce
from hotlap.training.encoding import can_be_kept, same_values
from hotlap.training.order import windows_in
from hotlap.training.owners import Variables, owners_of, put, values_of, written_over
from hotlap.training.reading import MicroBatch, Window, batch_axis, count_rows, loss_weight
from hotlap.training.seeding import own_generators, put_back, seed_generators, state_of
from hotlap.training.settings import Settings
from hotlap.workload.evaluation import END
from hotlap.workload.roles import pair
from hotlap.workload.user_code import running
from hotlap.workload.workload import Workload

_LOADERS = ("torch.utils.data.dataloader", "torchdata.stateful_dataloader.stateful_dataloader")
"""Whose way of going through a Dataset is known, so that its parts may be read in its place."""
_PLAIN = (bool, int, float, str)
_MOST_KEPT = 100_000
"""Items of a list, or numbers of an array; larger ones are not looked at."""
BATCHES_LOCK = ("batch_size", "micro_batch", "workers", "prefetch", "pin")


class BatchesSource:
    """Windows of an iterable that gives batches of its own."""

    locked: tuple[str, ...] = BATCHES_LOCK

    def __init__(self, batches: Any, workload: Workload, settings: Settings, *, rank: int = 0, world: int = 1) -> None:
        check_shares(settings, world)
        self._batches, self._workload, self._settings = batches, workload, settings
        self._axis = batch_axis(workload)
        self._rank, self._world = rank, world
        self._fresh, self._kept = True, None
        self._elsewhere: list[Any] = []
        self._first = self._values()
        self._begun: dict[str, Any] = {}
        self._drawn: dict[str, Any] | None = None
        self._ended = False
        self.examples: int | None = None
        self.warnings: tuple[str, ...] = ()
        if getattr(batches, "persistent_workers", False):
            self.warnings = (
                "`training` is a DataLoader whose loader processes outlive an epoch (persistent_workers=True), and so "
                "does what their generators have drawn: a resumed run is exact with persistent_workers=False only",
            )
        self.windows = self._promised()

    def epoch(self, number: int, first: int) -> Iterator[Window]:
        """The windows of an epoch; those before `first` are read and left, unless a state brought them back."""
        window = first if self._begin(number, first) else 0
        if self._ended and window:
            return
        self._ended = False
        with running("training"):
            iterator = iter(self._batches)
        count = window * self._settings.accumulation
        while True:
            group: list[Any] = []
            while len(group) < self._settings.accumulation:
                seed_generators(self._settings.seed, "data", number, count)
                with running("training"):
                    batch = next(iterator, END)
                if self._drawn is None:
                    self._drawn = self._values()
                if batch is END:
                    break
                group.append(batch)
                count += 1
            if group and window >= first:
                yield self._window(group, number, window)
            if len(group) < self._settings.accumulation:
                self._ended = True
                return
            window += 1

    def _promised(self) -> int | None:
        """The windows of an epoch, where its __len__ says; that of an IterableDataset has none."""
        if not hasattr(self._batches, "__len__"):
            return None
        try:
            with running("training"):
                count = len(self._batches)
        except WorkloadError as error:
            if isinstance(error.__cause__, TypeError | NotImplementedError):
                return None
            raise
        return windows_in(count, self._settings.accumulation)

    @property
    def once(self) -> bool:
        """Whether `training` gives the same iterator each time, so that what is read of it is gone."""
        assert self._workload.training is not None
        if not self._is_an_iterator():
            return False
        stood = self.snapshot()
        with running("training"):
            again = self._workload.training()
        self.put_back(stood)
        return again is self._batches

    def leave_to(self, elsewhere: Iterable[Any]) -> None:
        """Owners of values that are kept as they are at the step, not as an epoch found them."""
        self._elsewhere = list(elsewhere)

    @property
    def ahead(self) -> bool:
        """Whether the iterable has a state of its own, which is past every window that was given."""
        return self._own_state() is not None

    def state(self, *, within_epoch: bool) -> Json:
        """The iterable's own state, where it has one that can be kept. Else those of its own numbers that have changed:
        as they are, or within an epoch as they were when that began; None where none have.
        """
        own = self._own_state()
        if own is not None:
            drawn = [state_of(one) for one in self._generators()]
            return {"own": own, "ended": within_epoch and self._ended, "generators": drawn}
        now = self._of_the_epoch() if within_epoch else self._values()
        changed = {name: value for name, value in now.items() if not _alike(self._first.get(name), value)}
        return {"values": changed} if changed else None

    def _own_state(self) -> Json:
        """None for a StatefulDataLoader's too: it lacks what its loader processes have drawn."""
        if not all(hasattr(self._batches, name) for name in ("state_dict", "load_state_dict")) or is_known_loader(
            self._batches
        ):
            return None
        with running("training"):
            found = self._batches.state_dict()
        return found if can_be_kept(found) else None

    def check_at_once(self) -> AtOnce:
        """They are read as they come."""
        return AtOnce(examples=0, reason="`training` gives batches of its own, which are read as they come")

    def load_state(self, state: Json) -> None:
        """Have the next epoch begin where `state` says, which is the window it is asked for from."""
        self._kept = state

    def snapshot(self) -> Json:
        """Where the iterable stands, for `put_back` in this process."""
        return copy.deepcopy({"own": self._own_state(), "values": self._values()})

    def put_back(self, snapshot: Json) -> None:
        """Have the iterable stand where it stood."""
        self._set_values(snapshot["values"])
        if snapshot["own"] is not None:
            self._load(snapshot)

    def close(self) -> None:
        """Nothing to end."""

    def _begin(self, epoch: int, first: int) -> bool:
        """Make ready for an epoch, and put back what was kept of another run; whether the iterable goes on at window
        `first` by itself then.
        """
        kept: dict[str, Any] = self._kept or {}
        self._kept = None
        self._set_values(kept.get("values", {}))
        goes_on = "own" in kept
        if goes_on and not first and not self._is_an_iterator():
            self._load(kept)
        self._drawn = None
        self._begun = self._values()  # Before what `training` changes when it is called.
        self._make_ready(epoch)
        if goes_on:
            self._ended = kept["ended"]
            # What is its own iterator is made anew for the next epoch.
            if first and not (self._ended and self._is_an_iterator()):
                self._draw_on(kept.get("generators", ()))
                self._load(kept)
        return goes_on

    def _set_values(self, values: Json) -> None:
        now, owners = self._values(), self._owners()
        for name, value in values.items():
            owner, _, attribute = name.rpartition(".")
            # A DataLoader refuses that some of its own are set at all.
            if owner not in owners or (name in now and _alike(now[name], value)):
                continue
            if not written_over(values_of(owners[owner]).get(attribute), value):
                put(owners[owner], attribute, value)

    def _make_ready(self, epoch: int) -> None:
        """Seed every generator for the epoch, before the iterable is made anew and after."""
        seed, training = self._settings.seed, self._workload.training
        assert training is not None
        if self._is_an_iterator() and (epoch or not self._fresh):
            seed_generators(seed, "data", epoch, own=own_generators(training))
            with running("training"):
                self._batches = training()
        self._fresh = False
        seed_generators(seed, "data", epoch, own=self._generators())

    def _load(self, kept: Json) -> None:
        with running("training"):
            self._batches.load_state_dict(kept["own"])

    def _draw_on(self, states: Sequence[Any]) -> None:
        """Have its generators stand where they stood within the epoch, should `load_state_dict` not see to that."""
        generators = self._generators()
        if [type(state_of(one)) for one in generators] == [type(state) for state in states]:
            for generator, state in zip(generators, states, strict=True):
                put_back(generator, state)

    def _generators(self) -> list[Any]:
        return own_generators(self._batches, self._workload.training)

    def _owners(self) -> dict[str, Any]:
        """The iterable and the Dataset that it reads from; where it is made anew for each epoch, what makes it."""
        if self._is_an_iterator():
            return dict(owners_of({"training": self._workload.training}).by_place)
        dataset = getattr(self._batches, "dataset", None)
        return {"batches": self._batches} | ({} if dataset is None else {"dataset": dataset})

    def _of_the_epoch(self) -> dict[str, Any]:
        """The values as the epoch found them, but for those that change after its first batch and that the model, the
        loss or the optimizer reaches too: they are kept with these, as they are at the step."""
        now, drawn = self._values(), self._drawn or {}
        apart = [name for name in self._shared() if name in now and not _alike(now[name], drawn.get(name))]
        return {name: value for name, value in self._begun.items() if name not in apart}

    def _shared(self) -> Iterator[str]:
        if not self._is_an_iterator():
            return
        variables = [one for one in self._elsewhere if isinstance(one, Variables)]
        names = {(id(one.everyone), name) for one in variables for name in one.names}
        known = set(map(id, self._elsewhere))
        for place, one in self._owners().items():
            of_file = id(one.everyone) if isinstance(one, Variables) else None
            yield from (f"{place}.{name}" for name in values_of(one) if id(one) in known or (of_file, name) in names)

    def _values(self) -> dict[str, Any]:
        """What they keep from one epoch to the next, by owner and name: numbers, texts, and lists, arrays and tensors
        that may be shuffled in their place, each as it is now."""
        return {
            f"{place}.{name}": value
            for place, one in self._owners().items()
            for name, value in _kept_values(one).items()
        }

    def _is_an_iterator(self) -> bool:
        """Whether it is its own iterator, which can be gone through once only."""
        return hasattr(self._batches, "__next__")

    def _window(self, group: list[Any], epoch: int, number: int) -> Window:
        mine = [(place, batch) for place, batch in enumerate(group) if place % self._world == self._rank]
        parts = []
        for place, batch in mine or [(self._rank, group[0])]:
            inputs, targets = pair(batch)
            rows = count_rows(inputs, self._axis)
            weight = loss_weight(self._workload, targets, rows) if mine else 0.0
            parts.append(MicroBatch(inputs=inputs, targets=targets, rows=rows, weight=weight, start=place))
        return Window(epoch=epoch, number=number, micro_batches=tuple(parts))


def _kept_values(owner: Any) -> dict[str, Any]:
    """By name; copies of what can change in its place."""
    import numpy as np
    import torch

    if not hasattr(owner, "__dict__") and not isinstance(owner, Variables | types.CellType):
        return {}
    found: dict[str, Any] = {}
    for name, value in values_of(owner).items():
        if isinstance(value, _PLAIN):
            found[name] = value
        elif type(value) is list and len(value) <= _MOST_KEPT and all(isinstance(one, _PLAIN) for one in value):
            found[name] = [*value]
        elif type(value) is np.ndarray and value.size <= _MOST_KEPT and can_be_kept(value):
            found[name] = value.copy()
        elif type(value) is torch.Tensor and value.numel() <= _MOST_KEPT and can_be_kept(value):
            found[name] = value.detach().clone()
    return found


def _alike(one: Any, other: Any) -> bool:
    import numpy as np
    import torch

    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return same_values(one, other)
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    return type(one) is type(other) and bool(one == other)


def is_known_loader(training: Any) -> bool:
    """Whether it is torch's or torchdata's loader, and goes through its Dataset as that does."""
    return getattr(getattr(type(training), "__iter__", None), "__module__", None) in _LOADERS


def check_shares(settings: Settings, world: int) -> None:
    """Raise InputError where a step has fewer batches than there are processes."""
    if settings.accumulation < world:
        raise InputError(
            f"`training` is an iterable of batches, which {world} processes share batch by batch: "
            f"give --set accumulation={world} or a multiple of it; a run that goes on keeps its accumulation, for "
            f"{settings.accumulation} process{'es' if settings.accumulation > 1 else ''} at most"
        )
