"""bf16: weights and arithmetic in bfloat16."""

from __future__ import annotations

from collections.abc import Mapping

from hotlap.core import Context, Form, Json, Model
from hotlap.techniques import ModelFacts
from hotlap.techniques.half import to_half

CHANGES: Mapping[Form, Form] = {"module": "module"}
PRECISION = "bf16"


def supports(facts: ModelFacts) -> str | None:
    """Any model; whether it pays is measured."""
    return None


def variants(facts: ModelFacts) -> list[tuple[str, dict[str, Json]]]:
    """One."""
    return [("", {})]


def apply(model: Model, options: Mapping[str, Json], context: Context) -> Model:
    """A bfloat16 copy with inputs and outputs as they were."""
    return to_half(model, "bfloat16")
