"""How far two ways of computing a step are apart, where one may stand in for the other only if they agree."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def furthest(*differences: float) -> float:
    """The largest; infinite where one is NaN, which is larger than none and smaller than none."""
    return math.inf if any(map(math.isnan, differences)) else max(differences)


def of_losses(one: float, other: float) -> float:
    """Relative to the first, unless that is 0."""
    return abs(other - one) / (abs(one) or 1.0)


def of_tensors(some: list[torch.Tensor], others: list[torch.Tensor]) -> float:
    """How far all together are apart, relative to the first ones' norm unless that is 0; infinite numbers that are the
    same are none of it."""
    squares = sum(_square(one.double().masked_fill(one.isinf(), 0)) for one in some)
    apart = sum(
        _square((one.double() - other.double()).masked_fill(one == other, 0))
        for one, other in zip(some, others, strict=True)
    )
    return math.sqrt(apart / squares if squares else apart)


def of_each(some: list[torch.Tensor], others: list[torch.Tensor]) -> float:
    """The furthest that one is apart from its own other: a large one hides no small one. Infinitely far where there are
    others of other shapes."""
    if [one.shape for one in some] != [other.shape for other in others]:
        return math.inf
    return furthest(0.0, *(of_tensors([one], [other]) for one, other in zip(some, others, strict=True)))


def gradients_of(model: torch.nn.Module) -> list[torch.Tensor]:
    """Those of all parameters, dense; a single 0 where there is none."""
    return [_gradient(one) for one in model.parameters()]


def _gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    import torch

    if parameter.grad is None:
        return torch.zeros((), device=parameter.device)
    return parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad


def _square(tensor: torch.Tensor) -> float:
    return float(tensor.double().square().sum())
