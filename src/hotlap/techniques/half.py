"""What bf16 and fp16 share: weights and arithmetic in 16 bits, inputs and outputs as they were."""

from __future__ import annotations

import copy
import functools
from typing import Any

from hotlap.core import Model


def to_half(model: Model, dtype_name: str) -> Model:
    """A copy of the module in that dtype, whose floating-point inputs are cast going in, its outputs coming out."""
    import torch
    from torch.utils import _pytree as pytree

    dtype = getattr(torch, dtype_name)

    def narrow(value: Any) -> Any:
        return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    def widen(value: Any) -> Any:
        return value.float() if isinstance(value, torch.Tensor) and value.dtype == dtype else value

    class Half(torch.nn.Module):
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner = inner
            given = inner.forward

            # It keeps the names of the user's parameters, by which torch.export is told which axes vary.
            @functools.wraps(given)
            def forward(*args: Any, **kwargs: Any) -> Any:
                args, kwargs = pytree.tree_map(narrow, (args, kwargs))
                return pytree.tree_map(widen, given(*args, **kwargs))

            self.forward = forward

    return Model(form="module", value=Half(copy.deepcopy(model.value).to(dtype)).eval(), signature=model.signature)
