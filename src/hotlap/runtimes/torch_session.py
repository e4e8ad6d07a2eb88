"""What the runtimes that are torch's own share: calling with arrays, and times by operator."""

from __future__ import annotations

from typing import Any

import numpy as np

from hotlap.core import Array, Device, Operation, Session, Signature

_LAYOUT = {
    "aten::copy_",
    "aten::contiguous",
    "aten::clone",
    "aten::to",
    "aten::_to_copy",
    "aten::permute",
    "aten::transpose",
    "aten::reshape",
    "aten::cat",
}


class TorchSession:
    """Calls a torch callable of flat arguments with arrays; used by every runtime that is torch's own."""

    def __init__(self, call: Any, signature: Signature, device: Device) -> None:
        self._call, self._device = call, device
        self._keywords = [spec.name for spec in signature.inputs] if signature.input_kind == "dict" else []

    def __call__(self, arrays: list[Array]) -> list[Array]:
        import torch

        with torch.inference_mode():
            tensors = [torch.from_numpy(array).to(self._device) for array in arrays]
            if self._keywords:
                return to_arrays(self._call(**dict(zip(self._keywords, tensors, strict=True))))
            return to_arrays(self._call(*tensors))


def to_arrays(outputs: Any) -> list[Array]:
    """The flat outputs as arrays; bf16, which NumPy lacks, as float32."""
    import torch
    from torch.utils import _pytree as pytree

    leaves = [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]
    return [
        # Not np.ascontiguousarray, which gives a number an axis.
        np.asarray((leaf.float() if leaf.dtype == torch.bfloat16 else leaf).detach().cpu().numpy(), order="C")
        for leaf in leaves
    ]


def profiled(session: Session, arrays: list[Array], calls: int) -> list[Operation]:
    """Times of a torch session by operator, from torch.profiler, in ms a call."""
    from torch.profiler import ProfilerActivity, profile

    session(arrays)
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        for _ in range(calls):
            session(arrays)
    found = (
        Operation(
            name=event.key,
            kind=event.key,
            ms=event.self_cpu_time_total / 1000 / calls,
            role="layout" if event.key in _LAYOUT else "compute" if event.key.startswith("aten") else "other",
        )
        for event in recorded.key_averages()
    )
    return sorted(found, key=lambda operation: -operation.ms)
