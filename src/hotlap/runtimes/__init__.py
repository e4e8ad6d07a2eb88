"""Runtimes: one file each, found through `RUNTIMES`. A runtime is a module that has the names of `Runtime`.

Adding one: its file, a line below, its test beside the others (the contract suite finds it through this table).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from hotlap.core import Array, Candidate, Device, Form, Json, Model, Operation, Session, Signature

RUNTIMES = {
    "eager": "hotlap.runtimes.eager",
    "inductor": "hotlap.runtimes.inductor",
    "onnxruntime": "hotlap.runtimes.onnxruntime",
    "openvino": "hotlap.runtimes.openvino",
}


class Runtime(Protocol):
    """What each file of this folder provides, as module-level names."""

    TAKES: Form
    """The form that `build` takes."""
    PACKAGES: tuple[str, ...]
    """Installed packages whose versions an artifact records."""
    CODE: bool
    """True where the built files are code: opened only when signed by a trusted key or made here."""

    BUILD_OPTIONS: tuple[str, ...]
    """Options that change the built files; the others only change how they are loaded."""
    MICRO_BATCHES: bool
    """Whether `load` takes the option `micro_batch`: so many rows of the fixed batch in each part, side by side."""
    STREAMS: bool
    """Whether `load` takes the option `streams`: a session that so many threads may call at once, each stream with its
    share of the threads."""

    def unavailable(self, device: Device) -> str | None:
        """Why this runtime can't run here on that device and how to get it, or None where it can."""

    def variants(self, device: Device, precision: str) -> list[tuple[str, dict[str, Json]]]:
        """Option sets worth trying for a model of that precision, each (short label, options); plainest first.

        An option `precision` in one of them names the number format that it brings in.
        """

    def build(self, model: Model, folder: Path, options: Mapping[str, Json], example: list[Array]) -> list[str]:
        """Write the runtime's files into `folder`; give their names. Raises CandidateFailed where it can't."""

    def load(
        self,
        files: Mapping[str, bytes],
        signature: Signature,
        *,
        device: Device,
        threads: int,
        options: Mapping[str, Json],
    ) -> Session:
        """Make a callable of the files' bytes, which the caller has checked. No other file is read."""

    def operations(
        self,
        files: Mapping[str, bytes],
        signature: Signature,
        *,
        device: Device,
        threads: int,
        options: Mapping[str, Json],
        arrays: list[Array],
        calls: int,
    ) -> list[Operation]:
        """Time by operation over `calls` calls, in ms a call; empty where the runtime can't tell."""


def get(name: str) -> Runtime:
    """The runtime of that name."""
    return cast(Runtime, import_module(RUNTIMES[name]))


def of(candidate: Candidate) -> Runtime:
    """The runtime of a candidate."""
    return get(candidate.runtime)
