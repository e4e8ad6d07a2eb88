"""The set-ups that are tried: which changes make sense for a model, and why the others do not. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hotlap.core import Json
from hotlap.training.settings import Settings
from hotlap.training.trimming import NO_PADDING

_LEAST_PASS = 8
"""Passes of fewer examples are all overhead."""
_LEAST_WAIT = 0.02
"""A step that waits a smaller share of its time for data has nothing to gain from loader processes."""
DATA_BOUND = 0.5
"""A step that waits longer than this share of its time for data is bound by loading."""
_LOADING_FIRST = 0.1
"""From this share on, what speeds up loading is tried before all else."""
_MOST_KEPT = 1.25
"""Blocks of hundreds of megabytes leave holes that none of them fits: a model with 32,000 classes held 2.4 times as
much."""
_HARMLESS = frozenset({"trim", "fused", "foreach", "keep_memory", "fast_dropout", "at_once", "pin"})
_AGAIN = _HARMLESS | {"layout"}
_WORTH_PASSES = 0.9
"""Two passes by length count as harmless where they leave so little of what trimming leaves: one more pass takes its
own time, of which there is little where a step takes long."""
_LINEAR = ("SGD",)
"""Optimizers whose learning rate grows with the batch (Goyal et al., 2017); with its square root for those that
divide by the gradient's own size (Malladi et al., 2022)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of the set-up by name; `reason` says why it is not tried, where it is not.

    `upon`: names of changes; it is tried only where one of them was taken. `loading`: it speeds up what a step waits
    for, the data. `holds_more`: it may take memory, so that it is left out where a training then holds more than it
    may on the epoch's largest batch. `most_memory`: so many times what the workload's own set-up holds there, at most.
    `within`: the name of a change that it is a part of; where that was taken, it is not tried again. `harmless`: it
    hardly ever slows a step down, nor changes what is learnt.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None
    upon: tuple[str, ...] = ()
    loading: bool = False
    holds_more: bool = False
    most_memory: float = math.inf
    within: str | None = None
    harmless: bool = False


def changes(
    study: Json,
    settings: Settings,
    *,
    compiler: bool,
    loading_share: float = _LEAST_WAIT,
    other_batch_sizes: bool = False,
) -> list[Change]:
    """Every change, in the order to try them in: those that gain most, most often, first.

    Where a step waits for data for a good part of its time, that is loading. On a CPU that has no bf16 arithmetic bf16
    comes last: PyTorch's kernels take many times as long there.

    `study` is what timing.study gave, `loading_share` what share of a step waits for data. A change that would
    change what a step computes is never tried, other batch sizes only where they are asked for.
    """
    cuda = settings.device == "cuda"
    found = [
        Change(name="trimmed padding", settings={"trim": True}, reason=study["trim"]["reason"]),
        Change(name="bf16", settings={"precision": "bf16"}),
        Change(
            name="fp16",
            settings={"precision": "fp16"},
            reason=None if cuda else "on a CPU bf16 takes as little and does not overflow",
        ),
        Change(
            name="channels_last",
            settings={"layout": "channels_last"},
            reason=None if study["images"] else "no weight has 4 axes",
        ),
        Change(
            name="attention as plain products",
            settings={"attention": "math"},
            reason="on CUDA torch's fused kernels are the fastest"
            if cuda
            else _kernel_reason(study, "attention", without="the model does not call torch's fused attention"),
        ),
        Change(
            name="fast dropout",
            settings={"fast_dropout": True},
            reason="on CUDA masks are drawn fast as it is"
            if cuda
            else _kernel_reason(study, "masked", without="a step draws no large masks"),
        ),
        *_by_length(study),
        Change(
            name="fused optimizer",
            settings={"fused": True},
            reason=None if study["fused"] else f"{study['optimizer']} has no fused form",
        ),
    ]
    found.append(
        Change(
            name="kept memory",
            settings={"keep_memory": True},
            reason=study["kept_memory"]["reason"],
            holds_more=True,
            most_memory=_MOST_KEPT,
        )
    )
    if study["foreach"] and not study["fused"]:
        found.append(Change(name="foreach optimizer", settings={"foreach": True}))
    loading = _loading(study)
    found = [*loading, *found] if loading_share > _LOADING_FIRST else [*found, *loading]
    if cuda:
        found.append(Change(name="pinned memory", settings={"pin": True}, reason=_locked("pin", study)))
    found += _smaller_passes(study, settings)
    found.append(
        Change(name="compile", settings={"compile": True}, reason=None if compiler else "there is no C++ compiler here")
    )
    found += _batch_sizes(study, settings) if other_batch_sizes else []
    if not study["bf16_arithmetic"]:
        found.sort(key=lambda change: change.name == "bf16")
    if not settings.checkpointing:
        found.append(Change(name="checkpointing", reason="it saves memory, not time; tried where memory runs out"))
    return found


def once_more(tried: Sequence[Change], rows: Sequence[Mapping[str, Any]]) -> Change | None:
    """The harmless changes that one look found no faster, together, and the layout; None where there is none of them.

    One look at one process of each is easily wrong where processes of the same thing differ by much, and one may bring
    more upon what was taken after it: a layout upon bf16 and a fused optimizer.
    """
    rejected = {row["name"] for row in rows if row["status"] == "rejected" and "speedup" in row}
    rejected -= {one.within for one in tried}  # Its parts are here by themselves.
    left = [one for one in tried if one.name in rejected and one.settings.keys() <= _AGAIN]
    whole = _joined(left) if left else None
    return whole and replace(whole, name=f"{whole.name}, once more")


def together(found: Sequence[Change], loading_share: float) -> list[Change]:
    """The changes with a first one that is several of them at once: those that hardly ever slow a step down, nor change
    what is learnt. For where there is no time to try each alone; as they are where there are not two.
    """
    parts = [
        one
        for one in found
        if (one.harmless or one.settings.keys() <= _HARMLESS) and not (one.reason or idle(one, loading_share))
    ]
    if len(parts) < 2:
        return list(found)
    whole, names = _joined(parts), {one.name for one in parts}
    alone = [replace(one, within=whole.name) if one in parts else one for one in found]
    return [whole, *(replace(one, upon=(*one.upon, whole.name)) if names & {*one.upon} else one for one in alone)]


def _joined(parts: Sequence[Change]) -> Change:
    return Change(
        name=" + ".join(one.name for one in parts),
        settings={key: value for one in parts for key, value in one.settings.items()},
        holds_more=any(one.holds_more for one in parts),
        most_memory=min(one.most_memory for one in parts),
    )


def idle(change: Change, loading_share: float) -> str | None:
    """Why a change brings nothing to a step that waits such a share of its time for data; None where it may."""
    if not change.loading or loading_share >= _LEAST_WAIT:
        return None
    return f"a step waits {loading_share:.1%} of its time for data: there is nothing to gain"


def proposal(own: Settings, best: Settings, optimizer: str) -> str | None:
    """What to do about the learning rate where the best set-up has another batch size; None where it has the same."""
    factor = best.batch_size / own.batch_size
    if factor == 1:
        return None
    linear = optimizer in _LINEAR
    rate = factor if linear else factor**0.5
    law = "linearly, Goyal et al. 2017" if linear else "with the square root, Malladi et al. 2022"
    return (
        f"steps of {best.batch_size} examples instead of {own.batch_size} change the result; hotlap leaves the "
        f"learning rate as it is. Usual for {optimizer}: {rate:.3g} times the rate ({law}), after a warm-up"
    )


def thriftier(study: Json, settings: Settings) -> list[Change]:
    """Set-ups of the same result that need less memory, the least change first."""
    found = []
    if study["repeated"]:
        found.append(Change(name="checkpointing", settings={"checkpointing": True}))
    size = _rows_a_pass(study, settings) // 2
    while study["in_passes"]["reason"] is None and "micro_batch" not in study["locked"] and size >= 1:
        found.append(Change(name=f"passes of {size}", settings={"micro_batch": size}))
        size //= 2
    return found


def to_prove(own: Settings, best: Settings) -> list[Settings]:
    """What a proof tries, in turn: the best, then the best in the workload's own number format, which rounds as it
    does."""
    plainer = replace(best, precision=own.precision)
    return [best] if plainer in (best, own) else [best, plainer]


def _loading(study: Json) -> list[Change]:
    reason = _locked("workers", study) or study.get("loaders", {}).get("reason")
    names = "1 loader process", "2 loader processes"
    found = [
        Change(name="batches read at once", settings={"at_once": True}, reason=study["at_once"]["reason"]),
        Change(name=names[0], settings={"workers": 1}, reason=reason, holds_more=True),
        Change(name=names[1], settings={"workers": 2}, reason=reason, holds_more=True),
        Change(name="4 batches read ahead", settings={"prefetch": 4}, reason=reason, upon=names, holds_more=True),
    ]
    return [replace(change, loading=True) for change in found]


def _locked(knob: str, study: Json) -> str | None:
    return "`training` gives batches of its own, which are read as they come" if knob in study["locked"] else None


def _kernel_reason(study: Json, seen: str, *, without: str) -> str | None:
    """Why another of torch's kernels on the CPU is not tried: a step is `without` what it stands in for."""
    found = study["kernels"]
    return found["reason"] or (None if found[seen] else without)


def _by_length(study: Json) -> list[Change]:
    """Two passes, then four where two were faster."""
    of_trimming = study["trim"]["reason"]
    reason = of_trimming if of_trimming not in (None, NO_PADDING) else study["length_buckets"]["reason"]
    two, four = ({"trim": True, "length_buckets": count} for count in (2, 4))
    worth = study["length_buckets"].get("kept", 1.0) <= _WORTH_PASSES * study["trim"].get("kept", 1.0)
    first = Change(name="2 passes by length", settings=two, reason=reason, harmless=worth)
    return [first, Change(name="up to 4 passes by length", settings=four, reason=reason, upon=(first.name,))]


def _smaller_passes(study: Json, settings: Settings) -> list[Change]:
    """Half of what a pass has, then a quarter where halves were faster: a smaller pass may stay in the cache."""
    rows = _rows_a_pass(study, settings)
    sizes = rows // 2, rows // 4
    reason = _locked("micro_batch", study) or study["in_passes"]["reason"]
    found: list[Change] = []
    for size in sizes:
        few = f"passes of {size} examples are all overhead" if size < _LEAST_PASS else None
        upon = tuple(change.name for change in found)
        found.append(
            Change(name=f"passes of {size}", settings={"micro_batch": size}, reason=reason or few, upon=upon[-1:])
        )
    return found


def _rows_a_pass(study: Json, settings: Settings) -> int:
    """The most examples that a pass has: a batch size may be larger than the data."""
    return min(settings.examples_a_pass, study["examples"] or settings.examples_a_pass)


def _batch_sizes(study: Json, settings: Settings) -> list[Change]:
    found: list[Change] = []
    for factor in (2, 4):
        size = settings.batch_size * factor
        reason = _locked("batch_size", study)
        if reason is None and size > study["examples"]:
            reason = f"the data has {study['examples']:,} examples only"
        steps = -(-(study["examples"] or 0) // size) * settings.epochs
        if reason is None and settings.warmup > steps:
            reason = f"the whole training has {steps:,} steps then, and the warmup {settings.warmup:,}"
        upon = tuple(change.name for change in found)
        settings_changed = {"batch_size": size}
        found.append(
            Change(name=f"batch size {size}", settings=settings_changed, reason=reason, upon=upon, holds_more=True)
        )
    return found
