"""fp16: weights and arithmetic in float16, on GPUs."""

from __future__ import annotations

from collections.abc import Mapping

from hotlap.core import Context, Form, Json, Model
from hotlap.techniques import ModelFacts
from hotlap.techniques.half import to_half

CHANGES: Mapping[Form, Form] = {"module": "module"}
PRECISION = "fp16"


def supports(facts: ModelFacts) -> str | None:
    """CUDA alone: CPUs have bf16 where they have anything."""
    return None if facts.device == "cuda" else "fp16 arithmetic is for GPUs; a CPU has bf16"


def variants(facts: ModelFacts) -> list[tuple[str, dict[str, Json]]]:
    """One."""
    return [("", {})]


def apply(model: Model, options: Mapping[str, Json], context: Context) -> Model:
    """A float16 copy with inputs and outputs as they were."""
    return to_half(model, "float16")
