"""`profile`: where a model's time and memory go, against what the machine can do. Changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from hotlap.actions.sides import is_artifact
from hotlap.core import Array, Device, Json, to_json
from hotlap.machine.facts import facts
from hotlap.machine.limits import limits
from hotlap.measure.required import required
from hotlap.search import explain
from hotlap.search.setting import start_worker
from hotlap.workload.target import target_of
from hotlap.workload.workload import Workload

_PROFILE = "hotlap.profiling.profile"
_TIMEOUT_SECONDS = 1800.0
_CALLS = 20
_SECONDS = 0.5


def profile(
    target: str | Path | Workload,
    *,
    batch: int = 1,
    threads: int | None = None,
    device: Device | None = None,
    progress: Callable[[Json], None] | None = None,
) -> Json:
    """Profile a target; give `{"workload", "machine", "limits", "profile", "warnings", ...}` as plain JSON.

    target: a Workload or what names one, whose own model is profiled in eager PyTorch, by layer and by kind of
    operation; or an artifact folder, of which its runtime gives the time by operation. batch: rows in a call.
    Times are in ms a call. Raises InputError for what the user can mend.
    """
    tell = progress or (lambda event: None)
    machine = facts()
    where = machine.device(device)
    count = threads or machine.cores
    named = target_of(target)
    found: dict[str, Any] = {"batch": batch, "threads": count, "device": where, "machine": machine.to_json()}
    with required(f"{named} can't be profiled"), start_worker(count, machine.memory_limit) as worker:
        if is_artifact(named):
            tell({"event": "phase", "phase": "timing the artifact's operations"})
            answer = worker.call(
                "hotlap.actions.profile:profile_artifact",
                artifact=named, batch=batch, threads=count, device=where, timeout=_TIMEOUT_SECONDS,
            )  # fmt: skip
            return {**found, **answer}
        opened = worker.call(f"{_PROFILE}:open_target", target=named, threads=count, timeout=_TIMEOUT_SECONDS)
        worker.pause()
        tell({"event": "phase", "phase": "measuring the machine's limits"})
        measured = limits(machine, device=where, threads=count).to_json()
        tell({"event": "phase", "phase": "profiling the model"})
        answer = worker.call(
            f"{_PROFILE}:profile_target",
            batch=batch, threads=count, limits=measured, device=where, timeout=_TIMEOUT_SECONDS,
        )  # fmt: skip
    warnings = [*opened["warnings"], *answer["warnings"]]
    return {
        **found,
        "workload": opened["workload"],
        "limits": measured,
        "profile": answer,
        "warnings": warnings,
    }


def profile_artifact(state: dict[str, Any], *, artifact: str, batch: int, threads: int, device: Device) -> Json:
    """Time an artifact and its operations on rows of its golden inputs; called in a worker."""
    from hotlap import runtimes
    from hotlap.actions.sides import inputs
    from hotlap.artifact.check import check_artifact
    from hotlap.artifact.load import load
    from hotlap.runtimes.streams import to_time

    model = load(artifact, threads=threads)
    candidate = model.manifest.candidate
    arrays: list[Array] = inputs(state, target=artifact, batch=batch, threads=threads)["arrays"]
    call, calls_in_one = to_time(model.call_flat, dict(candidate.options), arrays)
    total = _median_ms(call) / calls_in_one
    operations = [
        to_json(one)
        for one in runtimes.of(candidate).operations(
            check_artifact(artifact).runtime_files,
            model.signature,
            device=candidate.device,
            threads=threads,
            options=dict(candidate.options),
            arrays=arrays,
            calls=_CALLS,
        )
    ]
    record = {"candidate": to_json(candidate), "median_ms": total}
    return {
        "workload": model.manifest.workload,
        "artifact": artifact,
        "candidate": candidate.name,
        "profile": {
            "total_ms": total,
            "operations": operations,
            "role_ms": explain.role_times(operations),
            "why_not_faster": explain.sentences(record, operations, limit_ms=None),
        },
        "warnings": [],
    }


def _median_ms(call: Callable[[], Any]) -> float:
    times: list[float] = []
    call()
    end = time.perf_counter() + _SECONDS
    while len(times) < _CALLS or time.perf_counter() < end:
        began = time.perf_counter()
        call()
        times.append((time.perf_counter() - began) * 1000)
    return median(times)
