"""What training changes beside weights and an optimizer's state: plain values that the user's own code keeps.

A module that counts its steps, an optimizer with a counter of its own, a buffer that is not part of the state_dict, a
loss that warms up, a scheduler that hangs on the optimizer: none of them is in what PyTorch saves, and without them a
resumed run is another run.
"""

from __future__ import annotations

import copy
import json
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hotlap.core import Json
from hotlap.errors import InputError
from hotlap.training.encoding import decode, encode, same_values
from hotlap.training.owners import OF_OPTIMIZERS, hooks_of, owners_of, put, remove, values_of, written_over

if TYPE_CHECKING:
    import torch

_PREFIX = "attributes"
_OPTIMIZER = "optimizer"
_MOST_NUMBERS = 10_000_000
"""A larger tensor is left alone: to see whether it changes takes a copy of it."""
_DEEPEST = 5
_Encoded = tuple[Json, dict[str, "torch.Tensor"]]


class Attributes:
    """The attributes of a model's modules and of an optimizer, and what `functions` keep, the loss among them, by
    place, as they were when training began.

    `warnings` name what changes and can't be kept.
    """

    def __init__(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, **functions: Any) -> None:
        self._owners: dict[str, Any] = {f"model.{name}": one for name, one in model.named_modules()}
        if _is_own(optimizer):
            self._owners[_OPTIMIZER] = optimizer
        others = owners_of({**functions, _OPTIMIZER: hooks_of(optimizer)}, but=[optimizer, *model.modules()])
        self._owners |= others.by_place
        self.warnings = tuple(
            f"the workload's `{place.partition('.')[0]}` has an iterator ({place}), whose place is not kept: a run "
            "that goes on is not exactly the one that was stopped; count in an attribute or a variable instead"
            for place in others.iterators
        )
        if others.left is not None:
            self.warnings += (
                f"the workload's `{others.left.partition('.')[0]}` reaches so many objects that those from "
                f"{others.left} on were not looked at: what it changes in them a run that goes on begins anew",
            )
        self._found = {id(owner) for owner in self._owners.values()}
        self._marks = dict(self._not_kept())
        self._had = {place: frozenset(values_of(owner)) for place, owner in self._owners.items()}
        self._first = {place: copy.deepcopy(encoded) for place, encoded in self._now()}

    @property
    def owners(self) -> list[Any]:
        """All that hold what is watched."""
        return list(self._owners.values())

    def names(self) -> list[str]:
        """The model's attributes that have changed, as a person would write them."""
        return [place.removeprefix("model.").lstrip(".") for place in self._changed() if place.startswith("model.")]

    def changed_by_passes(self) -> bool:
        """Whether any has changed that forward passes and the loss change, not the optimizer."""
        return any(not place.startswith(f"{_OPTIMIZER}.") for place in self._changed())

    def lost(self) -> list[str]:
        """The places of what has changed and no checkpoint can hold."""
        return [place for place, mark in self._not_kept() if self._marks.get(place) != mark]

    def _not_kept(self) -> Iterator[tuple[str, Any]]:
        """What no checkpoint can hold, by its place, with what tells that it is another: values that are replaced, grow
        or shrink. Functions, modules and what the optimizer or a loader has in other ways are none.
        """
        import torch

        known = (torch.nn.Module, torch.nn.Parameter, torch.optim.Optimizer, torch.Generator)
        for place, owner in self._owners.items():
            for name, value in _plain(owner).items():
                if isinstance(value, known) or callable(value) or id(value) in self._found:
                    continue
                if _encoded(value, "") is None:
                    size = len(value) if isinstance(value, list | tuple | dict | set) else None
                    yield f"{place}.{name}", (id(value), size, getattr(value, "_version", None))

    def capture(self) -> tuple[Json, Mapping[str, torch.Tensor]]:
        """What has changed, as a checkpoint holds it."""
        changed = self._changed()
        tensors = {name: tensor for _, found in changed.values() for name, tensor in found.items()}
        return {place: json_of for place, (json_of, _) in changed.items()}, tensors

    def _changed(self) -> dict[str, _Encoded]:
        """Those that are others now."""
        return {place: encoded for place, encoded in self._now() if not _same(encoded, self._first.get(place))}

    @contextmanager
    def undone_if_left(self) -> Iterator[None]:
        """Where a request ends what is done within the block, all are again what they were before it."""
        before = {place: copy.deepcopy(encoded) for place, encoded in self._now()}
        try:
            yield
        except KeyboardInterrupt:
            now = dict(self._now())
            others = {place: encoded for place, encoded in before.items() if not _same(encoded, now.get(place))}
            tensors = {name: tensor for _, found in others.values() for name, tensor in found.items()}
            self.restore({place: json_of for place, (json_of, _) in others.items()}, tensors)
            raise

    def put_back(self) -> None:
        """Have all be as they were when training began, but for what can't be kept."""
        changed = self._changed()
        for place in changed.keys() - self._first.keys():
            owner, _, name = place.rpartition(".")
            if name not in self._had[owner]:
                remove(self._owners[owner], name)
        first = {place: self._first[place] for place in changed.keys() & self._first.keys()}
        tensors = {name: tensor for _, found in first.values() for name, tensor in found.items()}
        self.restore({place: json_of for place, (json_of, _) in first.items()}, tensors)

    def restore(self, kept: Json, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put back what `capture` gave; what the class no longer has is left out."""
        import torch

        for place, value in decode(kept, tensors).items():
            owner, _, name = place.rpartition(".")
            found = self._owners.get(owner)
            if found is None:
                continue
            own = getattr(found, name, None) if isinstance(found, torch.nn.Module) else values_of(found).get(name)
            if not written_over(own, value):
                put(found, name, value)

    def _now(self) -> Iterator[tuple[str, _Encoded]]:
        import torch

        for place, owner in self._owners.items():
            values = _plain(owner)
            if isinstance(owner, torch.nn.Module):
                # Only the model's state_dict is kept in other ways.
                of_model = place.startswith("model.")
                left_out = owner._non_persistent_buffers_set if of_model else owner._buffers
                values |= {name: owner._buffers[name] for name in left_out}
            for name, value in values.items():
                encoded = _encoded(value, f"{_PREFIX}.{place}.{name}")
                if encoded is not None:
                    yield f"{place}.{name}", encoded


def _is_own(one: Any) -> bool:
    """Whether a class of it is none of torch's, whose state is known; sharding puts one of those before the user's."""
    classes = type(one).__mro__[:-1]
    others = any(not kind.__module__.startswith("torch.") for kind in classes)
    return others or bool(getattr(one, "_non_persistent_buffers_set", ()))


def _encoded(value: Any, prefix: str) -> _Encoded | None:
    """The value as a checkpoint holds it; None where it can't be kept or is kept in other ways."""
    import torch

    if isinstance(value, torch.nn.Parameter) or (isinstance(value, torch.Tensor) and value.numel() > _MOST_NUMBERS):
        return None
    if _holds_parameters(value):
        return None
    try:
        return encode(value, prefix)
    except InputError:
        return None


def _plain(owner: Any) -> dict[str, Any]:
    """The values that an owner holds, but for what torch's classes keep in their own ways."""
    import torch

    known: set[str] = set()
    if isinstance(owner, torch.optim.Optimizer):
        known |= OF_OPTIMIZERS
    if isinstance(owner, torch.nn.Module):
        known |= vars(torch.nn.Module()).keys()
    values = {name: value for name, value in values_of(owner).items() if name not in known}
    if isinstance(owner, torch.nn.Module) and not _is_own(owner):
        # A rate of dropout that a hook raises, or a momentum; all else of torch's is made of what it has.
        values = {name: value for name, value in values.items() if isinstance(value, bool | int | float | str)}
    return values


def _holds_parameters(value: Any, depth: int = 0) -> bool:
    """Whether a collection has a parameter somewhere in it: another tensor in its place would be trained by nobody."""
    import torch

    if isinstance(value, torch.nn.Parameter):
        return True
    if not isinstance(value, list | tuple | dict | set | frozenset | deque) or depth > _DEEPEST:
        return False
    items = [*value, *value.values()] if isinstance(value, dict) else value
    return any(_holds_parameters(one, depth + 1) for one in items)


def _same(one: _Encoded, other: _Encoded | None) -> bool:
    if other is None or json.dumps(one[0]) != json.dumps(other[0]):
        return False
    return all(same_values(tensor, other[1][name]) for name, tensor in one[1].items())
