"""Training rows as a PyTorch dataset whose tensors are the table's own memory."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import torch
from torch.utils.data import Dataset

from hotlap.errors import InputError


class Columns(Dataset[Any]):
    """Rows of a table: item i is ({column: 0-d tensor}, target), or only the dict without a target.

    `tensors` has each column as a tensor [rows] that shares the table's memory (Booleans, which Arrow packs into
    bits, are unpacked into a new one). Raises InputError for a column that is
    missing, is no number, or holds nulls: fill or drop those first, since a null rule belongs to the model.
    """

    def __init__(self, table: pa.Table, inputs: list[str], target: str | None = None) -> None:
        names = [*inputs, *([target] if target else [])]
        missing = [name for name in names if name not in table.column_names]
        if missing:
            raise InputError(f"no column {missing[0]} among the rows; there are {', '.join(table.column_names)}")
        self.tensors = {name: _tensor(name, table.column(name)) for name in names}
        self.inputs, self.target = inputs, target
        self.rows: int = table.num_rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: Any) -> Any:
        """One row, or with a slice a batch, whose tensors are views."""
        given = {name: self.tensors[name][index] for name in self.inputs}
        return given if self.target is None else (given, self.tensors[self.target][index])

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """Rows for a DataLoader, each column gathered once."""
        taken = torch.as_tensor(indices)
        gathered = {name: column[taken].unbind() for name, column in self.tensors.items()}
        rows = []
        for place in range(len(indices)):
            given = {name: gathered[name][place] for name in self.inputs}
            rows.append(given if self.target is None else (given, gathered[self.target][place]))
        return rows


def _tensor(name: str, column: pa.ChunkedArray) -> torch.Tensor:
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise InputError(f"column {name} is {kind}, not a number; encode it first")
    if column.null_count:
        raise InputError(f"column {name} has {column.null_count} nulls in {len(column)} rows; fill or drop them first")
    whole = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        whole = pa.concat_arrays(whole.chunks)
    if pa.types.is_boolean(kind):
        return torch.from_numpy(whole.to_numpy(zero_copy_only=False))
    return torch.utils.dlpack.from_dlpack(whole)
