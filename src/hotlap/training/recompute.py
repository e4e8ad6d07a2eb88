"""Gradient checkpointing: a repeated layer's activations are computed again in the backward pass, not kept.

Chen et al., 2016 (arXiv:1604.06174), by way of torch.utils.checkpoint without reentry.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from hotlap.core import Json
from hotlap.errors import InputError
from hotlap.training.seeding import own_generators, put_back, state_of

if TYPE_CHECKING:
    import torch


def recompute_layers(model: torch.nn.Module, *, compiled: bool = False) -> list[str]:
    """Have each repeated layer recomputed; gives their names. Parameters keep their names.

    Raises InputError where the model repeats no layer, so that there is nothing to cut it at, and where it is to be
    `compiled` and one of them has running statistics or a generator of its own: torch.compile
    would count them twice, and draw anew.
    """
    layers = repeated_layers(model)
    if not layers:
        raise InputError(
            "settings: checkpointing=true needs layers that repeat, in a torch.nn.Sequential or ModuleList; "
            "this model has none; leave it out"
        )
    for name, layer in layers.items():
        generators = own_generators(layer)
        why = "has running statistics, which its second pass would count again" if _norms(layer) else None
        if generators:
            why = "draws from a generator of its own, whose draws its second pass has to repeat"
        if why and compiled:
            raise InputError(
                f"settings: checkpointing=true and compile=true can't be had together here: {name!r} {why}; leave one "
                "of them out"
            )
        given = {} if compiled else {"context_fn": partial(_contexts, layer, generators)}
        layer.forward = partial(_recomputed, layer, given, layer.forward)
    return list(layers)


def repeated_layers(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The layers worth recomputing, by name: outermost items of a list of two or more of one type with weights."""
    import torch

    found: dict[str, torch.nn.Module] = {}
    for name, module in model.named_modules():
        if any(name.startswith(f"{outer}.") or name == outer for outer in found):
            continue
        if not isinstance(module, torch.nn.Sequential | torch.nn.ModuleList):
            continue
        items = {
            f"{name}.{key}" if name else key: item
            for key, item in module.named_children()
            if any(True for _ in item.parameters()) and any(True for _ in item.children())
        }
        kinds = [type(item) for item in items.values()]
        found |= {key: item for key, item in items.items() if kinds.count(type(item)) > 1}
    return found


def _recomputed(layer: torch.nn.Module, given: Json, forward: Any, *args: Any, **kwargs: Any) -> Any:
    import torch
    from torch.utils.checkpoint import checkpoint

    if not (layer.training and torch.is_grad_enabled()):
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **given, **kwargs)


def _norms(layer: torch.nn.Module) -> list[Any]:
    import torch

    return [one for one in layer.modules() if isinstance(one, torch.nn.modules.batchnorm._NormBase)]


def _contexts(
    layer: torch.nn.Module, generators: Sequence[Any]
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Around the first pass of a layer and around its second, which must draw the same and count nothing again."""
    import numpy as np

    # torch's own global ones are torch.utils.checkpoint's business.
    everyone = [random, np.random.mtrand._rand, *generators]
    states = [state_of(one) for one in everyone]
    return nullcontext(), _again(layer, everyone, states)


@contextmanager
def _again(layer: torch.nn.Module, generators: Sequence[Any], states: Sequence[Any]) -> Iterator[None]:
    stood = [state_of(one) for one in generators]
    _put_back(generators, states)
    try:
        with _statistics_left_alone(layer):
            yield
    finally:
        _put_back(generators, stood)


def _put_back(generators: Sequence[Any], states: Sequence[Any]) -> None:
    for one, state in zip(generators, states, strict=True):
        put_back(one, state)


@contextmanager
def _statistics_left_alone(layer: torch.nn.Module) -> Iterator[None]:
    """The second forward pass of a batch must not count in the running statistics again."""
    norms = _norms(layer)
    momenta = [norm.momentum for norm in norms]
    counters = [norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None]
    counts = [int(counter) for counter in counters]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for counter, count in zip(counters, counts, strict=True):
            counter.fill_(count)
