"""Nested state as JSON beside tensors, so that nothing that is kept has to be pickled."""

from __future__ import annotations

import base64
import math
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hotlap.core import Json
from hotlap.errors import InputError

if TYPE_CHECKING:
    import torch

_MARK, _WITH_DEFAULT = "hotlap:", "dict of "
_DICTS: dict[str, Any] = {"OrderedDict": OrderedDict, "Counter": Counter}
_OF_DICTS = (dict, defaultdict, *_DICTS.values())
"""Whose subclasses have methods of their own, which would not come back."""
_FACTORIES = {"None": None, **{kind.__name__: kind for kind in (int, float, bool, str, list, dict, set, tuple)}}
"""What a defaultdict may make new values with."""
_MOST_BYTES = 8
"""Of a NumPy number that Python's are as exact as."""


def encode(value: Any, prefix: str) -> tuple[Json, dict[str, torch.Tensor]]:
    """`value` as JSON, and the tensors in it by name, which all begin with `prefix`.

    Takes None, bool, int, float, str, bytes, dense tensors, NumPy arrays and numbers, none of complex128, and lists,
    tuples, sets, deques and dicts of them, collections' own among them. Raises InputError for anything else.
    """
    tensors: dict[str, torch.Tensor] = {}
    return _encode(value, prefix, tensors), tensors


def can_be_kept(value: Any) -> bool:
    """Whether `encode` takes it."""
    try:
        encode(value, "")
    except InputError:
        return False
    return True


def decode(value: Json, tensors: Mapping[str, torch.Tensor]) -> Any:
    """What `encode` was given."""
    if isinstance(value, list):
        return [decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    kind = next(iter(value), "")
    if not kind.startswith(_MARK):
        return {key: decode(item, tensors) for key, item in value.items()}
    import numpy as np
    import torch

    content = value[kind]
    match kind.removeprefix(_MARK):
        case "tensor":
            return tensors[content]
        case "tensor on":
            return tensors[content[0]].to(content[1] if torch.cuda.is_available() else "cpu")
        case "array":
            return tensors[content].numpy()
        case "bytes":
            return base64.b64decode(content)
        case "float":
            return float(content)
        case "number":
            return np.dtype(content[0]).type(decode(content[1], tensors))
        case "tuple":
            return tuple(decode(item, tensors) for item in content)
        case "set":
            return {decode(item, tensors) for item in content}
        case "frozenset":
            return frozenset(decode(item, tensors) for item in content)
        case "deque":
            return deque((decode(item, tensors) for item in content[1]), content[0])
    found = {decode(key, tensors): decode(item, tensors) for key, item in content}
    name = kind.removeprefix(_MARK)
    if name in _DICTS:
        return _DICTS[name](found)
    factory = name.removeprefix(_WITH_DEFAULT)
    return found if factory == name else defaultdict(_FACTORIES[factory], found)


def same_values(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Alike in dtype, shape and every bit that is not in a NaN; for dense tensors."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return bool(((one == other) | ((one != one) & (other != other))).all())


def _encode(value: Any, prefix: str, tensors: dict[str, torch.Tensor]) -> Json:
    import numpy as np
    import torch

    if value is None or type(value) in (bool, int, str):
        return value
    if isinstance(value, np.bool_ | np.integer | np.floating) and value.dtype.itemsize <= _MOST_BYTES:
        return {f"{_MARK}number": [value.dtype.str, _encode(value.item(), prefix, tensors)]}
    if isinstance(value, int):  # of a class of its own, as an IntEnum: equal to what comes back
        return int(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else {f"{_MARK}float": repr(value)}
    if isinstance(value, bytes):
        return {f"{_MARK}bytes": base64.b64encode(value).decode()}
    if isinstance(value, torch.Tensor | np.ndarray):
        name = f"{prefix}.{len(tensors)}"
        if isinstance(value, torch.Tensor):
            if value.layout != torch.strided or value.is_meta:
                what = "without values" if value.is_meta else f"of layout {value.layout}"
                raise InputError(f"a tensor {what} can't be kept; keep it dense")
            tensors[name] = _held(value.detach().cpu())
            device = value.device.type
            return {f"{_MARK}tensor": name} if device == "cpu" else {f"{_MARK}tensor on": [name, device]}
        try:
            tensors[name] = _held(torch.from_numpy(np.array(value, order="C")))
        except (TypeError, ValueError) as error:  # ValueError: numbers whose bytes lie the other way round.
            raise InputError(f"an array of {value.dtype} can't be kept without pickling it") from error
        return {f"{_MARK}array": name}
    if type(value) is list:
        return [_encode(item, prefix, tensors) for item in value]
    if type(value) in (tuple, torch.Size):
        return {f"{_MARK}tuple": [_encode(item, prefix, tensors) for item in value]}
    if type(value) in (set, frozenset):
        return {f"{_MARK}{type(value).__name__}": [_encode(item, prefix, tensors) for item in value]}
    if type(value) is deque:
        return {f"{_MARK}deque": [value.maxlen, [_encode(item, prefix, tensors) for item in value]]}
    if isinstance(value, Mapping) and (not isinstance(value, dict) or type(value) in _OF_DICTS):
        name = _name_of(value)
        if name != "dict":
            pairs = [[_encode(key, prefix, tensors), _encode(item, prefix, tensors)] for key, item in value.items()]
            return {f"{_MARK}{name}": pairs}
        if all(isinstance(key, str) for key in value) and not any(key.startswith(_MARK) for key in value):
            return {key: _encode(item, prefix, tensors) for key, item in value.items()}
        pairs = [[_encode(key, prefix, tensors), _encode(item, prefix, tensors)] for key, item in value.items()]
        return {f"{_MARK}dict": pairs}
    raise InputError(f"a {type(value).__name__} can't be kept without pickling it")


def _name_of(value: Mapping[Any, Any]) -> str:
    if type(value) is defaultdict:
        name = getattr(value.default_factory, "__name__", "None")
        if _FACTORIES.get(name, _MARK) is not value.default_factory:
            raise InputError(f"a defaultdict of {name} can't be kept without pickling it")
        return f"{_WITH_DEFAULT}{name}"
    return type(value).__name__ if type(value) in _DICTS.values() else "dict"


def _held(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, where a safetensors file can hold its type."""
    import torch

    if tensor.dtype == torch.complex128:
        raise InputError("complex128 can't be kept in a safetensors file; keep complex64")
    return tensor
