"""channels_last: convolutions in NHWC order inside, inputs and outputs as they were."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from hotlap.core import Context, Form, Json, Model
from hotlap.techniques import ModelFacts

CHANGES: Mapping[Form, Form] = {"module": "module"}
PRECISION = None


def supports(facts: ModelFacts) -> str | None:
    """Models of 2-D convolutions that take images."""
    if not facts.has("Conv2d", "ConvTranspose2d"):
        return "the model has no 2-D convolution"
    return None if 4 in facts.input_ranks else "no input has four axes"


def variants(facts: ModelFacts) -> list[tuple[str, dict[str, Json]]]:
    """One."""
    return [("", {})]


def apply(model: Model, options: Mapping[str, Json], context: Context) -> Model:
    """A copy with weights in channels_last, which turns its four-axis inputs over."""
    import torch
    from torch.utils import _pytree as pytree

    class ChannelsLast(torch.nn.Module):
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            def turn(value: Any) -> Any:
                if isinstance(value, torch.Tensor) and value.dim() == 4:
                    return value.to(memory_format=torch.channels_last)
                return value

            args, kwargs = pytree.tree_map(turn, (args, kwargs))
            return self.inner(*args, **kwargs)

    inner = copy.deepcopy(model.value).to(memory_format=torch.channels_last)
    return Model(form="module", value=ChannelsLast(inner).eval(), signature=model.signature)
