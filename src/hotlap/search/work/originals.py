"""The original's outputs on evaluation data, kept on disk so that each candidate is compared with them anew."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hotlap.core import Array
from hotlap.search.work.opening import original_outputs

_WHOLE = "whole"
_MOST_BYTES = 1 << 30
"""A language model's logits can take many GB. What is past this is computed again when it is asked for."""


def keep(opened: Any, folder: Path, batches: Iterable[tuple[int, Any, list[Array]]]) -> Iterator[tuple[Any, Any]]:
    """Run the original on batches and keep its outputs; gives each (batch, outputs) on the way.

    What is kept already is not computed again. Only who comes to the end of the batches has kept them all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = 0
    for index, batch, arrays in batches:
        found = outputs(opened, folder, index, arrays)
        kept += sum(output.nbytes for output in found)
        if kept <= _MOST_BYTES and not _file(folder, index).exists():
            partial = folder / "partial.npz"
            np.savez(partial, *found)
            partial.replace(_file(folder, index))
        yield batch, found
    (folder / _WHOLE).touch()


def are_kept(folder: Path) -> bool:
    """Whether `keep` has come to its end there."""
    return (folder / _WHOLE).exists()


def outputs(opened: Any, folder: Path, index: int, arrays: list[Array]) -> list[Array]:
    """The original's outputs for batch `index`, whose inputs are `arrays`."""
    if not _file(folder, index).exists():
        return original_outputs(opened, arrays)
    with np.load(_file(folder, index)) as stored:
        return [stored[name] for name in stored.files]


def _file(folder: Path, index: int) -> Path:
    return folder / f"{index:06d}.npz"
