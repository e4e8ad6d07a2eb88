"""Training data as windows: all that one process computes for one step of the optimizer.

What a user gives is one of three things. A map-style Dataset is read in an order of hotlap's own. A DataLoader over
one is taken apart, and its parts are read in its own order. Any other iterable of batches is gone through as it is.
Of the first two each batch depends on the seed and its place alone, so that a run finds its place again without
reading what came before, whatever loader processes had drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from hotlap.core import Json
from hotlap.errors import InputError, WorkloadError
from hotlap.training.at_once import AtOnce, check
from hotlap.training.iterables import BATCHES_LOCK, BatchesSource, check_shares, is_known_loader
from hotlap.training.order import Slot, slots, windows_in
from hotlap.training.probing import changing, draws, unseeded
from hotlap.training.reading import Reader, Window, Windows, collate
from hotlap.training.seeding import own_generators, seed_generators
from hotlap.training.settings import Settings
from hotlap.workload.roles import is_map_style
from hotlap.workload.user_code import running
from hotlap.workload.workload import Workload


class Source(Protocol):
    """Where windows come from. `windows` is how many an epoch has; None where only reading it tells.

    `examples` is what a Dataset holds. `locked` names the settings that this kind of data leaves no choice in.
    `warnings` say why a resumed run may not be exact.
    """

    windows: int | None
    examples: int | None
    locked: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def once(self) -> bool:
        """Whether what is read of it is gone, for whoever opens the workload again in this process, too."""
        ...

    @property
    def ahead(self) -> bool:
        """Whether `state` is past every window that was given, whatever the run's place is."""
        ...

    def epoch(self, number: int, first: int) -> Iterator[Window]:
        """The windows of an epoch from `first` on. Epochs are asked for in order."""
        ...

    def state(self, *, within_epoch: bool) -> Json:
        """What an iterable needs, besides epoch and window, to be taken up again; None if nothing.

        within_epoch: that is after a window of an epoch, else between two.
        """
        ...

    def check_at_once(self) -> AtOnce:
        """Whether its batches are the same where the Dataset is indexed once for each."""
        ...

    def close(self) -> None:
        """End the loader processes."""
        ...


def source_of(training: Any, workload: Workload, settings: Settings, *, rank: int = 0, world: int = 1) -> Source:
    """What `training` gave as windows. Raises WorkloadError or InputError where it can't be."""
    if is_map_style(training):
        return DatasetSource(training, workload, settings, rank=rank, world=world)
    if can_be_taken_apart(training):
        return LoaderSource(training, workload, settings, rank=rank, world=world)
    return BatchesSource(training, workload, settings, rank=rank, world=world)


class _ByPlace:
    """A source whose every batch depends on the seed and its place alone: begun at a place, it is read on from it."""

    windows: int | None
    ahead = once = False
    _reading: Windows | None = None

    def _slots(self, epoch: int, first: int, epochs: int) -> Iterator[Slot]:
        """Where to read what, from that place to the end of the last of so many epochs."""
        raise NotImplementedError

    def _reader(self, *, at_once: bool) -> Reader:
        raise NotImplementedError

    def _start(self, epoch: int, first: int) -> Windows:
        """All windows from that place to the end of the training."""
        raise NotImplementedError

    def check_at_once(self) -> AtOnce:
        """Read batches of the first epoch in both ways, and compare them."""
        return check(self._reader(at_once=False), self._reader(at_once=True), self._slots(0, 0, 1))

    def epoch(self, number: int, first: int) -> Iterator[Window]:
        """The windows of an epoch from `first` on; loader processes read on into the next epoch meanwhile."""
        assert self.windows is not None
        for _ in range(first, self.windows):
            if self._reading is None:
                self._reading = self._start(number, first)
            yield self._reading.next()

    def state(self, *, within_epoch: bool) -> Json:
        """Nothing: epoch and window say it all."""
        return None

    def close(self) -> None:
        """End the loader processes."""
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.close()


class DatasetSource(_ByPlace):
    """Windows of a map-style Dataset, whose order and randomness depend on the seed and the place alone."""

    locked: tuple[str, ...] = ()

    def __init__(self, dataset: Any, workload: Workload, settings: Settings, *, rank: int = 0, world: int = 1) -> None:
        with running("training"):
            self.examples: int | None = len(dataset)
        if not self.examples:
            raise WorkloadError("the workload's `training` is empty; give at least one example")
        self.windows: int | None = windows_in(self.examples, settings.batch_size)
        counting = changing(dataset)
        self.warnings, self.counts = counting or unseeded(dataset), bool(counting)
        self._dataset, self._workload, self._settings = dataset, workload, settings
        self._rank, self._world = rank, world
        self._generators = own_generators(dataset)
        self._draws = draws(dataset, self._generators)

    def leave_out_short_steps(self) -> None:
        """Have every epoch end before its last step where that is short, and not the only one."""
        assert self.examples is not None
        whole = self.examples // self._settings.batch_size
        if whole:
            self.examples, self.windows = whole * self._settings.batch_size, whole

    def _slots(self, epoch: int, first: int, epochs: int) -> Iterator[Slot]:
        settings = self._settings
        assert self.examples is not None
        return slots(
            self.examples,
            batch_size=settings.batch_size,
            micro_batch=settings.examples_a_pass,
            seed=settings.seed,
            epochs=epochs,
            epoch=epoch,
            window=first,
            rank=self._rank,
            world=self._world,
        )

    def _reader(self, *, at_once: bool) -> Reader:
        own, seed, apart = self._generators, self._settings.seed, self._draws
        return Reader(self._dataset, collate, seed=seed, generators=own, at_once=at_once, apart=apart)

    def _start(self, epoch: int, first: int) -> Windows:
        settings = self._settings
        return Windows(
            self._slots(epoch, first, settings.epochs),
            self._reader(at_once=settings.at_once),
            self._workload,
            workers=settings.workers,
            pin_memory=settings.pin,
            prefetch_factor=settings.prefetch if settings.workers else None,
        )


class LoaderSource(_ByPlace):
    """Windows of a DataLoader (torchdata's too) over a map-style Dataset, `accumulation` of its batches in each.

    Each epoch's order is what its sampler gives once all generators are seeded for that epoch; its Dataset, its
    collating and its number of loader processes are its own.
    """

    locked: tuple[str, ...] = BATCHES_LOCK

    def __init__(self, loader: Any, workload: Workload, settings: Settings, *, rank: int = 0, world: int = 1) -> None:
        check_shares(settings, world)
        _check_whole(loader, world)
        self._loader, self._workload, self._settings = loader, workload, settings
        self._rank, self._world = rank, world
        with running("training"):
            self.examples: int | None = len(loader.dataset)
            self.windows: int | None = windows_in(len(loader), settings.accumulation)
        # A sampler of the user's own may give keys of its own in the place of numbers from 0 on, and may count its
        # epochs itself.
        self._known = all(_is_of_torch(one) for one in _samplers(loader))
        # What a worker_init_fn opens can be read in a loader process only.
        readable = self._known and (loader.worker_init_fn is None or not loader.num_workers)
        self.warnings = (changing(loader.dataset) or unseeded(loader.dataset)) if readable else ()
        self._sampler = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
        self._checked: list[tuple[Any, ...]] | None = None

    def check_at_once(self) -> AtOnce:
        """As of any Dataset, where the DataLoader puts rows together as torch does and this process can read them."""
        from torch.utils.data import default_collate

        if self._loader.collate_fn is not default_collate or self._loader.batch_sampler is None:
            return AtOnce(examples=0, reason="the DataLoader makes batches in a way of its own")
        if self._loader.worker_init_fn is not None:
            return AtOnce(examples=0, reason="the DataLoader has a worker_init_fn, which may open what is read")
        # A sampler may count what is drawn of it: the training's first epoch takes the order that was checked.
        self._checked = self._order(0)
        return super().check_at_once()

    def _reader(self, *, at_once: bool) -> Reader:
        loader = self._loader
        return Reader(
            loader.dataset,
            loader.collate_fn,
            seed=self._settings.seed,
            generators=own_generators(loader.dataset, loader.collate_fn),
            in_batches=loader.batch_sampler is None,
            at_once=at_once,
        )

    def _start(self, epoch: int, first: int) -> Windows:
        loader, reader = self._loader, self._reader(at_once=self._settings.at_once)
        options = {name: getattr(loader, name) for name in ("pin_memory", "timeout", "worker_init_fn")}
        if loader.num_workers:
            options["prefetch_factor"] = loader.prefetch_factor
            options |= {"multiprocessing_context": loader.multiprocessing_context or "fork"}
        slots = self._slots(epoch, first, self._settings.epochs)
        return Windows(slots, reader, self._workload, workers=loader.num_workers, **options)

    def _slots(self, epoch: int, first: int, epochs: int) -> Iterator[Slot]:
        size = self._settings.accumulation
        # Of a sampler that may count its epochs itself those before are drawn again too.
        for number in range(epoch if self._known else 0, epochs):
            batches = self._order(number)
            if number < epoch:
                continue
            for window in range(first if number == epoch else 0, windows_in(len(batches), size)):
                group = list(enumerate(batches[window * size : (window + 1) * size]))
                mine = group[self._rank :: self._world]
                for place, indices in mine or group[:1]:
                    yield Slot(
                        epoch=number,
                        window=window,
                        start=place,
                        indices=indices,
                        count=len(mine) or 1,
                        total=len(group),
                        padding=not mine,
                    )

    def _order(self, epoch: int) -> list[tuple[Any, ...]]:
        """The indices of each batch of an epoch, as the sampler draws them for it."""
        if epoch == 0 and self._checked is not None:
            return self._checked
        loader, seed = self._loader, self._settings.seed
        seed_generators(seed, "data", epoch, own=own_generators(self._sampler, loader.sampler, loader.generator))
        with running("training"):
            for one in _samplers(loader):
                if hasattr(one, "set_epoch"):
                    one.set_epoch(epoch)
            drawn = list(self._sampler)
        if len(drawn) != len(loader):
            raise WorkloadError(
                f"the sampler of the workload's `training` gave {len(drawn)} batches in an epoch and its length is "
                f"{len(loader)}; have its __len__ say what it gives"
            )
        return [(batch,) if loader.batch_sampler is None else tuple(batch) for batch in drawn]


def can_be_taken_apart(training: Any) -> bool:
    """Whether it is a DataLoader that goes through a map-style Dataset in torch's own way, with a known length."""
    if not is_known_loader(training) or not is_map_style(training.dataset):
        return False
    try:
        with running("training"):
            len(training)
    except WorkloadError:
        return False
    return True


def _is_of_torch(sampler: Any) -> bool:
    return type(sampler).__module__.startswith(("torch.", "torchdata."))


def _samplers(loader: Any) -> list[Any]:
    """Those that the loader has, and those that they draw from."""
    found = list[Any]()
    for one in (loader.sampler, loader.batch_sampler):
        while one is not None and all(one is not other for other in found):
            found.append(one)
            one = getattr(one, "sampler", None)
    return found


def _check_whole(loader: Any, world: int) -> None:
    for one in _samplers(loader):
        shares = getattr(one, "num_replicas", 1)
        if world > 1 and shares > 1:
            raise InputError(
                f"`training` has a {type(one).__name__}, which gives each of {shares} processes a share; "
                "hotlap deals out the batches itself, so that most would never be seen: have it give all, as "
                "RandomSampler (shuffle=True) does"
            )
