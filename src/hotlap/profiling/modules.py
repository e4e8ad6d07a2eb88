"""Watching modules: calls back when a module's forward begins and ends, and leaves no trace of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_NOTHING = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleName:
    """A module of the model: its path as `named_modules` has it (the model itself: "(model)") and its class."""

    name: str
    type: str


def module_names(model: torch.nn.Module) -> list[ModuleName]:
    """Every module once, the model itself first; a module's place in this list is its index elsewhere."""
    return [ModuleName(name=name or "(model)", type=type(module).__name__) for name, module in model.named_modules()]


@contextmanager
def watched(model: torch.nn.Module, enter: Callable[[int], Any], leave: Callable[[], Any]) -> Iterator[None]:
    """Call `enter(index)` before each module's forward and `leave()` after it, also where it raises.

    No hooks: torch's transformer layers leave their fast path where a module has any.
    """
    modules = list(model.modules())
    before = [vars(module).get("forward", _NOTHING) for module in modules]
    try:
        for index, module in enumerate(modules):
            # Past __setattr__, which modules overload.
            vars(module)["forward"] = _watching(module.forward, index, enter, leave)
        yield
    finally:
        for module, forward in zip(modules, before, strict=True):
            if forward is _NOTHING:
                vars(module).pop("forward", None)
            else:
                vars(module)["forward"] = forward


def _watching(
    forward: Callable[..., Any], index: int, enter: Callable[[int], Any], leave: Callable[[], Any]
) -> Callable[..., Any]:
    @functools.wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        enter(index)
        try:
            return forward(*args, **kwargs)
        finally:
            leave()

    return run


@contextmanager
def unchanged(model: torch.nn.Module) -> Iterator[None]:
    """Put buffers back that running the model changes, and torch's random state."""
    import torch

    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, before in kept:
                    if not torch.equal(buffer, before):
                        buffer.copy_(before)
