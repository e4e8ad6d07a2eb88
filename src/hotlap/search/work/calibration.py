"""Calibration inputs, kept on disk: drawing them takes a pass over the user's data, and each int8 build asks."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hotlap.core import Array

_MOST_BYTES = 1 << 30
"""What is more is drawn again by each that asks."""
_FOLDER = "calibration"


def keep(opened: Any, work: Path, *, seed: int, facts: Any) -> tuple[int, str | None]:
    """Draw them, once a search, and keep them for `kept`; how many examples, and what to say of them.

    `facts`: what a pass over the evaluation data found, or None.
    """
    from hotlap.workload import roles

    make, count, note = roles.calibration_arrays(opened, seed=seed, facts=facts)
    if make is not None and sum(array.nbytes for batch in make() for array in batch) <= _MOST_BYTES:
        _write(work / _FOLDER, make())
    return count, note


def _write(folder: Path, batches: Iterable[list[Array]]) -> None:
    """Give the folder its name once it is whole. Where there is no room, each draws its own."""
    partial = folder.with_suffix(".partial")
    try:
        for old in (folder, partial):
            shutil.rmtree(old, ignore_errors=True)
        partial.mkdir(parents=True)
        for index, batch in enumerate(batches):
            np.savez(partial / f"{index:06d}.npz", *batch)
        partial.replace(folder)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)


def kept(opened: Any, work: Path, *, seed: int) -> tuple[Callable[[], Iterable[list[Array]]] | None, str | None]:
    """What gives them anew each time, or None and the reason: as `keep` kept them, else drawn again."""
    from hotlap.workload import roles

    folder = work / _FOLDER
    if folder.exists():
        return lambda: _read(folder), None
    make, _, reason = roles.calibration_arrays(opened, seed=seed)
    return make, reason


def _read(folder: Path) -> Iterator[list[Array]]:
    for file in sorted(folder.iterdir()):
        with np.load(file) as stored:
            yield [stored[f"arr_{index}"] for index in range(len(stored.files))]
