"""Where a NaN or an infinity came from: the first layer that gave one, found by running the pass again."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from hotlap.errors import HotlapError
from hotlap.training.processes import all_finite, whole
from hotlap.training.reading import MicroBatch, Window
from hotlap.training.stepping import NotFinite, Stepper
from hotlap.workload.inputs import flatten_outputs

if TYPE_CHECKING:
    import torch

_SHOWN = 8
_INPUTS, _TARGETS = OF_DATA = ("whose inputs are not finite", "whose targets are not finite")
"""How a sentence ends where the data are at fault."""


def explain(stepper: Stepper, window: Window, found: NotFinite, *, step: int) -> str:
    """A sentence that names the step, the layer and the batch. The weights must be those of before the step."""
    one = found.micro_batch
    where = f"step {step + 1} (epoch {window.epoch + 1}, batch {window.number + 1}{_examples(window, one)})"
    what = "NaN" if found.value != found.value else "infinite"
    if found.what == "gradients":
        return f"the gradients are {what} in {where}, {_gradient_layer(stepper)}"
    if one is None:
        if stepper.sharded:
            # The process that has it computes the pass again, which takes all of them.
            _forward_layer(stepper, window, window.micro_batches[0])
        return f"the loss is {what} in {where}, in another process's share"
    return f"the loss is {what} in {where}, {_forward_layer(stepper, window, one)}"


def _examples(window: Window, one: Any) -> str:
    indices = one.indices if one is not None else tuple(i for part in window.micro_batches for i in part.indices)
    if not indices:
        return ""
    more = ", ..." if len(indices) > _SHOWN else ""
    return f", examples {', '.join(map(str, indices[:_SHOWN]))}{more}"


def _forward_layer(stepper: Stepper, window: Window, one: MicroBatch) -> str:
    import torch

    model = stepper.model
    bad = [name for name, parameter in model.named_parameters() if not all_finite([whole(parameter.detach())])]
    seen: list[str] = []
    repeated, finite = True, False
    # As in training, but where a sharded model would wait for a backward pass.
    with _watched(model, seen), torch.set_grad_enabled(not stepper.sharded), stepper.kernels():
        try:
            outputs = stepper.outputs_of(one, (window.epoch, window.number), model)
        except HotlapError:
            repeated = False
        else:
            with suppress(HotlapError):
                finite = math.isfinite(stepper.loss_of(outputs, one).item())
    if not all_finite(_tensors(one.inputs)):
        return _INPUTS
    if bad:
        return f"where the weight {bad[0]!r} is not finite"
    if not repeated:
        return "and the pass could not be repeated"
    if seen:
        return f"first in layer {seen[0]!r}"
    if not all_finite(_tensors(one.targets)):
        return _TARGETS
    if finite and stepper.compiled:
        return "and the same pass without torch.compile was finite: try --set compile=false"
    if finite:
        without = " without gradients" if stepper.sharded else ""
        return f"and the same pass once more{without} was finite: perhaps something is kept from pass to pass"
    return "although the model's outputs are finite: in the workload's `loss`"


def _gradient_layer(stepper: Stepper) -> str:
    named = [(name, one.grad) for name, one in stepper.model.named_parameters() if one.grad is not None]
    bad = [name for name, gradient in named if not all_finite([whole(gradient)])]
    if not bad:
        return "in their norm only: each of them is finite"
    # The backward pass goes from the last layer to the first, so the last bad one in order came first.
    return f"first in layer {bad[-1].rpartition('.')[0]!r} ({len(bad)} of {len(named)} weights)"


@contextmanager
def _watched(model: torch.nn.Module, seen: list[str]) -> Iterator[None]:
    """Note each layer whose outputs are not finite, innermost first, and leave the buffers as they were."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    compiled = vars(model).pop("_compiled_call_impl", None)

    def watch(name: str) -> Any:
        def hook(module: torch.nn.Module, args: Any, outputs: Any) -> None:
            if not all_finite(_tensors(outputs)):
                seen.append(name or type(module).__name__)

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        if compiled is not None:
            model._compiled_call_impl = compiled
        for buffer, value in buffers:
            buffer.copy_(value)


def _tensors(value: Any) -> list[torch.Tensor]:
    import torch

    return [leaf for leaf in flatten_outputs(value) if isinstance(leaf, torch.Tensor)]
