"""What a run is made of: model, data, optimizer and what computes a step, made and checked for one set of settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from hotlap.errors import InputError
from hotlap.training import cutting, preparing, trimming
from hotlap.training.attributes import Attributes
from hotlap.training.averaging import Average
from hotlap.training.iterables import BatchesSource
from hotlap.training.loading import DatasetSource, Source, source_of
from hotlap.training.loop import Parts, Tell
from hotlap.training.processes import Processes
from hotlap.training.seeding import own_generators, seed_generators
from hotlap.training.settings import Settings
from hotlap.training.stepping import Stepper
from hotlap.workload.opened import Opened
from hotlap.workload.user_code import running

CHECKPOINTS = "checkpoints"


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


def check_trimming(opened: Opened, settings: Settings, processes: Processes) -> None:
    """Raise InputError where the settings ask for trimmed batches and that would change numbers."""
    found = trimming_of(opened, settings, processes) if settings.trim else None
    if found is not None and found.reason is not None:
        name = "trim=true" if settings.length_buckets == 1 else f"length_buckets={settings.length_buckets}"
        raise InputError(f"settings: {name}: {found.reason}; leave it out")


def by_length_of(
    opened: Opened, settings: Settings, processes: Processes, parts: Parts, drew: Sequence[str]
) -> trimming.Trimmed:
    """What passes by length change, by real batches of this workload in fp32. `parts` are made for `settings`, `drew`
    is what kernels.seen_in found."""
    if drew:
        reason = f"forward or the loss draw random numbers for a whole batch, perhaps ({drew[0]})"
        return trimming.Trimmed(kept=1.0, difference=0.0, reason=reason)
    found = trimming_of(opened, replace(settings, trim=True, length_buckets=2), processes)
    if found.reason is not None:
        return found
    cut = cutting.in_two(settings, parts.source.examples)
    own = cut is None or "micro_batch" in parts.source.locked
    whole = parts.source if cut is None or own else make_source(opened, replace(cut, micro_batch=None), processes)
    with undone(parts):
        why_not = cutting.why_not_by_length(parts, whole)
    return found if why_not is None else trimming.Trimmed(kept=1.0, difference=0.0, reason=why_not)


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
