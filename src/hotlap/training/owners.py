"""Where functions of the user's own keep what they change: a loss, a weight of it, what hangs on an optimizer.

Such a function may be an object or bound to one, have attributes and defaults, close over variables or name some of its
file; any of them may hold a module, a learning-rate scheduler or an object of the user's own in turn.
"""

from __future__ import annotations

import dis
import functools
import io
import sys
import types
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hotlap.workload.user_code import is_users

if TYPE_CHECKING:
    import torch

_MOST_LOOKED_AT = 1000
"""Objects, and items of a list; longer ones are not gone through."""
OF_OPTIMIZERS = frozenset({"state", "defaults", "param_groups"})
"""What a checkpoint keeps of an optimizer in other ways."""
_LIBRARIES = frozenset({"torch", "numpy", "builtins", *sys.stdlib_module_names})
_PLAIN = (type, types.ModuleType, str, bytes, int, float, type(None))
_METHODS = ("__call__", "forward", "step")


@dataclass(frozen=True, slots=True)
class Variables:
    """Those of a file that one of its functions changes."""

    everyone: dict[str, Any]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Owners:
    """What holds values, by its place, and the places of iterators, whose own place nobody can tell. `left`: the place
    of the first that was not looked at, since there were too many before it.
    """

    by_place: Mapping[str, Any]
    iterators: tuple[str, ...]
    left: str | None


def owners_of(roots: Mapping[str, Any], *, but: Iterable[Any] = ()) -> Owners:
    """All that is found in `roots`, but for the objects of `but` and what is reached through them alone."""
    found, iterators = dict[str, Any](), list[str]()
    waiting, seen = list(roots.items()), {id(one): one for one in but}
    most = len(seen) + _MOST_LOOKED_AT
    while waiting and len(seen) < most:
        place, one = waiting.pop(0)
        if id(one) in seen or isinstance(one, _PLAIN):
            continue
        seen[id(one)] = one
        if hasattr(one, "__next__"):
            if not isinstance(one, io.IOBase):
                iterators.append(place)
        elif isinstance(one, types.FunctionType):
            found |= _of_function(place, one)
        elif _is_kept_in(one):
            found[place] = one
        waiting += [(f"{place}.{name}", inner) for name, inner in _inside(one)]
    left = next((place for place, one in waiting if id(one) not in seen and not isinstance(one, _PLAIN)), None)
    return Owners(by_place=found, iterators=tuple(iterators), left=left)


def hooks_of(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What hangs on an optimizer: its hooks, and what it holds beside its own state."""
    return {name: one for name, one in vars(optimizer).items() if name not in OF_OPTIMIZERS}


def values_of(owner: Any) -> dict[str, Any]:
    """The values that it holds, by name."""
    if isinstance(owner, types.CellType):
        return {"cell_contents": owner.cell_contents} if _is_filled(owner) else {}
    if isinstance(owner, Variables):
        return {name: owner.everyone[name] for name in owner.names if name in owner.everyone}
    if isinstance(owner, types.FunctionType):
        return {**vars(owner), "__defaults__": owner.__defaults__, "__kwdefaults__": owner.__kwdefaults__}
    return dict(vars(owner))


def put(owner: Any, name: str, value: Any) -> None:
    """Have it hold that value by that name; lists and dicts change in place, since others may hold them too."""
    own: Any = values_of(owner).get(name)
    if type(own) is type(value) and isinstance(own, dict | set):
        own.clear()
        own.update(value)
    elif type(own) is type(value) and isinstance(own, list | deque):
        own.clear()
        own.extend(value)
    elif isinstance(owner, Variables):
        owner.everyone[name] = value
    else:
        setattr(owner, name, value)


def written_over(own: Any, value: Any) -> bool:
    """Have a tensor or an array hold another's numbers in its own place, where others may hold it too; whether that
    can be: both are of one kind, shape and dtype."""
    import numpy as np
    import torch

    is_tensor = isinstance(own, torch.Tensor) and isinstance(value, torch.Tensor)
    if not is_tensor and not (isinstance(own, np.ndarray) and isinstance(value, np.ndarray)):
        return False
    if isinstance(own, np.ndarray) and not own.flags.writeable:
        return False
    strides = own.stride() if is_tensor else own.strides
    expanded = any(size > 1 and not stride for size, stride in zip(own.shape, strides, strict=True))
    if own.shape != value.shape or own.dtype != value.dtype or expanded:
        return False
    with torch.no_grad():
        own[...] = value
    return True


def remove(owner: Any, name: str) -> None:
    """Have it hold nothing by that name."""
    if isinstance(owner, Variables):
        owner.everyone.pop(name, None)
    elif isinstance(owner, types.CellType):
        del owner.cell_contents
    else:
        delattr(owner, name)


def _is_kept_in(one: Any) -> bool:
    """Whether it is a module, a scheduler, or an object of a class that is neither Python's nor torch's nor NumPy's."""
    import torch

    if isinstance(one, torch.nn.Module | torch.optim.lr_scheduler.LRScheduler):
        return True
    return hasattr(one, "__dict__") and type(one).__module__.partition(".")[0] not in _LIBRARIES


def _inside(one: Any) -> Iterator[tuple[str, Any]]:
    """What may hold values in turn, by names of its own."""
    if isinstance(one, functools.partial):
        yield from (("func", one.func), ("args", one.args), ("keywords", one.keywords))
    elif isinstance(one, types.MethodType):
        yield from (("self", one.__self__), ("function", one.__func__))
    elif isinstance(one, types.FunctionType):
        if is_users(one.__code__.co_filename):
            yield from ((name, cell.cell_contents) for name, cell in _cells(one) if _is_filled(cell))
            yield from ((name, one.__globals__[name]) for name in _names(one) if name in one.__globals__)
            yield from (("attributes", vars(one)), ("defaults", (one.__defaults__, one.__kwdefaults__)))
    elif isinstance(one, list | tuple):
        yield from ((str(number), inner) for number, inner in enumerate(one[:_MOST_LOOKED_AT]))
    elif isinstance(one, dict):
        # A hook's key is its number among all of the process.
        items = enumerate(list(one.items())[:_MOST_LOOKED_AT])
        yield from ((key if isinstance(key, str) else str(number), inner) for number, (key, inner) in items)
    elif _is_kept_in(one):
        yield from vars(one).items()
        yield from ((name, getattr(type(one), name)) for name in _METHODS if hasattr(type(one), name))


def _of_function(place: str, function: types.FunctionType) -> dict[str, Any]:
    """Itself, what it closes over, and the variables of its file that it assigns or that may change in their place."""
    if not is_users(function.__code__.co_filename):
        return {}
    assigned = {one.argval for one in dis.get_instructions(function) if one.opname == "STORE_GLOBAL"}
    here = function.__globals__
    names = tuple(name for name in _names(function) if name in assigned or _changes_in_place(here.get(name)))
    found: dict[str, Any] = {place: function, **{f"{place}.{name}": cell for name, cell in _cells(function)}}
    return found | ({f"{place}.variables": Variables(here, names)} if names else {})


def _changes_in_place(value: Any) -> bool:
    import numpy as np
    import torch

    return isinstance(value, torch.Tensor | np.ndarray) or (
        isinstance(value, list | dict) and len(value) < _MOST_LOOKED_AT
    )


def _names(function: types.FunctionType) -> list[str]:
    """The names that its code has, and the code of functions made in it."""
    names, waiting = list[str](), [function.__code__]
    while waiting:
        code = waiting.pop()
        names += [name for name in code.co_names if name not in names]
        waiting += [one for one in code.co_consts if isinstance(one, types.CodeType)]
    return names


def _cells(function: types.FunctionType) -> list[tuple[str, types.CellType]]:
    return list(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))


def _is_filled(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True
