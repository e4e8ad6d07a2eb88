"""The one thing a user writes: what the model is and how it is judged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import torch

Inputs: TypeAlias = Any
"""A Tensor (`model(x)`), a tuple of them (`model(*x)`) or a dict of them (`model(**x)`)."""
Outputs: TypeAlias = Any
"""A Tensor, or a tuple, dict or dataclass of them."""
Axis: TypeAlias = str | tuple[str, int, int]
"""An axis that varies: its name, or (name, smallest, largest size)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What the model is and how it is judged. Only `model` and `example` are required.

    name: how results and artifacts call it (letters, digits, `.`, `_`, `-`); default: the file's name.
    model: gives the torch.nn.Module with its weights loaded.
    example: (batch, **axes) gives inputs with `batch` rows and the named axes at the given sizes.
    evaluation: gives (inputs, targets) batches; finite, the same each time.
    score: (outputs, targets) gives a Tensor[batch], one number an example, higher is better; or, with `metric`,
        one row of numbers or one object an example.
    metric: (rows) gives one number of all rows, for measures of a whole set (F1, AUC, mAP).
    slices: (inputs, targets) gives one label an example; the gate holds for each slice too.
    calibration: gives inputs that quantization may look at; default: drawn from `training`, never from
        `evaluation`.
    training: a map-style Dataset of (input, target), or an iterable of batches.
    loss: (outputs, targets) gives a scalar Tensor.
    loss_weight: (targets) gives what the loss was averaged over; default: the number of examples.
    optimizer: (parameters) gives a torch.optim.Optimizer; default AdamW.
    batch_size, epochs: what the user trains with today.
    dynamic: for each input (by `forward`'s parameter name) the axes that vary; default: axis 0 of every input.
    features: for each input the stored features that make it up, in order: `view:feature`, or (`view:feature`,
        the number where it is missing); a row that lacks a feature without such a number is refused.
    feature_repo: the folder of the feature repository, from this file's folder on; default: that folder.
    """

    model: Callable[[], torch.nn.Module]
    example: Callable[..., Inputs]
    name: str = ""
    evaluation: Callable[[], Iterable[tuple[Inputs, Any]]] | None = None
    score: Callable[[Outputs, Any], Any] | None = None
    metric: Callable[[list[Any]], float] | None = None
    slices: Callable[[Inputs, Any], Sequence[str]] | None = None
    calibration: Callable[[], Iterable[Inputs]] | None = None
    training: Callable[[], Any] | None = None
    loss: Callable[[Outputs, Any], torch.Tensor] | None = None
    loss_weight: Callable[[Any], float] | None = None
    optimizer: Callable[[Any], torch.optim.Optimizer] | None = None
    batch_size: int = 64
    epochs: int = 1
    dynamic: Mapping[str, Mapping[int, Axis]] | None = None
    features: Mapping[str, Sequence[str | tuple[str, float]]] | None = None
    feature_repo: str | Path | None = None
