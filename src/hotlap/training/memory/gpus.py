"""Live use of every GPU: by NVML of the whole device, and by torch's allocator of this process's part."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from hotlap.machine.facts import asked_of_smi

_SMI_LASTS_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocatorUse:
    """torch's caching allocator on one device, in this process; bytes.

    `reserved` is what it took from the driver, `allocated` what tensors hold of it; the peaks are since the process
    began or `torch.cuda.reset_peak_memory_stats`.
    """

    allocated_bytes: int
    reserved_bytes: int
    peak_allocated_bytes: int
    peak_reserved_bytes: int

    @property
    def fragmentation(self) -> float:
        """The share of what is reserved that no tensor holds, 0 to 1."""
        return 1 - self.allocated_bytes / self.reserved_bytes if self.reserved_bytes else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuUse:
    """One GPU. `utilization` (0 to 1) is the share of the last moments in which a kernel ran; None where the driver
    does not say. `processes` gives bytes by pid, as far as the driver tells. `allocator` is None where this process
    has not used the device."""

    index: int
    name: str
    total_bytes: int
    used_bytes: int
    utilization: float | None
    processes: tuple[tuple[int, int], ...]
    allocator: AllocatorUse | None


def gpus() -> tuple[GpuUse, ...]:
    """Every GPU that answers: by NVML where its package and a driver are there, else by torch if it uses them, else,
    without the package, by nvidia-smi.
    """
    try:
        import pynvml
    except ImportError:
        return _by_torch() or uses_of_text(_told_by_smi(int(time.monotonic() / _SMI_LASTS_SECONDS)))
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return _by_torch()
    found = []
    try:
        own = _own_allocators()
        for index in range(pynvml.nvmlDeviceGetCount()):
            # One that is lost, or whose memory the driver does not know apart from the machine's, is left out.
            with suppress(pynvml.NVMLError):
                found.append(_by_nvml(pynvml, index, own))
    except pynvml.NVMLError:
        pass  # Not even their number is told.
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()
    return tuple(found) or _by_torch()


def _by_nvml(pynvml: Any, index: int, own: dict[str, AllocatorUse]) -> GpuUse:
    def told(call: Callable[[], Any], default: Any) -> Any:
        """What the driver says, or the default: many devices don't support many questions."""
        try:
            return call()
        except pynvml.NVMLError:
            return default

    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    rates = told(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle), None)
    running = told(lambda: pynvml.nvmlDeviceGetComputeRunningProcesses(handle), [])
    return GpuUse(
        index=index,
        name=str(_text(told(lambda: pynvml.nvmlDeviceGetName(handle), "unnamed"))),
        total_bytes=int(memory.total),
        used_bytes=int(memory.used),
        utilization=None if rates is None else rates.gpu / 100,
        processes=tuple((one.pid, int(one.usedGpuMemory)) for one in running if one.usedGpuMemory is not None),
        allocator=own.get(_text(told(lambda: pynvml.nvmlDeviceGetUUID(handle), "")).removeprefix("GPU-")),
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _own_allocators() -> dict[str, AllocatorUse]:
    """By the device's UUID, since torch numbers devices otherwise than the driver (CUDA_VISIBLE_DEVICES)."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    indices = range(torch.cuda.device_count())
    return {str(torch.cuda.get_device_properties(index).uuid): allocator_use(torch, index) for index in indices}


def allocator_use(torch: Any, index: int) -> AllocatorUse:
    """What torch's allocator holds on one device."""
    return AllocatorUse(
        allocated_bytes=int(torch.cuda.memory_allocated(index)),
        reserved_bytes=int(torch.cuda.memory_reserved(index)),
        peak_allocated_bytes=int(torch.cuda.max_memory_allocated(index)),
        peak_reserved_bytes=int(torch.cuda.max_memory_reserved(index)),
    )


@lru_cache(maxsize=1)
def _told_by_smi(moment: int) -> str:
    """What nvidia-smi said last; starting it takes long beside other ways."""
    return asked_of_smi("index,name,memory.total,memory.used,utilization.gpu")


def uses_of_text(text: str) -> tuple[GpuUse, ...]:
    """Devices from nvidia-smi's lines of index, name, MiB in all, MiB used, percent busy; other lines are none."""
    rows = []
    for line in text.splitlines():
        index, _, rest = line.partition(",")
        row = [field.strip() for field in (index, *rest.rsplit(",", 3))]
        if len(row) == 5 and all(row[place].isdigit() for place in (0, 2, 3)):
            rows.append(row)
    return tuple(
        GpuUse(
            index=int(index),
            name=name,
            total_bytes=int(total) * 2**20,
            used_bytes=int(used) * 2**20,
            utilization=int(busy) / 100 if busy.isdigit() else None,
            processes=(),
            allocator=None,
        )
        for index, name, total, used, busy in rows
    )


def _by_torch() -> tuple[GpuUse, ...]:
    torch = sys.modules.get("torch")
    # Looking must not be what first uses a device: that takes hundreds of MB of it, and forbids forks.
    if torch is None or not torch.cuda.is_initialized():
        return ()
    found = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        found.append(
            GpuUse(
                index=index,
                name=torch.cuda.get_device_name(index),
                total_bytes=int(total),
                used_bytes=int(total - free),
                utilization=None,
                processes=(),
                allocator=allocator_use(torch, index),
            )
        )
    return tuple(found)
