"""Where a training's memory went: weights, gradients, the optimizer's state, and activations by layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hotlap.core import Json
from hotlap.profiling.modules import module_names, watched
from hotlap.training.memory.steps import Steps
from hotlap.training.reading import Window

if TYPE_CHECKING:
    import torch

OUTSIDE = "(loss)"
"""What is saved outside the model: by the loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """Bytes that tensors of a training hold, each storage counted once.

    `gradients` are those after a backward pass, `optimizer` its state after a step. `activations` are what a forward
    pass keeps for the backward pass, by layer (a module's path, with what the module itself computes), in the order
    in which they were saved; the batch itself is `inputs`.
    """

    weights_bytes: int
    buffers_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    average_bytes: int
    inputs_bytes: int
    activations: dict[str, int]

    def to_json(self) -> Json:
        """Plain JSON, with `activations_bytes` in all."""
        return {
            **{name: getattr(self, name) for name in self.__slots__},
            "activations_bytes": sum(self.activations.values()),
        }


def holdings(steps: Steps, window: Window) -> Holdings:
    """Compute one window's gradients and take one step of the optimizer, and look what is held.

    Changes the weights, as a step does. Activations are those of one pass, the window's last.
    """
    model, optimizer = steps.model, steps.optimizer
    last = window.micro_batches[-1]
    kept = {_key(tensor) for tensor in (*model.parameters(), *model.buffers())}
    own = {_key(tensor): tensor for one in window.micro_batches for tensor in _tensors((one.inputs, one.targets))}
    with steps.stepper.kernels():
        with saved_by_layer(model, kept | set(own)) as activations:
            loss = steps.stepper.loss_of(steps.stepper.outputs_of(last, (0, 0)), last)
        loss.backward()  # type: ignore[no-untyped-call]
        del loss
    gradients = stored_bytes(p.grad for p in model.parameters() if p.grad is not None)
    optimizer.step()
    optimizer.zero_grad()
    return Holdings(
        weights_bytes=stored_bytes(model.parameters()),
        buffers_bytes=stored_bytes(model.buffers()),
        gradients_bytes=gradients,
        optimizer_bytes=stored_bytes(_tensors(list(optimizer.state.values()))),
        average_bytes=stored_bytes(steps.average.tensors.values()) if steps.average is not None else 0,
        inputs_bytes=stored_bytes(own.values()),
        activations=activations,
    )


@contextmanager
def saved_by_layer(model: torch.nn.Module, leave_out: set[int]) -> Iterator[dict[str, int]]:
    """Within: count what autograd saves for the backward pass, by the innermost module that saves it first.

    `leave_out` are storages that are there anyhow. Gives bytes by layer, filled as the forward pass runs.
    """
    import torch

    names = [one.name for one in module_names(model)]
    inside: list[int] = []
    found: dict[str, int] = {}
    # Holding the storages keeps their addresses from being given out twice.
    seen: dict[int, Any] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        key = _key(tensor)
        if key not in seen and key not in leave_out:
            seen[key] = tensor.untyped_storage()
            layer = names[inside[-1]] if inside else OUTSIDE
            found[layer] = found.get(layer, 0) + tensor.untyped_storage().nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with watched(model, inside.append, inside.pop), hooks:
        yield found
    seen.clear()


def stored_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the storages behind tensors, each once."""
    return sum({_key(tensor): tensor.untyped_storage().nbytes() for tensor in tensors}.values())


def _key(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _tensors(value: Any) -> list[torch.Tensor]:
    import torch
    from torch.utils import _pytree as pytree

    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]
