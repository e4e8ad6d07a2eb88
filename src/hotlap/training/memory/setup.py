"""How a model trains, as far as its memory depends on it, and the steps of that training."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from hotlap.core import Device
from hotlap.errors import InputError, WorkloadError
from hotlap.workload.inputs import call
from hotlap.workload.user_code import running
from hotlap.workload.workload import Workload

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a step's memory depends on beside the workload and the batch size.

    precision: bf16 and fp16 are autocast, weights stay fp32. layout: of 4-D weights and inputs. fused: the
    optimizer's one-kernel form. ema: an average of the weights is kept. clip: gradients are clipped.
    accumulation: batches a step, whose gradients are summed.
    """

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    layout: Literal["contiguous", "channels_last"] = "contiguous"
    fused: bool = False
    ema: bool = False
    clip: bool = False
    accumulation: int = 1
    device: Device = "cpu"


class Trainer:
    """A workload's model with its optimizer, as `setup` says, ready to make whole steps."""

    def __init__(self, workload: Workload, setup: Setup) -> None:
        """Build everything anew. Raises WorkloadError where the user's code misbehaves."""
        import torch
        from torch.optim import swa_utils

        if workload.loss is None:
            raise WorkloadError("the workload has no `loss`; give (outputs, targets) -> scalar Tensor")
        self.setup, self._loss = setup, workload.loss
        with running("model"):
            model = workload.model()
        self.model = model.train().requires_grad_().to(setup.device)
        if setup.layout == "channels_last":
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with running("optimizer"):
            self.optimizer = (workload.optimizer or torch.optim.AdamW)(self.model.parameters())
        if setup.fused:
            fuse(self.optimizer)
        average = swa_utils.get_ema_multi_avg_fn(0.999)  # type: ignore[no-untyped-call]
        self.average = swa_utils.AveragedModel(self.model, multi_avg_fn=average) if setup.ema else None

    def forward(self, inputs: Any, targets: Any) -> torch.Tensor:
        """The loss of one batch, which lies on the CPU."""
        import torch
        from torch.utils import _pytree as pytree

        setup = self.setup

        def moved(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            last = setup.layout == "channels_last" and value.dim() == 4
            return value.to(setup.device, memory_format=torch.channels_last if last else torch.preserve_format)

        inputs, targets = pytree.tree_map(moved, (inputs, targets))
        with _autocast(setup):
            with running("model"):
                outputs = call(self.model, inputs)
            with running("loss"):
                return self._loss(outputs, targets)

    def step(self, make: Callable[[], tuple[Any, Any]]) -> None:
        """One whole step: `make` gives a batch, as a loader would; forward, backward, the optimizer, the average."""
        import torch

        for _ in range(self.setup.accumulation):
            inputs, targets = make()
            loss = self.forward(inputs, targets)
            (loss / self.setup.accumulation).backward()  # type: ignore[no-untyped-call]
        if self.setup.clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        self.optimizer.zero_grad()


def fuse(optimizer: torch.optim.Optimizer) -> None:
    """Put an optimizer into its one-kernel form. Raises InputError for one that has none."""
    if "fused" not in optimizer.defaults:
        raise InputError(f"settings: fused: {type(optimizer).__name__} has no fused form; leave it out")
    for group in (optimizer.defaults, *optimizer.param_groups):
        group["fused"], group["foreach"] = True, False


def _autocast(setup: Setup) -> Any:
    import torch

    if setup.precision == "fp32":
        return nullcontext()
    return torch.autocast(setup.device, torch.bfloat16 if setup.precision == "bf16" else torch.float16)
