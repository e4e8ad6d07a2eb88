"""Cutting a batch into micro-batches that run side by side, one thread each, and joining their outputs.

Layers of a large batch do not fit into a core's cache, those of one row may; and threads that each take rows of their
own need not wait for each other after every layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hotlap.core import Array, Json, Signature, TensorSpec
from hotlap.errors import Unsupported
from hotlap.workload.examples import BATCH


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatches:
    """How to cut: `rows` in each of `count` parts. `inputs`, `outputs`: the batch axis of each; None: it has none."""

    rows: int
    count: int
    inputs: tuple[int | None, ...]
    outputs: tuple[int, ...]

    def cut(self, arrays: Sequence[Array]) -> list[list[Array]]:
        """The inputs of each part. One without a batch axis goes to all of them."""
        return [
            [
                array if axis is None else _rows(array, axis, part * self.rows, self.rows)
                for array, axis in zip(arrays, self.inputs, strict=True)
            ]
            for part in range(self.count)
        ]

    def join(self, parts: Sequence[Sequence[Array]]) -> list[Array]:
        """The outputs of the whole batch, copied."""
        return [np.concatenate([part[index] for part in parts], axis=axis) for index, axis in enumerate(self.outputs)]


def micro_batches(signature: Signature, options: Mapping[str, Json]) -> MicroBatches | None:
    """What the option `micro_batch` asks for, None where it is not given.

    Raises Unsupported where the fixed batch is no multiple of it, and where an output has no batch axis, so that
    parts of it can't be joined.
    """
    rows = options.get("micro_batch")
    if rows is None:
        return None
    whole = options.get("fixed_axes", {}).get(BATCH, 0)
    if rows < 1 or whole < 1 or whole % rows:
        raise Unsupported(f"micro-batches of {rows} do not make up a batch of {whole}")
    outputs = [_axis(spec) for spec in signature.outputs]
    for spec, axis in zip(signature.outputs, outputs, strict=True):
        if axis is None:
            raise Unsupported(f"output {spec.name!r} has no batch axis, so micro-batches of it can't be joined")
    return MicroBatches(
        rows=rows,
        count=whole // rows,
        inputs=tuple(_axis(spec) for spec in signature.inputs),
        outputs=tuple(axis for axis in outputs if axis is not None),
    )


def _axis(spec: TensorSpec) -> int | None:
    return spec.shape.index(BATCH) if BATCH in spec.shape else None


def _rows(array: Array, axis: int, first: int, count: int) -> Array:
    return np.ascontiguousarray(array[(slice(None),) * axis + (slice(first, first + count),)])
