"""TorchInductor ahead of time (AOTInductor): generated C++ or Triton in one package. Loading compiles nothing."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hotlap.core import Array, Device, Json, Model, Operation, Session, Signature
from hotlap.errors import Unsupported
from hotlap.runtimes.torch_session import TorchSession, profiled

TAKES = "exported"
PACKAGES = ("torch",)
CODE = True
BUILD_OPTIONS: tuple[str, ...] = ("freezing",)
MICRO_BATCHES = False
STREAMS = False

_FILE = "model.pt2"


def unavailable(device: Device) -> str | None:
    """Why AOTInductor can't run here on that device, or None."""
    try:
        import torch
    except ImportError as error:
        return f"torch is not installed ({error}); pip install 'hotlap[optimize]'"
    if device == "cuda" and not torch.cuda.is_available():
        return "torch sees no CUDA device"
    if not any(shutil.which(compiler) for compiler in ("g++", "clang++", "c++")):
        return "there is no C++ compiler; install g++ (Debian: apt-get install g++)"
    return None


def variants(device: Device, precision: str) -> list[tuple[str, dict[str, Json]]]:
    """With weights folded in and packed for the machine's kernels."""
    return [("", {"freezing": True})]


def build(model: Model, folder: Path, options: Mapping[str, Json], example: list[Array]) -> list[str]:
    """Compile and write `model.pt2`."""
    from torch._inductor import aoti_compile_and_package

    settings: dict[str, Any] = {"freezing": bool(options.get("freezing", False))}
    try:
        aoti_compile_and_package(model.value, package_path=str(folder / _FILE), inductor_configs=settings)
    except Exception as error:
        # Inductor raises its own classes, the compiler's and whatever a lowering runs into.
        line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise Unsupported(f"AOTInductor can't compile the model: {type(error).__name__}: {line[:300]}") from error
    return [_FILE]


def load(
    files: Mapping[str, bytes], signature: Signature, *, device: Device, threads: int, options: Mapping[str, Json]
) -> Session:
    """Load the package's bytes. They are code: the caller has made sure of where they come from."""
    import torch
    from torch._inductor import aoti_load_package

    torch.set_num_threads(threads)
    # The loader takes a path alone: the checked bytes go into a folder that only this user can enter.
    with tempfile.TemporaryDirectory() as private:
        path = Path(private) / _FILE
        path.write_bytes(files[_FILE])
        return TorchSession(aoti_load_package(str(path)), signature, device)


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
    """Self time by operator that the generated code calls, in ms a call; its own loops are not told apart."""
    session = load(files, signature, device=device, threads=threads, options=options)
    return profiled(session, arrays, calls)
