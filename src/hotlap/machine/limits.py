"""What this machine can do, measured: multiply-adds a second, bytes a second, launch overhead. Cached per machine.

A measured limit is no hard ceiling: Winograd's convolutions need fewer multiplies than are counted for them, and
caches beat memory (`bytes_per_second_at` knows how large a working set is).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hotlap.core import Device, Json, to_json
from hotlap.errors import Unsupported, WorkerDied, WorkerTimeout
from hotlap.machine.facts import Machine

# Raised when what is measured changes, so that older caches are measured again.
_FORM = 3
_TIMEOUT_SECONDS = 120.0
# Above this share of the CPU used by others, the figures may be too low: they are measured again next time.
_QUIET_SHARE = 0.1
_MOST_BUSY = 0.95
_MEASUREMENTS = 3
_FORMATS = ("fp32", "bf16", "int8")
_WIDER = {"fp32": ("fp32",), "bf16": ("bf16", "fp32"), "fp16": ("bf16", "fp32"), "int8": ("int8", "bf16", "fp32")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one device can do with `threads` threads.

    *_multiply_adds_per_second: the best of the kernels tried; None where no kernel of that format runs here. On
        CUDA fp32 is what its default gives, which is TF32.
    bytes_per_second: of memory that no cache holds. bandwidth: pairs of a working set in bytes and the bytes a
        second reached in it, smallest set first.
    launch_ms: one eager torch call of an elementwise operation with no work in it; launch_ms_by_kind: of others.
    call_ms: one call of a session of each runtime with no work in it, by the runtime's name.
    kernels: which kernel reached which limit.
    others_shares: by format, the share of its CPU time that others got during the call that reached the limit.
    measurements: how often it was measured; of each figure the best is kept. seconds: what the last one took.
    """

    device: Device
    threads: int
    fp32_multiply_adds_per_second: float
    bf16_multiply_adds_per_second: float | None
    int8_multiply_adds_per_second: float | None
    bytes_per_second: float
    bandwidth: tuple[tuple[int, float], ...]
    launch_ms: float | None
    launch_ms_by_kind: Mapping[str, float]
    call_ms: Mapping[str, float]
    kernels: Mapping[str, str]
    others_shares: Mapping[str, float]
    measurements: int
    seconds: float

    @property
    def rates(self) -> dict[str, float]:
        """Multiply-adds a second by number format, of those that run here."""
        found = {
            "fp32": self.fp32_multiply_adds_per_second,
            "bf16": self.bf16_multiply_adds_per_second,
            "int8": self.int8_multiply_adds_per_second,
        }
        return {name: rate for name, rate in found.items() if rate is not None}

    @property
    def others_share(self) -> float:
        """The largest of `others_shares`."""
        return max(self.others_shares.values(), default=0.0)

    @property
    def quiet(self) -> bool:
        """Whether others left the machine alone at least once while it was measured."""
        return self.others_share <= _QUIET_SHARE

    def undisturbed_factor(self, precision: str) -> float:
        """How much faster work may be than these limits say, once others leave the machine alone; 1 or more."""
        share = max(self.others_shares.get(wider, 0.0) for wider in _WIDER[precision])
        return 1.0 if share <= _QUIET_SHARE else 1 / (1 - min(share, _MOST_BUSY))

    def multiply_adds_per_second(self, precision: str) -> float:
        """The limit for work in `precision` (fp32, bf16, fp16, int8).

        Where the machine is slower in the narrower format than in a wider one, the wider one's limit: a runtime is
        free to compute in that, and they do.
        """
        return max(_rate(self, wider) for wider in _WIDER[precision])

    def bytes_per_second_at(self, working_set: float) -> float:
        """Bytes a second while going through `working_set` bytes again and again; never less than of a larger one.

        Between two measured sets it is interpolated on logarithms of both.
        """
        points = self.bandwidth
        rates = [max(rate for _, rate in points[index:]) for index in range(len(points))]
        for index in range(1, len(points)):
            (small, _), (large, _) = points[index - 1], points[index]
            if working_set <= large:
                part = max(0.0, math.log(max(working_set, 1) / small) / math.log(large / small))
                return float(rates[index - 1] ** (1 - part) * rates[index] ** part)
        return rates[-1]

    def to_json(self) -> Json:
        """The form that results keep; `from_json` takes it back."""
        return to_json(self)

    @classmethod
    def from_json(cls, data: Json) -> Limits:
        return cls(**{**data, "bandwidth": tuple((int(size), float(rate)) for size, rate in data["bandwidth"])})


def limits(
    machine: Machine, *, device: Device = "cpu", threads: int | None = None, measure_again: bool = False
) -> Limits:
    """The measured limits of a device with `threads` threads (default: the machine's cores).

    Measured in a process of its own the first time, some five seconds; kept in HOTLAP_HOME or the user's cache
    folder. What was kept from a time when others used the CPU is measured again, up to three times in all, and of
    each figure the better is kept: limits only grow. Raises CandidateFailed where measuring fails.
    """
    threads = threads or machine.cores
    file = cache_folder() / f"limits-{_key(machine, device)}-{device}-{threads}.json"
    kept = _read(file)
    if kept and (kept.quiet or kept.measurements >= _MEASUREMENTS) and not measure_again:
        return kept
    measured = _measure(machine, device, threads)
    best = merged(kept, measured) if kept else measured
    _write(file, best)
    return best


def cache_folder() -> Path:
    """Where hotlap keeps what it measured: $HOTLAP_HOME, else $XDG_CACHE_HOME/hotlap, else ~/.cache/hotlap."""
    if home := os.environ.get("HOTLAP_HOME"):
        return Path(home)
    cache = os.environ.get("XDG_CACHE_HOME")
    return Path(cache if cache else Path.home() / ".cache") / "hotlap"


def merged(old: Limits, new: Limits) -> Limits:
    """Of each figure the better one; with it how busy others were then."""
    kernels, others = dict(new.kernels), dict(new.others_shares)
    for precision in _FORMATS:
        if _rate(old, precision) > _rate(new, precision):
            kernels[precision] = old.kernels[precision]
            others[precision] = old.others_shares[precision]
    kept = dict(old.bandwidth)
    launches = {kind: min(ms, old.launch_ms_by_kind.get(kind, ms)) for kind, ms in new.launch_ms_by_kind.items()}
    calls = {name: min(ms, old.call_ms.get(name, ms)) for name, ms in new.call_ms.items()}
    return replace(
        new,
        fp32_multiply_adds_per_second=max(_rate(old, "fp32"), _rate(new, "fp32")),
        bf16_multiply_adds_per_second=max(_rate(old, "bf16"), _rate(new, "bf16")) or None,
        int8_multiply_adds_per_second=max(_rate(old, "int8"), _rate(new, "int8")) or None,
        bytes_per_second=max(old.bytes_per_second, new.bytes_per_second),
        bandwidth=tuple((size, max(rate, kept.get(size, 0.0))) for size, rate in new.bandwidth),
        launch_ms_by_kind=launches,
        launch_ms=launches.get("elementwise"),
        call_ms=calls,
        kernels=kernels,
        others_shares=others,
        measurements=old.measurements + 1,
    )


def _rate(kept: Limits, precision: str) -> float:
    """The rate measured in exactly this format; 0 where there is none."""
    return float(getattr(kept, f"{precision}_multiply_adds_per_second") or 0.0)


def _key(machine: Machine, device: Device) -> str:
    gpus = [gpu.name.replace(" ", "-").replace("/", "-") for gpu in machine.gpus] if device == "cuda" else []
    return "-".join([machine.machine_id, *gpus])


def _read(file: Path) -> Limits | None:
    """What was kept; None where there is nothing, or nothing that makes sense (it is measured again then)."""
    try:
        data = json.loads(file.read_bytes())
        if data["form"] != _FORM or data["sha256"] != _digest(data["limits"]):
            return None
        return Limits.from_json(data["limits"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _digest(value: Json) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _write(file: Path, kept: Limits) -> None:
    """Keep it, whole or not at all. Where the folder can't be written, it is measured again next time."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=".limits-")
    except OSError:
        return
    try:
        with os.fdopen(handle, "w") as out:
            value = kept.to_json()
            json.dump({"form": _FORM, "sha256": _digest(value), "limits": value}, out, indent=1)
        Path(name).replace(file)
    except OSError:
        Path(name).unlink(missing_ok=True)


def _measure(machine: Machine, device: Device, threads: int) -> Limits:
    began = time.perf_counter()
    numbers = (threads, machine.last_level_cache_bytes, machine.memory_bytes)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "limits.json"
        command = [sys.executable, "-m", "hotlap.machine.measuring", str(file), device, *map(str, numbers)]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            # GNU OpenMP's threads spin for milliseconds while they wait, which starves each other where others are
            # busy too: every parallel region then takes a time slice.
            "GOMP_SPINCOUNT": "20000",
        }
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise WorkerTimeout(f"measuring the limits of {device} took over {_TIMEOUT_SECONDS:.0f} s") from None
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise WorkerDied(f"measuring the limits of {device} failed (exit code {done.returncode}): {last}")
        found = json.loads(file.read_text())
    rates = {precision: rate for precision, (rate, _) in found["rates"].items()}
    if "fp32" not in rates:
        raise Unsupported(f"no library here computes on {device}: neither torch nor openvino can be imported")
    return Limits(
        device=device,
        threads=threads,
        fp32_multiply_adds_per_second=rates["fp32"],
        bf16_multiply_adds_per_second=rates.get("bf16"),
        int8_multiply_adds_per_second=rates.get("int8"),
        bytes_per_second=found["bandwidth"][-1][1],
        bandwidth=tuple((size, rate) for size, rate, _ in found["bandwidth"]),
        launch_ms=found["launches"].get("elementwise"),
        launch_ms_by_kind=found["launches"],
        call_ms=found["calls"],
        kernels={
            **{precision: name for precision, (_, name) in found["rates"].items()},
            "bytes": found["bandwidth"][-1][2],
        },
        others_shares=found["others_shares"],
        measurements=1,
        seconds=time.perf_counter() - began,
    )
