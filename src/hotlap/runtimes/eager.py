"""PyTorch, eager: the torch.export program, run operator by operator on CPU or CUDA."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

from hotlap.core import Array, Device, Json, Model, Operation, Session, Signature
from hotlap.runtimes.torch_session import TorchSession, profiled

TAKES = "exported"
PACKAGES = ("torch",)
CODE = True
BUILD_OPTIONS: tuple[str, ...] = ()
MICRO_BATCHES = False
STREAMS = False

_FILE = "model.pt2"


def unavailable(device: Device) -> str | None:
    """Why PyTorch can't run here on that device, or None."""
    try:
        import torch
    except ImportError as error:
        return f"torch is not installed ({error}); pip install 'hotlap[optimize]'"
    if device == "cuda" and not torch.cuda.is_available():
        return "torch sees no CUDA device"
    return None


def variants(device: Device, precision: str) -> list[tuple[str, dict[str, Json]]]:
    """One."""
    return [("", {})]


def build(model: Model, folder: Path, options: Mapping[str, Json], example: list[Array]) -> list[str]:
    """Write `model.pt2`, a torch.export archive."""
    import torch

    torch.export.save(model.value, folder / _FILE)
    return [_FILE]


def load(
    files: Mapping[str, bytes], signature: Signature, *, device: Device, threads: int, options: Mapping[str, Json]
) -> Session:
    """Load the archive's bytes. They are code: the caller has made sure of where they come from."""
    import torch

    torch.set_num_threads(threads)
    module = torch.export.load(io.BytesIO(files[_FILE])).module().to(device)
    return TorchSession(module, signature, device)


def operations(
    files: Mapping[str, bytes],
    signature: Signature,
    *,
    device: Device,
    threads: int,
    options: Mapping[str, Json],
    arrays: list[Array],
    calls: int,
) -> list[Operation]:
    """Self time by ATen operator from torch's profiler, longest first, in ms a call."""
    session = load(files, signature, device=device, threads=threads, options=options)
    return profiled(session, arrays, calls)
