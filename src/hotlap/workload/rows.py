"""Rows: batches checked against the signature, cut into examples, and told apart by digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hotlap.core import Signature
from hotlap.errors import WorkloadError
from hotlap.workload.examples import BATCH
from hotlap.workload.inputs import flatten_inputs, to_arrays
from hotlap.workload.signature import dtype_name
from hotlap.workload.user_code import naming
from hotlap.workload.workload import Inputs

if TYPE_CHECKING:
    import torch


class CannotCut(Exception):
    """Targets that do not fall into one part an example."""


def read_inputs(inputs: Inputs, signature: Signature, field: str) -> tuple[list[torch.Tensor], int]:
    """The inputs' tensors in signature order and their number of rows, checked against the signature.

    Raises WorkloadError that names `field` where a name, type, rank or size is not what `example` gives.
    """
    with naming(field):
        tensors = flatten_inputs(inputs, [spec.name for spec in signature.inputs])
        sizes: dict[str, int] = {}
        for spec, tensor in zip(signature.inputs, tensors, strict=True):
            if dtype_name(tensor) != spec.dtype:
                raise WorkloadError(f"{spec.name!r} is {dtype_name(tensor)}, but {spec.dtype} in `example`")
            if tensor.ndim != len(spec.shape):
                raise WorkloadError(
                    f"{spec.name!r} has shape {list(tensor.shape)}, but {_shape(spec.shape)} in `example`"
                )
            for index, (axis, size) in enumerate(zip(spec.shape, tensor.shape, strict=True)):
                _check_axis(spec.name, index, axis, size, sizes, signature)
    return tensors, sizes[BATCH]


def _check_axis(name: str, index: int, axis: int | str, size: int, sizes: dict[str, int], signature: Signature) -> None:
    if isinstance(axis, int):
        if size != axis:
            raise WorkloadError(
                f"axis {index} of {name!r} has size {size}, but {axis} in `example`; "
                "give it one size, or name it in `dynamic`"
            )
        return
    low, high = signature.ranges[axis]
    # An empty batch is left out, whatever the range says.
    if not (low <= size <= (size if high is None else high)) and not (axis == BATCH and size == 0):
        raise WorkloadError(
            f"axis {axis!r} of {name!r} has size {size}, outside its range in `dynamic` ({low} to {high})"
        )
    if sizes.setdefault(axis, size) != size:
        raise WorkloadError(f"axis {axis!r} has size {sizes[axis]} in one input and {size} in {name!r}")


def cut_inputs(tensors: Sequence[torch.Tensor], signature: Signature, keep: Sequence[int]) -> list[torch.Tensor]:
    """The rows `keep` of every input that has a batch axis."""
    import torch

    index = torch.tensor(list(keep), dtype=torch.int64)
    return [
        tensor.index_select(spec.shape.index(BATCH), index.to(tensor.device)) if BATCH in spec.shape else tensor
        for spec, tensor in zip(signature.inputs, tensors, strict=True)
    ]


def cut_targets(targets: Any, rows: int, keep: Sequence[int]) -> Any:
    """The rows `keep` of targets: tensors and arrays along axis 0, lists item by item, tuples and dicts inside.

    Raises CannotCut where a part does not have one item an example.
    """
    import torch

    if targets is None:
        return None
    if isinstance(targets, torch.Tensor | np.ndarray):
        if targets.ndim == 0 or targets.shape[0] != rows:
            raise CannotCut(f"a target has shape {list(targets.shape)} for {rows} examples")
        return targets[list(keep)]
    if isinstance(targets, Mapping):
        return {key: cut_targets(value, rows, keep) for key, value in targets.items()}
    if isinstance(targets, tuple | list):
        # default_collate makes lists of columns; only what is no column is a list with one item an example.
        if targets and all(_is_column(item, rows) for item in targets):
            return (
                type(targets)(*_cut_all(targets, rows, keep))
                if _named(targets)
                else type(targets)(_cut_all(targets, rows, keep))
            )
        if len(targets) == rows:
            return type(targets)([targets[index] for index in keep])
    raise CannotCut(f"the targets are a {type(targets).__name__}, which does not have one item an example")


def _cut_all(targets: Sequence[Any], rows: int, keep: Sequence[int]) -> list[Any]:
    return [cut_targets(item, rows, keep) for item in targets]


def _named(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields")


def _is_column(item: Any, rows: int) -> bool:
    import torch

    return isinstance(item, torch.Tensor | np.ndarray) and item.ndim > 0 and item.shape[0] == rows


def row_digests(tensors: Sequence[torch.Tensor], signature: Signature, rows: int) -> list[int]:
    """A 64-bit digest of each row's inputs; equal rows have equal digests."""
    columns = [
        np.moveaxis(array, spec.shape.index(BATCH), 0)
        for spec, array in zip(signature.inputs, to_arrays(tensors), strict=True)
        if BATCH in spec.shape
    ]
    heads = b"".join(f"{column.dtype}{column.shape[1:]}".encode() for column in columns)
    digests = []
    for row in range(rows):
        digest = hashlib.blake2b(heads, digest_size=8)
        for column in columns:
            digest.update(column[row].tobytes())
        digests.append(int.from_bytes(digest.digest(), "big"))
    return digests


def update_digest(digest: Any, targets: Any) -> None:
    """Add targets to a running digest: tensors, arrays, numbers, text and nests of them; other objects by type."""
    import torch

    if isinstance(targets, torch.Tensor):
        targets = to_arrays([targets])[0]
    if isinstance(targets, np.ndarray) and targets.dtype != object:
        digest.update(f"{targets.dtype}{targets.shape}".encode())
        digest.update(targets.tobytes())
    elif isinstance(targets, Mapping):
        for key, value in targets.items():
            digest.update(repr(key).encode())
            update_digest(digest, value)
    elif isinstance(targets, tuple | list):
        digest.update(f"[{len(targets)}".encode())
        for value in targets:
            update_digest(digest, value)
    elif isinstance(targets, str | bytes | int | float | bool | None):
        digest.update(repr(targets).encode())
    else:
        digest.update(type(targets).__name__.encode())


def _shape(shape: Sequence[int | str]) -> str:
    return "[" + ", ".join(str(size) for size in shape) + "]"
