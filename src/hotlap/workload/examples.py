"""Example inputs: calls the workload's `example`, the same inputs each time for the same sizes."""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from hotlap.errors import WorkloadError
from hotlap.workload.user_code import running
from hotlap.workload.workload import Axis, Inputs, Workload

BATCH = "batch"
_SEED = 0


def make_example(workload: Workload, batch: int, axes: Mapping[str, int] | None = None) -> Inputs:
    """`example(batch, **axes)` with every global random generator seeded, so that each process makes the same.

    An axis that `example` needs and `axes` lacks gets the largest size of its range.
    """
    sizes = {**_required(workload), **(axes or {})}
    with _seeded(), running("example"):
        return workload.example(batch, **sizes)


def takes(workload: Workload, axis: str) -> bool:
    """Whether `example` can be asked for a size of that axis."""
    parameters = inspect.signature(workload.example).parameters
    if any(p.kind == p.VAR_KEYWORD for p in parameters.values()):
        return True
    return axis in parameters and parameters[axis].kind in (
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.KEYWORD_ONLY,
    )


def axis_name(axis: Axis) -> str:
    """The name in an entry of `dynamic`."""
    return axis if isinstance(axis, str) else axis[0]


def axis_ranges(workload: Workload) -> dict[str, tuple[int, int | None]]:
    """Smallest and largest size of each axis that varies. Raises WorkloadError where two entries disagree."""
    ranges: dict[str, tuple[int, int | None]] = {}
    for axes in (workload.dynamic or {}).values():
        for axis in axes.values():
            name = axis_name(axis)
            if isinstance(axis, str):
                ranges.setdefault(name, (1, None))
                continue
            if ranges.get(name, (1, None)) not in ((1, None), axis[1:]):
                raise WorkloadError(f"the workload's `dynamic` gives axis {name!r} two ranges; give it one")
            ranges[name] = (axis[1], axis[2])
    return {BATCH: (1, None), **ranges}


def _required(workload: Workload) -> dict[str, int]:
    ranges = axis_ranges(workload)
    sizes = {}
    for name, parameter in list(inspect.signature(workload.example).parameters.items())[1:]:
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        if parameter.default is parameter.empty:
            largest = ranges.get(name, (1, None))[1]
            if largest is None:
                raise WorkloadError(
                    f"the workload's `example` needs {name!r}: give it a default size, or a range in `dynamic`"
                )
            sizes[name] = largest
    return sizes


@contextmanager
def _seeded() -> Iterator[None]:
    import numpy as np
    import torch

    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(_SEED)
        np.random.seed(_SEED)
        torch.manual_seed(_SEED)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
