"""Giving back memory that is held and not used, and saying how much it was."""

from __future__ import annotations

import ctypes
import gc
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hotlap.training.memory.use import fields, kibibytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleared:
    """What was given back, in bytes: `process_bytes` of resident memory to the system, `device_bytes` of each CUDA
    device's cache to the driver. `collected` counts the objects that only cycles kept alive. `note` says what could
    not be cleared here, and is empty where all could."""

    process_bytes: int
    device_bytes: tuple[int, ...]
    collected: int
    note: str = ""


def clear_caches() -> Cleared:
    """Collect garbage, empty torch's CUDA caches, and give free heap pages back to the system (`malloc_trim`).

    Tensors that are in use are not touched. Works without a GPU and without torch.
    """
    before = resident_bytes()
    collected = gc.collect()
    device_bytes = _empty_device_caches(sys.modules.get("torch"))
    note = _trim_heap()
    return Cleared(
        process_bytes=max(0, before - resident_bytes()), device_bytes=device_bytes, collected=collected, note=note
    )


def resident_bytes() -> int:
    """Resident memory of this process."""
    return kibibytes(fields(Path("/proc/self/status"))["VmRSS"])


def _empty_device_caches(torch: Any) -> tuple[int, ...]:
    if torch is None or not torch.cuda.is_initialized():
        return ()
    devices = range(torch.cuda.device_count())
    before = [torch.cuda.memory_reserved(index) for index in devices]
    torch.cuda.empty_cache()
    return tuple(held - torch.cuda.memory_reserved(index) for index, held in zip(devices, before, strict=True))


def _trim_heap() -> str:
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except AttributeError:
        return "the C library has no malloc_trim, so free heap pages stay with the process"
    trim(0)
    return ""
