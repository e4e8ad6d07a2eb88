"""Inputs and outputs as the user's code sees them, and flat, as everything else does."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any

from hotlap.core import Array, Json, Signature
from hotlap.errors import WorkloadError
from hotlap.workload.workload import Inputs, Outputs

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSpec:
    """How outputs nest: torch's own spec, and for each of its leaves whether it is a tensor (else None)."""

    spec: Any
    present: tuple[bool, ...]


class Record(dict[str, Any]):
    """A dataclass's fields, read as a dict, as attributes, or by position as transformers' outputs are."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __getitem__(self, key: str | int) -> Any:
        if isinstance(key, str):
            return super().__getitem__(key)
        return [value for value in self.values() if value is not None][key]


def input_kind(inputs: Inputs) -> str:
    """`tensor`, `tuple` or `dict`; raises WorkloadError for anything else. A list counts as a tuple."""
    import torch

    if isinstance(inputs, torch.Tensor):
        return "tensor"
    kind = "dict" if isinstance(inputs, Mapping) else "tuple" if isinstance(inputs, (tuple, list)) else None
    if kind is None:
        raise WorkloadError(f"inputs must be a Tensor, or a tuple or dict of Tensors, not {_type(inputs)}")
    if not inputs:
        raise WorkloadError(f"inputs must hold at least one Tensor; they are an empty {kind}")
    items = inputs.items() if isinstance(inputs, Mapping) else enumerate(inputs)
    for key, value in items:
        if not isinstance(value, torch.Tensor):
            raise WorkloadError(f"inputs must hold Tensors only; item {key!r} of the {kind} is {_type(value)}")
    return kind


def input_names(model: torch.nn.Module, inputs: Inputs) -> list[str]:
    """Names of the inputs: those of `forward`'s parameters; a dict's keys in the order of the parameters."""
    kind = input_kind(inputs)
    parameters = inspect.signature(model.forward).parameters.values()
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if kind == "dict":
        known = [*positional, *(p.name for p in parameters if p.kind == p.KEYWORD_ONLY)]
        extra = [str(key) for key in inputs if key not in known]
        if extra and not any(p.kind == p.VAR_KEYWORD for p in parameters):
            raise WorkloadError(
                f"inputs have {_names(extra)}, which the model's forward does not take; it takes {_names(known)}"
            )
        return [name for name in known if name in inputs] + extra
    count = 1 if kind == "tensor" else len(inputs)
    rest = next((p.name for p in parameters if p.kind == p.VAR_POSITIONAL), None)
    if count > len(positional) and rest is None:
        raise WorkloadError(f"inputs are {count} Tensors, but the model's forward takes only {_names(positional)}")
    return positional[:count] + [f"{rest}_{index}" for index in range(count - len(positional))]


def flatten_inputs(inputs: Inputs, names: Sequence[str]) -> list[torch.Tensor]:
    """The inputs' tensors in the order of `names`."""
    kind = input_kind(inputs)
    if kind == "tensor":
        inputs = (inputs,)
    if len(inputs) != len(names) or (kind == "dict" and set(inputs) != set(names)):
        have = _names(list(inputs)) if kind == "dict" else f"{len(inputs)} Tensors"
        raise WorkloadError(f"inputs are {have}; `example` gave {_names(names)}")
    return [inputs[name] for name in names] if kind == "dict" else list(inputs)


def restore_inputs(tensors: Sequence[torch.Tensor], signature: Signature) -> Inputs:
    """The inputs as the user's code gives them, of tensors in signature order."""
    if signature.input_kind == "tensor":
        return tensors[0]
    if signature.input_kind == "tuple":
        return tuple(tensors)
    return {spec.name: tensor for spec, tensor in zip(signature.inputs, tensors, strict=True)}


def call(model: torch.nn.Module, inputs: Inputs) -> Outputs:
    """`model(x)`, `model(*x)` or `model(**x)`."""
    kind = input_kind(inputs)
    return model(inputs) if kind == "tensor" else model(*inputs) if kind == "tuple" else model(**inputs)


def output_spec(outputs: Outputs) -> OutputSpec:
    """How `outputs` nest, so that flat tensors can be nested again. Raises WorkloadError for other leaves."""
    import torch
    from torch.utils import _pytree as pytree

    _register_dataclasses(outputs)
    leaves, spec = pytree.tree_flatten(outputs)
    for leaf in leaves:
        if leaf is not None and not isinstance(leaf, torch.Tensor):
            raise WorkloadError(
                f"the model's outputs must be Tensors, or tuples, dicts or dataclasses of them; they hold "
                f"{_type(leaf)}; leave it out (for a cache: use_cache=False)"
            )
    if all(leaf is None for leaf in leaves):
        raise WorkloadError("the model's outputs hold no Tensor")
    return OutputSpec(spec=spec, present=tuple(leaf is not None for leaf in leaves))


def flatten_outputs(outputs: Outputs) -> list[torch.Tensor]:
    """The outputs' tensors in the order of `torch.utils._pytree`, None left out."""
    from torch.utils import _pytree as pytree

    _register_dataclasses(outputs)
    return [leaf for leaf in pytree.tree_leaves(outputs) if leaf is not None]


def _register_dataclasses(outputs: Outputs) -> None:
    """Tell torch how to flatten the dataclasses in `outputs`; it takes one that it does not know for a leaf."""
    from torch.utils import _pytree as pytree

    if isinstance(outputs, Mapping):
        for value in outputs.values():
            _register_dataclasses(value)
    elif isinstance(outputs, (tuple, list)):
        for value in outputs:
            _register_dataclasses(value)
    elif is_dataclass(outputs) and not isinstance(outputs, type):
        if type(outputs) not in pytree.SUPPORTED_NODES:
            pytree.register_dataclass(type(outputs))
        for field in fields(outputs):
            _register_dataclasses(getattr(outputs, field.name))


def output_tree(outputs: Outputs) -> Json:
    """How `outputs` nest, as core.Signature has it."""
    count = 0

    def walk(value: Any) -> Json:
        nonlocal count
        if value is None:
            return None
        if is_dataclass(value) and not isinstance(value, type):
            return {"dataclass": {f.name: walk(getattr(value, f.name)) for f in fields(value) if f.init}}
        if isinstance(value, Mapping):
            if not all(isinstance(key, str) for key in value):
                raise WorkloadError(f"the model's outputs are a dict with keys {list(value)!r}; use strings as keys")
            return {"dict": {key: walk(item) for key, item in value.items()}}
        if isinstance(value, (tuple, list)):
            return {"tuple" if isinstance(value, tuple) else "list": [walk(item) for item in value]}
        count += 1
        return count - 1

    tree = walk(outputs)
    if count != len(flatten_outputs(outputs)):
        raise WorkloadError(
            f"the model's outputs ({_type(outputs)}) are not a Tensor, tuple, dict or dataclass of them"
        )
    return tree


def nest(tree: Json, leaves: Sequence[Any]) -> Any:
    """Nest flat outputs as `tree` says, dicts in the order of their outputs. A dataclass comes out as a Record."""
    if tree is None:
        return None
    if isinstance(tree, int):
        return leaves[tree]
    kind, items = next(iter(tree.items()))
    if kind in ("tuple", "list"):
        nested = [nest(item, leaves) for item in items]
        return tuple(nested) if kind == "tuple" else nested
    # The manifest keeps names in order of the alphabet.
    named = {key: nest(items[key], leaves) for key in sorted(items, key=lambda key: _first(items[key]))}
    return Record(named) if kind == "dataclass" else named


def _first(tree: Json) -> float:
    """The number of the first output in a part of a tree; infinite where it holds none."""
    if tree is None or isinstance(tree, int):
        return float("inf") if tree is None else tree
    (items,) = tree.values()
    return min(map(_first, items.values() if isinstance(items, dict) else items), default=float("inf"))


def restore_outputs(arrays: Sequence[Array], treespec: OutputSpec) -> Outputs:
    """The outputs as the original model nests them, its own dataclasses among them, of flat arrays."""
    import numpy as np
    import torch
    from torch.utils import _pytree as pytree

    # A copy, since torch.from_numpy warns of read-only arrays, which a runtime may give.
    flat = (torch.from_numpy(np.array(array)) for array in arrays)
    leaves = [next(flat) if present else None for present in treespec.present]
    return pytree.tree_unflatten(leaves, treespec.spec)


def to_arrays(tensors: Sequence[torch.Tensor]) -> list[Array]:
    """NumPy arrays of the tensors: contiguous, on the CPU, bfloat16 as float32 (NumPy has none)."""
    import torch

    def convert(tensor: torch.Tensor) -> Array:
        tensor = tensor.detach()
        if tensor.dtype == torch.bfloat16:
            tensor = tensor.float()
        array: Array = tensor.cpu().contiguous().numpy()
        return array

    return [convert(tensor) for tensor in tensors]


def _type(value: Any) -> str:
    name = type(value).__name__
    return "None" if value is None else f"an {name}" if name[0] in "aeiouAEIOU" else f"a {name}"


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "nothing"
