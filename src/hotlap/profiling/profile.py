"""Profiles a workload: where its time and memory go, held against the machine's limits. Changes nothing."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hotlap.core import Device, Json
from hotlap.machine.limits import Limits
from hotlap.profiling.count import count
from hotlap.profiling.modules import module_names, unchanged
from hotlap.profiling.onednn import reorder_share
from hotlap.profiling.roofline import Measured, profile_of
from hotlap.profiling.trace import trace
from hotlap.workload.inputs import call
from hotlap.workload.opened import Opened


def profile_workload(opened: Opened, *, batch: int, threads: int, limits: Limits, device: Device = "cpu") -> Json:
    """Profile the user's own model, eager, on `example(batch)`; gives the `profile` of a result, plain JSON.

    Takes some seconds, longer for slow models: a call is made about 40 times at least, 20 times where it takes 0.1 s
    and more. The model's weights, buffers
    and modules are afterwards what they were.
    """
    import torch
    from torch.utils import _pytree as pytree

    torch.set_num_threads(threads)
    model = opened.model.to(device)
    inputs = pytree.tree_map(lambda tensor: tensor.to(device), opened.example(batch))

    def once() -> None:
        with torch.inference_mode():
            call(model, inputs)
            if device == "cuda":
                torch.cuda.synchronize()

    with unchanged(model):
        peak_bytes = _peak_bytes(once, device)
        measured = Measured(
            modules=module_names(model),
            traced=trace(model, once, device=device, threads=threads),
            counted=count(model, once),
            reorder_share=reorder_share(once) if device == "cpu" else 0.0,
            threads=threads,
            peak_bytes=peak_bytes,
        )
    return {**profile_of(measured, limits), "batch": batch, "threads": threads, "device": device}


def open_target(state: dict[str, Any], *, target: str, threads: int) -> Json:
    """Open a target for `profile_target`, through a worker; gives its `workload` (the name) and `warnings`."""
    import torch

    from hotlap.workload.opened import open_workload
    from hotlap.workload.target import load_target

    torch.set_num_threads(threads)
    opened = open_workload(load_target(target), command="profile")
    state["opened"] = opened
    return {"workload": opened.loaded.name, "warnings": list(opened.warnings)}


def profile_target(state: dict[str, Any], *, batch: int, threads: int, limits: Json, device: Device) -> Json:
    """Profile the target that is open; `limits` is what Limits.to_json gave."""
    opened: Opened = state["opened"]
    return profile_workload(opened, batch=batch, threads=threads, limits=Limits.from_json(limits), device=device)


def _peak_bytes(once: Callable[[], Any], device: Device) -> int:
    """The most memory that is held while the model runs: by the process, on CUDA by torch on the device."""
    import torch

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        once()
        return int(torch.cuda.max_memory_allocated())
    # Linux forgets the peak so far when told to; where it may not be told, the peak since the start is taken.
    try:
        Path("/proc/self/clear_refs").write_text("5")
        once()
        status = Path("/proc/self/status").read_text()
    except OSError:
        once()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
