"""Counts a model's work by module: multiply-adds, bytes moved, and the memory that it holds meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hotlap.profiling.formulas import FORMULAS
from hotlap.profiling.kinds import base_name
from hotlap.profiling.modules import watched

if TYPE_CHECKING:
    import torch

# Operators that read a few rows of their first argument: what they give is what they read.
_READ_ROWS = {"embedding", "embedding_bag", "index", "index_select", "gather", "take", "take_along_dim"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One operator's work in one call. Bytes are those of its inputs and outputs, each counted once."""

    module: int
    operator: str
    multiply_adds: int
    weight_bytes: int
    activation_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """All of one call, in order. peak_activation_bytes: the most that tensors other than weights held at once."""

    work: tuple[Work, ...]
    weight_bytes: int
    peak_activation_bytes: int


def count(model: torch.nn.Module, call: Callable[[], Any]) -> Counted:
    """Count the work of `call`, which runs `model` once."""
    import torch

    weights = [*model.parameters(), *model.buffers()]
    recorder = _Recorder({_address(tensor) for tensor in weights})
    with (
        torch.inference_mode(),
        watched(model, recorder.owners.append, recorder.owners.pop),
        _dispatching(recorder),
    ):
        call()
    return Counted(
        work=tuple(recorder.work),
        weight_bytes=sum(tensor.numel() * tensor.element_size() for tensor in weights),
        peak_activation_bytes=recorder.peak,
    )


def _dispatching(recorder: _Recorder) -> Any:
    """A mode that shows every operator to the recorder: as it is where a formula knows it, else its parts."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
            operator = function._schema.name
            if base_name(operator) not in FORMULAS:
                with self:
                    result = function.decompose(*arguments, **(keywords or {}))
                if result is not NotImplemented:
                    return result
            result = function(*arguments, **(keywords or {}))
            recorder.record(operator, arguments, result, changes=function._schema.is_mutable)
            return result

    return Mode()  # type: ignore[no-untyped-call]


class _Recorder:
    """Keeps the work of each operator, and the storages that are alive."""

    def __init__(self, weights: set[int]) -> None:
        self.owners = [0]
        self.work: list[Work] = []
        self.peak = 0
        self._weights = weights
        self._alive: dict[int, tuple[Any, int]] = {}

    def record(self, operator: str, arguments: Any, result: Any, *, changes: bool) -> None:
        inputs, outputs = _tensors(arguments), _tensors(result)
        self._see(inputs, outputs)
        known = FORMULAS[base_name(operator)](arguments, result) if base_name(operator) in FORMULAS else 0
        weight_bytes, activation_bytes = self._moved(operator, inputs, outputs, changes=changes)
        if known or weight_bytes or activation_bytes:
            work = Work(
                module=self.owners[-1],
                operator=operator,
                multiply_adds=known,
                weight_bytes=weight_bytes,
                activation_bytes=activation_bytes,
            )
            self.work.append(work)

    def _moved(
        self, operator: str, inputs: list[torch.Tensor], outputs: list[torch.Tensor], *, changes: bool
    ) -> tuple[int, int]:
        """Bytes of weights and of other tensors that are read or written; none where only a view is made."""
        sources = {_address(tensor) for tensor in inputs}
        written = sum(_bytes(tensor) for tensor in outputs if changes or _address(tensor) not in sources)
        if not written:
            return 0, 0
        read = {_address(tensor): tensor for tensor in inputs}
        if base_name(operator) in _READ_ROWS and inputs:
            read.pop(_address(inputs[0]))
            written *= 2
        weights = sum(_bytes(tensor) for address, tensor in read.items() if address in self._weights)
        return weights, written + sum(_bytes(tensor) for tensor in read.values()) - weights

    def _see(self, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> None:
        """Count what is alive now: between operators, so that what one uses within itself is left out."""
        from torch.multiprocessing.reductions import StorageWeakRef

        for tensor in (*inputs, *outputs):
            address = _address(tensor)
            if address not in self._weights and address not in self._alive:
                storage = tensor.untyped_storage()
                self._alive[address] = (StorageWeakRef(storage), storage.nbytes())  # type: ignore[no-untyped-call]
        self._alive = {key: value for key, value in self._alive.items() if not value[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))


def _tensors(values: Any) -> list[torch.Tensor]:
    """Dense tensors among arguments or results."""
    import torch
    from torch.utils import _pytree as pytree

    return [
        leaf
        for leaf in pytree.tree_leaves(values)
        if type(leaf) in (torch.Tensor, torch.nn.Parameter) and leaf.layout == torch.strided
    ]


def _address(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _bytes(tensor: torch.Tensor) -> int:
    """Bytes that hold its values: an expanded tensor has fewer than its shape says."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
