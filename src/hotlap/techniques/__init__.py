"""Techniques: one file each, found through `TECHNIQUES`. A technique is a module that has the names of `Technique`.

Adding one: its file, a line below, its test beside the others (the contract suite finds it through this table).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Protocol, cast

from hotlap.core import Context, Device, Form, Json, Model

TECHNIQUES = {
    "channels_last": "hotlap.techniques.channels_last",
    "bf16": "hotlap.techniques.bf16",
    "fp16": "hotlap.techniques.fp16",
    "static_int8": "hotlap.techniques.static_int8",
    "nncf_int8": "hotlap.techniques.nncf_int8",
    "dynamic_int8": "hotlap.techniques.dynamic_int8",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What a technique may ask about a model without having it.

    `layers` counts leaf modules by class name; `input_ranks` is the rank of each input; `device` is where the
    candidate will run; `has_calibration` says whether calibration data exists (`calibration_missing`: why not);
    `int8_overflows`: the CPU adds products of int8 in 16 bits, which weights of the full range overflow.
    """

    layers: Mapping[str, int] = field(default_factory=dict)
    input_ranks: tuple[int, ...] = ()
    device: Device = "cpu"
    has_calibration: bool = False
    calibration_missing: str = ""
    int8_overflows: bool = False

    def has(self, *kinds: str) -> bool:
        """Whether a leaf module of any of these kinds is there (by a part of its class name)."""
        return any(kind in layer for layer in self.layers for kind in kinds)


class Technique(Protocol):
    """What each file of this folder provides, as module-level names."""

    CHANGES: Mapping[Form, Form]
    """What it takes, and what it gives for that."""
    PRECISION: str | None
    """The number format that it brings in; None where it keeps weights and number format."""

    def supports(self, facts: ModelFacts) -> str | None:
        """Why this technique is of no use for such a model, or None."""

    def variants(self, facts: ModelFacts) -> list[tuple[str, dict[str, Json]]]:
        """Option sets worth trying, each (short label, options); the likeliest first."""

    def apply(self, model: Model, options: Mapping[str, Json], context: Context) -> Model:
        """A new model; the one given stays as it is. Raises CandidateFailed where it can't."""


def get(name: str) -> Technique:
    """The technique of that name."""
    return cast(Technique, import_module(TECHNIQUES[name]))
