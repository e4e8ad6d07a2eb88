"""Holding something ready to be timed: the user's own model, or a candidate's built files."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hotlap import runtimes
from hotlap.core import Array, Candidate, Device, Json, Signature, to_json
from hotlap.runtimes.streams import to_time
from hotlap.search.work.opening import opened_workload

DONE = "built.json"
"""What a build leaves beside its files, last: their names, bytes and the seconds it took."""


def unavailable(state: dict[str, Any], *, runtime: str, device: Device) -> str | None:
    """Why a runtime can't run here, or None."""
    try:
        return runtimes.get(runtime).unavailable(device)
    except ImportError as error:
        return f"{runtime} can't be imported: {error}"


def load_original(state: dict[str, Any], *, target: str, batch: int, threads: int, device: str) -> None:
    """Hold the user's own model, called as the user calls it, ready to be timed."""
    import torch

    from hotlap.workload.inputs import call

    opened = opened_workload(state, target, threads)
    model = opened.model.to(device)
    inputs = torch.utils._pytree.tree_map(lambda tensor: tensor.to(device), opened.example(batch))

    def once() -> None:
        with torch.inference_mode():
            call(model, inputs)
            if device == "cuda":
                torch.cuda.synchronize()

    state["call"] = once


def load(state: dict[str, Any], *, candidate: Json, built: str, signature: Json, arrays: list[Array]) -> Json:
    """Load built files and hold their callable with `arrays` as its inputs, ready to be timed."""
    began = time.perf_counter()
    session = loaded_session(state, Candidate.from_json(candidate), Path(built), Signature.from_json(signature))
    state["call"], state["calls_in_one"] = to_time(session, dict(Candidate.from_json(candidate).options), arrays)
    state["call"]()
    return {"seconds": time.perf_counter() - began}


def loaded_session(state: dict[str, Any], candidate: Candidate, built: Path, signature: Signature) -> Any:
    """The built files' callable, loaded once a process."""
    if "session" not in state:
        state["session"] = runtimes.of(candidate).load(
            built_files(built),
            signature,
            device=candidate.device,
            threads=candidate.threads,
            options=dict(candidate.options),
        )
    return state["session"]


def built_files(built: Path) -> Mapping[str, bytes]:
    names = json.loads((built / DONE).read_text())["files"]
    return {name: (built / name).read_bytes() for name in names}


def peak_memory(state: dict[str, Any]) -> int:
    """The most resident memory this process has held, in bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def operations(
    state: dict[str, Any], *, candidate: Json, built: str, signature: Json, arrays: list[Array], calls: int
) -> Json:
    """Time by operation of built files, as the runtime itself tells it."""
    chosen = Candidate.from_json(candidate)
    found = runtimes.of(chosen).operations(
        built_files(Path(built)),
        Signature.from_json(signature),
        device=chosen.device,
        threads=chosen.threads,
        options=dict(chosen.options),
        arrays=[array.copy() for array in arrays],
        calls=calls,
    )
    return [to_json(operation) for operation in found]
