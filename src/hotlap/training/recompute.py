"""Gradient checkpointing: a repeated layer's activations are computed again in the backward pass, not kept.

Chen et al., 2016 (arXiv:1604.06174), by way of torch.utils.checkpoint without reentry.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from hotlap.core import Json
from hotlap.errors import InputError
from hotlap.training.seeding import own_generators, put_back, state_of

if TYPE_CHECKING:
    import torch

    _Place = tuple[torch.nn.Module, str]

_MOST_NUMBERS, _LOOKED_AT_FROM = 1_000_000, 16_384
"""Of a buffer: up to so many a copy is made for the second pass, and from so many on it is kept only if it changed."""


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
        # Those of its file, which its methods see, may be for something else: the data.
        generators, held = own_generators(layer), own_generators(*_attributes(layer))
        why = "has running statistics, which its second pass would count again" if _counts(layer) else None
        if held:
            why = "draws from a generator of its own, whose draws its second pass has to repeat"
        if why and compiled:
            raise InputError(
                f"settings: checkpointing=true and compile=true can't be had together here: {name!r} {why}; leave one "
                "of them out"
            )
        given = {} if compiled else {"context_fn": _Passes(name, layer, generators).contexts}
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
            place: item
            for place, item in _items(name, module)
            if any(True for _ in item.parameters()) and any(True for _ in item.children())
        }
        kinds = [type(item) for item in items.values()]
        found |= {key: item for key, item in items.items() if kinds.count(type(item)) > 1}
    return found


def _items(name: str, module: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """The items of a list by their names; for those that are lists themselves, and are never called, their items."""
    import torch

    for key, item in module.named_children():
        place = f"{name}.{key}" if name else key
        if isinstance(item, torch.nn.ModuleList | torch.nn.ModuleDict):
            yield from _items(place, item)
        else:
            yield place, item


def _recomputed(layer: torch.nn.Module, given: Json, forward: Any, *args: Any, **kwargs: Any) -> Any:
    import torch
    from torch.utils.checkpoint import checkpoint

    if not (layer.training and torch.is_grad_enabled()):
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **given, **kwargs)


def _attributes(layer: torch.nn.Module) -> list[Any]:
    import torch

    known = vars(torch.nn.Module()).keys()
    return [value for one in layer.modules() for name, value in vars(one).items() if name not in known]


def _counts(layer: torch.nn.Module) -> bool:
    import torch

    kinds = (torch.nn.modules.batchnorm._NormBase, torch.nn.utils.parametrizations._SpectralNorm)
    return any(isinstance(one, kinds) for one in layer.modules())


def _mark(buffer: torch.Tensor) -> tuple[int, int]:
    return id(buffer), buffer._version


class _Passes:
    """Has a layer's second pass find what its first one found: generators, buffers, and its modules' plain values; and
    lets nothing stay of what the second one changes.
    """

    def __init__(self, name: str, layer: torch.nn.Module, generators: Sequence[Any]) -> None:
        import numpy as np

        self._name, self._layer = name, layer
        # torch's own global one is torch.utils.checkpoint's business.
        self._generators = [random, np.random.mtrand._rand, *generators]

    def contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Around the first pass and around the second."""
        found: dict[str, Any] = {}
        return self._noted(found), self._again(found)

    @contextmanager
    def _noted(self, found: dict[str, Any]) -> Iterator[None]:
        found["states"] = [state_of(one) for one in self._generators]
        found["values"] = self._values()
        before = self._buffers()
        stood = {place: _mark(buffer) for place, buffer in before.items()}
        small = {place: one.detach().clone() for place, one in before.items() if one.numel() <= _MOST_NUMBERS}
        yield
        now = self._buffers()
        moved = {place for place, was in stood.items() if place not in now or was != _mark(now[place])}
        if moved - small.keys():
            raise InputError(
                f"settings: checkpointing=true: {self._name!r} changes a buffer of more than {_MOST_NUMBERS:,} numbers "
                "in its forward pass, which its second pass would find changed; leave it out"
            )
        # Running statistics are changed behind torch's count of changes; they are small.
        found["buffers"] = {
            place: kept for place, kept in small.items() if place in moved or kept.numel() < _LOOKED_AT_FROM
        }

    @contextmanager
    def _again(self, found: dict[str, Any]) -> Iterator[None]:
        stood = [state_of(one) for one in self._generators]
        buffers, values = self._buffers(), self._values()
        self._put(found["states"], found["buffers"], found["values"])
        try:
            yield
        finally:
            self._put(stood, {place: buffers.get(place) for place in found["buffers"]}, values)

    def _put(
        self, states: Sequence[Any], buffers: Mapping[_Place, torch.Tensor | None], values: Sequence[Json]
    ) -> None:
        for one, state in zip(self._generators, states, strict=True):
            put_back(one, state)
        for (module, name), buffer in buffers.items():
            module._buffers[name] = buffer
        for module, kept in zip(self._layer.modules(), values, strict=True):
            vars(module).update(kept)

    def _buffers(self) -> dict[_Place, torch.Tensor]:
        return {
            (module, name): buffer
            for module in self._layer.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        }

    def _values(self) -> list[Json]:
        """The numbers and the tensors that each module has as attributes: a counter, a hidden state."""
        import torch

        kinds = (int, float, str, torch.Tensor, type(None))
        return [
            {name: value for name, value in vars(module).items() if isinstance(value, kinds) and name != "training"}
            for module in self._layer.modules()
        ]
