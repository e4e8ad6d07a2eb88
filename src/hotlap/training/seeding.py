"""Seeds every random generator that can be seen, so that what is drawn next depends on the place alone."""

from __future__ import annotations

import functools
import itertools
import random
import types
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hotlap.training.order import derived_seed

_METHODS = ("__getitem__", "__getitems__", "__iter__", "__call__", "forward", "step")
"""Those of a Dataset, a sampler, an iterable, a function, a module and an optimizer that draw."""
_MOST_LOOKED_AT = 10_000
_MOST_IN_ONE = 100_000
"""Objects; a list of a million numbers is not gone through."""


def seed_generators(seed: int, *place: int | str, own: Sequence[Any] = ()) -> None:
    """Seed Python's, NumPy's and torch's global generators (CUDA's too, once it is in use) for one place, and those of
    `own`, which `own_generators` found, each by its number.
    """
    import numpy as np
    import torch

    value = derived_seed(seed, *place)
    random.seed(value)
    np.random.seed(value & 0xFFFFFFFF)
    torch.default_generator.manual_seed(value >> 1)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(value >> 1)
    for number, generator in enumerate(own):
        reseed(generator, derived_seed(seed, *place, number))


def own_generators(*roots: Any) -> list[Any]:
    """The random generators that objects hold, each once: torch's, NumPy's and Python's.

    Looked into are attributes, lists, tuples, sets, dicts, partial functions, bound methods, what functions close
    over, and the module's own variables that an object's methods see; 10,000 objects at the most, those in collections
    of plain values (the path and the label of an example) aside.
    """
    import numpy as np
    import torch

    kinds = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
    plain = (type, types.ModuleType, str, bytes, int, float, type(None), np.ndarray, np.generic, torch.Tensor)
    waiting, seen, found = deque(roots), dict[int, Any](), list[Any]()
    while waiting and len(seen) < _MOST_LOOKED_AT:
        one = waiting.popleft()
        if id(one) in seen or isinstance(one, plain) or _all_plain(one, plain):
            continue
        seen[id(one)] = one
        if isinstance(one, kinds) and not isinstance(one, random.SystemRandom):
            if one is not torch.default_generator:  # What torch compiled holds it.
                found.append(one)
            continue
        waiting += itertools.islice(_inside(one, kinds), _MOST_IN_ONE)
    return found


def _all_plain(one: Any, plain: tuple[type, ...]) -> bool:
    """Whether it is a collection, not of millions, that holds nothing to look into."""
    if not isinstance(one, tuple | list | set | frozenset | dict) or len(one) > _MOST_IN_ONE:
        return False
    # By types: of thousands of token ids there is one.
    return all(issubclass(kind, plain) for kind in set(map(type, one.values() if isinstance(one, dict) else one)))


def reseed(generator: Any, seed: int) -> None:
    """Seed one generator that `own_generators` found; `seed` has 64 bits."""
    import numpy as np
    import torch

    if isinstance(generator, torch.Generator):
        generator.manual_seed(seed >> 1)
    elif isinstance(generator, np.random.Generator):
        bits = generator.bit_generator
        bits.state = type(bits)(seed).state
    elif isinstance(generator, np.random.RandomState):
        generator.seed(seed & 0xFFFFFFFF)
    else:
        generator.seed(seed)


def generator_states(generators: Sequence[Any]) -> list[bytes]:
    """Where the global generators and these ones stand: other after a draw."""
    import numpy as np
    import torch

    everyone = [random, torch.default_generator, np.random.mtrand._rand, *generators]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        everyone += [torch.cuda.default_generators[torch.cuda.current_device()]]
    states = (state_of(one) for one in everyone)
    # What is written of a long Tensor leaves its middle out.
    return [one.numpy().tobytes() if isinstance(one, torch.Tensor) else repr(one).encode() for one in states]


def state_of(generator: Any) -> Any:
    """Where a generator stands, as numbers, texts, arrays and a Tensor."""
    import numpy as np
    import torch

    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, torch.Generator | np.random.RandomState):
        return generator.get_state()
    return generator.getstate()


def put_back(generator: Any, state: Any) -> None:
    """Have a generator of the same kind stand where `state_of` says."""
    import numpy as np
    import torch

    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, torch.Generator | np.random.RandomState):
        generator.set_state(state)
    else:
        generator.setstate(state)


def _inside(one: Any, kinds: tuple[type, ...]) -> Iterator[Any]:
    if isinstance(one, Mapping):
        yield from one.values()
    elif isinstance(one, list | tuple | set | frozenset):
        yield from one
    elif isinstance(one, functools.partial):
        yield from (one.func, one.args, one.keywords)
    elif isinstance(one, types.MethodType | types.BuiltinMethodType):
        yield from (one.__self__, getattr(one, "__func__", None))
    elif isinstance(one, types.GeneratorType) and one.gi_frame is not None:
        yield from one.gi_frame.f_locals.values()
        yield from _of_kinds(one.gi_frame.f_globals, kinds)
    elif isinstance(one, types.FunctionType):
        yield from (cell.cell_contents for cell in one.__closure__ or () if _is_filled(cell))
        # Of a module only what is a generator itself: all that it imports would be half the world.
        yield from _of_kinds(one.__globals__, kinds)
    else:
        # A module has a dozen attributes of torch's that most often are empty.
        values = getattr(one, "__dict__", {}).values()
        yield from (value for value in values if not isinstance(value, dict | set) or value)
        yield from (getattr(one, name, None) for name in _slots_of(one))
        methods = (getattr(type(one), name, None) for name in _METHODS)
        yield from (method for method in methods if isinstance(method, types.FunctionType))


def _of_kinds(variables: Mapping[str, Any], kinds: tuple[type, ...]) -> list[Any]:
    """By their types alone: some module's objects answer isinstance with a warning, torch.distributed's among them."""
    return [value for value in list(variables.values()) if issubclass(type(value), kinds)]


def _slots_of(one: Any) -> Iterator[str]:
    for kind in type(one).__mro__:
        names = kind.__dict__.get("__slots__", ())
        yield from (names,) if isinstance(names, str) else names


def _is_filled(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True
