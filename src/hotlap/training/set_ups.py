"""The set-ups that are tried: which changes make sense for a model, and why the others do not. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hotlap.core import Json
from hotlap.training.settings import Settings

_LEAST_PASS = 8
"""Passes of fewer examples are all overhead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of the set-up by name; `reason` says why it is not tried, where it is not."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None


def changes(study: Json, settings: Settings, *, compiler: bool) -> list[Change]:
    """Every change, in the order to try them in: those that gain most, most often, first.

    `study` is what timing.study gave. A change that would change what a step computes is never tried.
    """
    cuda = settings.device == "cuda"
    found = [
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
            name="fused optimizer",
            settings={"fused": True},
            reason=None if study["fused"] else f"{study['optimizer']} has no fused form",
        ),
    ]
    found += [_loading(name, count, study) for name, count in (("1 loader process", 1), ("2 loader processes", 2))]
    if cuda:
        found.append(Change(name="pinned memory", settings={"pin": True}, reason=_locked("pin", study)))
    found.append(_smaller_passes(study, settings))
    found.append(
        Change(name="compile", settings={"compile": True}, reason=None if compiler else "there is no C++ compiler here")
    )
    found.append(Change(name="checkpointing", reason="it saves memory, not time; tried where memory runs out"))
    return found


def thriftier(study: Json, settings: Settings) -> list[Change]:
    """Set-ups of the same result that need less memory, the least change first."""
    found = []
    if study["repeated"]:
        found.append(Change(name="checkpointing", settings={"checkpointing": True}))
    size = settings.batch_size // 2
    while not study["not_exact"] and "micro_batch" not in study["locked"] and size >= 1:
        found.append(Change(name=f"passes of {size}", settings={"micro_batch": size}))
        size //= 2
    return found


def to_prove(own: Settings, best: Settings) -> list[Settings]:
    """What a proof tries, in turn: the best, then the best in the workload's own number format, which rounds as it
    does."""
    plainer = replace(best, precision=own.precision)
    return [best] if plainer in (best, own) else [best, plainer]


def _loading(name: str, count: int, study: Json) -> Change:
    return Change(name=name, settings={"workers": count}, reason=_locked("workers", study))


def _locked(knob: str, study: Json) -> str | None:
    return "`training` gives batches of its own, which are read as they come" if knob in study["locked"] else None


def _smaller_passes(study: Json, settings: Settings) -> Change:
    size = settings.batch_size // 2
    name, reason = f"passes of {size}", _locked("micro_batch", study)
    if reason is None and study["not_exact"]:
        kinds = " and ".join(study["not_exact"])
        reason = f"layers with {kinds} would give another result"
    if reason is None and size < _LEAST_PASS:
        reason = f"passes of {size} examples are all overhead"
    return Change(name=name, settings={"micro_batch": size}, reason=reason)
