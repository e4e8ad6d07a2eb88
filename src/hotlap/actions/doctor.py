"""`doctor`: what this machine is and can do, and what stands in the way of doing more."""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from hotlap import __version__, runtimes
from hotlap.core import Device, Json
from hotlap.errors import CandidateFailed
from hotlap.machine.facts import Machine, facts
from hotlap.machine.limits import Limits, cache_folder, limits
from hotlap.measure import pairs, statistics
from hotlap.measure.worker import Worker
from hotlap.search.setting import LOAD_SECONDS, start_worker

_COMPILERS = ("g++", "clang++", "c++")
_NOISE_STARTS = 2
_LITTLE_DISK = 2e9
"""A search of a model of a few hundred MB leaves about this much beside it while it runs."""


def doctor(
    *,
    device: Device | None = None,
    threads: int | None = None,
    measure_again: bool = False,
    progress: Callable[[Json], None] | None = None,
) -> Json:
    """What this machine is and can do, as plain JSON: machine, limits, noise_floor, runtimes, disk, advice.

    device: default cuda where there is one. threads: default the cores that are ours. measure_again: measure the
    limits although they are known (they are kept per machine, see machine.limits). Raises InputError for a device
    that is not there.
    """
    tell = progress or (lambda event: None)
    machine = facts()
    where = machine.device(device)
    count = threads or machine.cores
    tell({"event": "phase", "phase": "measuring the limits"})
    measured, no_limits = _limits(machine, where, count, measure_again)
    tell({"event": "phase", "phase": "asking the runtimes"})
    found = [
        {"name": name, "device": one, "works": reason is None, "reason": reason}
        for one in (("cpu", "cuda") if machine.gpus and not machine.unused_gpu else ("cpu",))
        for name, reason in _unavailable(one, count).items()
    ]
    tell({"event": "phase", "phase": "timing one thing against itself"})
    floor, no_floor = _noise_floor(count)
    compiler = next((path for name in _COMPILERS if (path := shutil.which(name))), None)
    report = {
        "hotlap_version": __version__,
        "python": platform.python_version(),
        "machine": machine.to_json(),
        "device": where,
        "threads": count,
        "limits": measured.to_json() if measured else None,
        "limits_reason": no_limits,
        "noise_floor": floor,
        "noise_floor_reason": no_floor,
        "runtimes": found,
        "compiler": compiler,
        "disk": _disk(),
    }
    return {**report, "advice": advice(report, machine, measured)}


def _limits(machine: Machine, device: Device, threads: int, again: bool) -> tuple[Limits | None, str | None]:
    try:
        return limits(machine, device=device, threads=threads, measure_again=again), None
    except CandidateFailed as error:
        return None, str(error)


def _unavailable(device: Device, threads: int) -> dict[str, str | None]:
    """Asked in one process, and in one each where that dies: a broken install may crash as it is imported."""

    def ask(names: Iterable[str]) -> dict[str, str | None]:
        asked = "hotlap.search.work.holding:unavailable"
        with start_worker(threads, None) as worker:
            return {name: worker.call(asked, runtime=name, device=device, timeout=LOAD_SECONDS) for name in names}

    try:
        return ask(runtimes.RUNTIMES)
    except CandidateFailed:
        answers: dict[str, str | None] = {}
        for name in runtimes.RUNTIMES:
            try:
                answers |= ask([name])
            except CandidateFailed as error:
                answers[name] = f"asking it ended the process: {error}"
        return answers


def _noise_floor(threads: int) -> tuple[float | None, str | None]:
    """What the same convolution differs by from itself, in processes of its own, as `compare` would time it."""
    starts = []
    try:
        for _ in range(_NOISE_STARTS):
            with _holding(threads) as first, _holding(threads) as second:
                starts.append(pairs.measure(first, second, pairs.SCREENING)[0])
    except CandidateFailed as error:
        return None, str(error)
    return statistics.noise_floor(starts), None


def _holding(threads: int) -> Worker:
    worker = start_worker(threads, None)
    try:
        worker.call("hotlap.actions.doctor:hold", threads=threads, timeout=LOAD_SECONDS)
    except BaseException:
        worker.close()
        raise
    return worker


def hold(state: dict[str, Any], *, threads: int) -> None:
    """Hold a convolution of about a millisecond, ready to be timed; called in a worker."""
    import torch

    torch.set_num_threads(threads)
    convolution = torch.nn.Conv2d(64, 64, 3, padding=1).eval()
    image = torch.ones(1, 64, 56, 56)

    def call() -> None:
        with torch.inference_mode():
            convolution(image)

    state["call"] = call


def _disk() -> list[Json]:
    """Room where hotlap keeps what it measures and where it works meanwhile."""
    places = {"cache": cache_folder(), "temporary files": Path(tempfile.gettempdir()), "this folder": Path.cwd()}
    return [
        {"what": what, "path": str(path), "free_bytes": shutil.disk_usage(_existing(path)).free}
        for what, path in places.items()
    ]


def _existing(path: Path) -> Path:
    return next(one for one in (path, *path.parents) if one.exists())


def advice(report: Json, machine: Machine, measured: Limits | None) -> list[str]:
    """What a person could do about this machine, one sentence each. Pure."""
    found = [machine.unused_gpu] if machine.unused_gpu else []
    if machine.cpu_quota is not None and machine.cpu_quota < machine.logical_cpus:
        found.append(
            f"a cgroup grants {machine.cpu_quota:g} of the {machine.logical_cpus} CPUs: hotlap uses "
            f"{machine.cores} threads; more would be throttled"
        )
    if measured and not measured.quiet:
        found.append(
            f"others got {measured.others_share:.0%} of the CPU time while the limits were measured, so they may "
            "be too low; run `hotlap doctor --again` when the machine is quiet"
        )
    if report["device"] == "cpu" and not machine.has_int8_dot_product:
        found.append(
            "this CPU has no dot product of int8 (VNNI, AMX, or dotprod on Arm), so int8 gains little beyond size"
        )
    if report["device"] == "cpu" and not machine.has_bf16_dot_product:
        found.append(
            "this CPU has no bf16 arithmetic (AVX512_BF16, AMX, or bf16 on Arm), so bf16 takes half the memory and is "
            "often slower, in training too"
        )
    floor = report["noise_floor"]
    if floor is not None and floor > 0.05:
        found.append(
            f"the same thing differs from itself by {floor:.1%} here, so smaller gains can't be shown; quiet the "
            "machine, or give it cores of its own"
        )
    if report["compiler"] is None:
        found.append("there is no C++ compiler, which torch.compile and AOTInductor need; install g++")
    found += [
        f"{place['path']} ({place['what']}) has {place['free_bytes'] / 1e9:.1f} GB left; a search may need more"
        for place in report["disk"]
        if place["free_bytes"] < _LITTLE_DISK
    ]
    return found
