"""One side of a comparison: a target's own model, or an artifact, held ready to be timed. Runs in a worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hotlap.core import Array, Json, to_json
from hotlap.errors import InputError
from hotlap.runtimes.streams import to_time
from hotlap.search.work.holding import load_original
from hotlap.search.work.opening import opened_workload


def is_artifact(target: str) -> bool:
    """Whether a target on the command line is an artifact folder."""
    return Path(target).is_dir()


def inputs(state: dict[str, Any], *, target: str, batch: int, threads: int) -> Json:
    """The inputs to time a side with: a target's own example, or `batch` rows of an artifact's golden inputs."""
    if not is_artifact(target):
        opened = opened_workload(state, target, threads)
        return {"arrays": opened.example_arrays(batch), "signature": to_json(opened.signature)}
    from hotlap.artifact.load import load

    model = load(target, threads=threads)
    case = model.golden[0].inputs
    arrays = [
        _rows(array, batch) if spec.shape and isinstance(spec.shape[0], str) else array
        for array, spec in zip(case, model.signature.inputs, strict=True)
    ]
    return {"arrays": arrays, "signature": to_json(model.signature)}


def _rows(array: Array, batch: int) -> Array:
    return np.ascontiguousarray(np.resize(array, (batch, *array.shape[1:])))


def _kinds(arrays: list[Array]) -> str:
    return ", ".join(f"{array.dtype}{list(array.shape)}" for array in arrays)


def hold(state: dict[str, Any], *, target: str, arrays: list[Array], batch: int, threads: int, device: str) -> None:
    """Hold the side's callable, ready to be timed. Raises InputError where it takes other inputs than `arrays`."""
    if not is_artifact(target):
        own = _kinds(opened_workload(state, target, threads).example_arrays(batch))
        if own != _kinds(arrays):
            raise InputError(
                f"{target} takes {own} and the other side {_kinds(arrays)}; both must take the same inputs"
            )
        load_original(state, target=target, batch=batch, threads=threads, device=device)
        return
    from hotlap.artifact.load import load

    model = load(target, threads=threads)
    wanted = [(spec.dtype, len(spec.shape)) for spec in model.signature.inputs]
    given = [(str(array.dtype), array.ndim) for array in arrays]
    if wanted != given:
        raise InputError(f"{target} takes {wanted} (dtype, axes) and the other side {given}: they can't be compared")
    state["call"], state["calls_in_one"] = to_time(model.call_flat, dict(model.manifest.candidate.options), arrays)
    state["call"]()
