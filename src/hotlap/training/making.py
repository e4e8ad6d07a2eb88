"""What a run is made of: model, data, optimizer and what computes a step, made and checked for one set of settings."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path

from hotlap.errors import InputError, WorkloadError
from hotlap.training import cutting, kernels, preparing, trimming
from hotlap.training.attributes import Attributes
from hotlap.training.averaging import Average
from hotlap.training.iterables import BatchesSource
from hotlap.training.loading import DatasetSource, Source, source_of
from hotlap.training.loop import Parts, Tell
from hotlap.training.processes import Processes
from hotlap.training.reading import Window
from hotlap.training.seeding import own_generators, seed_generators
from hotlap.training.settings import Settings
from hotlap.training.stepping import Stepper
from hotlap.workload.opened import Opened
from hotlap.workload.user_code import running

CHECKPOINTS = "checkpoints"
_WINDOWS = 3
"""Of so many a few rows show what ties rows together."""


def make_parts(opened: Opened, settings: Settings, folder: Path, processes: Processes, tell: Tell) -> Parts:
    """All that a run is made of, checked: model, data, optimizer, and what computes a step."""
    workload = opened.workload
    model = preparing.prepare_model(opened.loaded, settings, beside=opened.model)
    source = make_source(opened, settings, processes)
    if settings.sharding == "fsdp2" and processes.world > 1:
        processes.share(model, settings)
    optimizer = preparing.prepare_optimizer(workload, model, settings)
    attributes = Attributes(model, optimizer, loss=workload.loss, loss_weight=workload.loss_weight)
    if isinstance(source, BatchesSource):
        source.leave_to(attributes.owners)
    return Parts(
        opened=replace(opened, model=model),
        settings=settings,
        model=model,
        optimizer=optimizer,
        stepper=Stepper(model, workload, optimizer, settings, processes),
        average=Average(model, settings.ema) if settings.ema is not None else None,
        attributes=attributes,
        source=source,
        processes=processes,
        records=None,
        checkpoints=folder / CHECKPOINTS,
        tell=tell,
    )


def make_source(opened: Opened, settings: Settings, processes: Processes) -> Source:
    """The training data as windows: of a Dataset, or of an iterable's own batches."""
    workload = opened.workload
    assert workload.training is not None
    seed_generators(settings.seed, "training", own=own_generators(workload.training))
    with running("training"):
        training = workload.training()
    source = source_of(training, workload, settings, rank=processes.rank, world=processes.world)
    if settings.accumulation > 1 and isinstance(source, DatasetSource):
        raise InputError(
            f"settings: accumulation={settings.accumulation}: `training` is a Dataset, whose steps have batch_size "
            "examples; set batch_size, and micro_batch to compute a step in passes of so many"
        )
    changed = [name for name in source.locked if getattr(settings, name) != getattr(Settings(), name)]
    changed = [name for name in changed if getattr(settings, name) != getattr(workload, name, None)]
    if changed:
        raise InputError(
            f"settings: {', '.join(changed)} can't be set: `training` gives batches of its own; set them there, or "
            "give a Dataset"
        )
    return source


def trimming_of(opened: Opened, settings: Settings, processes: Processes) -> trimming.Trimmed:
    """What cutting off padding, in passes by length if so set, changes, by real batches of this workload in fp32."""
    plain, apart = settings.for_comparing(), processes.apart()
    other = replace(plain, trim=True, length_buckets=settings.length_buckets)
    parts = [make_parts(opened, one, Path(), apart, lambda event: None) for one in (plain, other)]
    if parts[0].source.once:
        return trimming.Trimmed(kept=1.0, difference=0.0, reason="`training` gives the same iterator each time")
    with undone(parts[0]):
        tolerance = cutting.TOLERANCE if other.length_buckets > 1 else trimming.TOLERANCE
        return trimming.check(parts[0], parts[1], processes, tolerance)


def by_length_of(
    opened: Opened, settings: Settings, processes: Processes, parts: Parts | None = None
) -> trimming.Trimmed:
    """What passes by length change, by real batches of this workload in fp32. `parts`: some that are made for fp32."""
    # Parts of its own are gone before others are made.
    reasons = processes.gathered(
        _why_not_by_length(
            parts or make_parts(opened, settings.for_comparing(), Path(), processes.apart(), lambda event: None)
        )
    )
    reason = next((one for one in reasons if one is not None), None)
    if reason is not None:
        return trimming.Trimmed(kept=1.0, difference=0.0, reason=reason)
    in_two = replace(settings, trim=True, length_buckets=max(2, settings.length_buckets))
    return trimming_of(opened, in_two, processes)


def _why_not_by_length(parts: Parts) -> str | None:
    workload = parts.opened.workload
    if parts.source.once:
        return "`training` gives the same iterator each time"
    with undone(parts):
        windows = [trimming.few_of(one, cutting.FEW, workload) for one in islice(parts.source.epoch(0, 0), _WINDOWS)]
        parts.source.close()
        if all(trimming.lengths(one.micro_batches[0]) is None for one in windows):
            return trimming.ONE_LENGTH
        try:
            drew = _drew_for_all(parts, windows[0])
        except WorkloadError as error:
            return f"a few rows of a batch could not be computed alone: {error}"
        if drew:
            return f"forward or the loss draw random numbers for a whole batch, perhaps ({drew[0]})"
        return cutting.why_not_by_length(parts, windows)


def _drew_for_all(parts: Parts, window: Window) -> list[str]:
    """What a pass draws that may be for all of its rows: no mask, or one that is as large for half of them."""
    half = cutting.halved(window, parts.opened.workload)
    whole, fewer = (kernels.seen_in(parts.stepper, one.micro_batches[0]) for one in (window, half))
    if whole.masks and (len(whole.masks) != len(fewer.masks) or any(map(operator.eq, whole.masks, fewer.masks))):
        return [*whole.drew, "a mask for all rows"]
    return whole.drew


def look_at_casts(parts: Parts) -> None:
    """Have autocast cast weights once for all passes of a step that are made by length, where a few rows show that it
    changes nothing. Before the first step."""
    settings = parts.settings
    several = settings.length_buckets > 1 and settings.precision != "fp32"
    source = parts.source
    if (
        not several
        or settings.checkpointing
        or parts.processes.world > 1
        or source.once
        or getattr(source, "counts", False)
    ):
        return
    with undone(parts):
        # Another one: what is read here must not be missing from the run, nor count in it.
        other = make_source(parts.opened, replace(settings, workers=0, pin=False), parts.processes)
        try:
            window = next(iter(other.epoch(0, 0)), None)
            if window is not None:
                few = cutting.halved(trimming.few_of(window, cutting.FEW, parts.opened.workload), parts.opened.workload)
                parts.stepper.casts_once = cutting.casts_alike(parts, few)
        except WorkloadError:
            pass  # What the data or the loss has to say, it says as it is trained on.
        finally:
            other.close()


def check_trimming(opened: Opened, settings: Settings, processes: Processes) -> list[str]:
    """Raise InputError where the settings ask for trimmed batches and that would change numbers; what to warn of."""
    if not settings.trim:
        return []
    by_length = settings.length_buckets > 1
    name, found = "trim=true", trimming_of(opened, replace(settings, length_buckets=1), processes)
    if by_length and found.reason in (None, trimming.NO_PADDING):
        # One that has a short row is padded within, where no column is padding in all.
        name, found = f"length_buckets={settings.length_buckets}", by_length_of(opened, settings, processes)
    if found.reason in (trimming.NO_PADDING, trimming.ONE_LENGTH):
        return [f"{name}: {found.reason} of those that were looked at: there was nothing to check it by"]
    if found.reason is not None:
        raise InputError(f"settings: {name}: {found.reason}; leave it out")
    return []


def check_at_once(parts: Parts) -> None:
    """Raise InputError where the settings ask for batches read at once and the Dataset would give other ones."""
    found = parts.source.check_at_once() if parts.settings.at_once else None
    if found is not None and found.reason is not None:
        raise InputError(f"settings: at_once=true: {found.reason}; leave it out")


@contextmanager
def undone(parts: Parts) -> Iterator[None]:
    """What steps within the block make of the user's own objects is put back after it, but for model and optimizer."""
    source = parts.source if isinstance(parts.source, BatchesSource) else None
    stood = source.snapshot() if source is not None else None
    try:
        yield
    finally:
        parts.attributes.put_back()
        if source is not None:
            source.put_back(stood)
