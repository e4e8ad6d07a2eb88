"""Kernels of torch's that are replaced on a thread while a block runs.

Source: torch.library.get_kernel, torch.library.Library.
"""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

Ours = Callable[..., Any]
"""Called with torch's own kernel, then with what that is called with."""


class Replaced:
    """Kernels of aten operators on the CPU, by the operator's name, and what stands in for them."""

    _quiet = False

    def __init__(self, kernels: Mapping[str, Ours]) -> None:
        self._kernels = kernels
        self._lock, self._count = threading.Lock(), 0
        self._library: Any = None
        self._thread = threading.local()

    @contextmanager
    def here(self) -> Iterator[None]:
        """Within the block they stand in on this thread; on others torch's own run."""
        with self._lock:
            if self._library is None:
                self._library = self._registered()
            self._count += 1
        self._thread.depth = self._depth + 1
        try:
            yield
        finally:
            self._thread.depth -= 1
            with self._lock:
                self._count -= 1
                if not self._count:
                    library, self._library = self._library, None
                    library._destroy()

    @property
    def _depth(self) -> int:
        depth: int = getattr(self._thread, "depth", 0)
        return depth

    def _registered(self) -> Any:
        import torch

        library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
        for name, ours in self._kernels.items():
            kernel = self._kernel(torch.library.get_kernel(f"aten::{name}", "CPU"), ours)
            # torch warns of it once a process. To catch warnings in each step would have each told again in each.
            with nullcontext() if Replaced._quiet else warnings.catch_warnings(action="ignore"):
                library.impl(name, kernel, "CPU", with_keyset=True)  # type: ignore[no-untyped-call]
            Replaced._quiet = True
        return library

    def _kernel(self, torchs: Any, ours: Ours) -> Callable[..., Any]:
        def kernel(keys: Any, *given: Any, **named: Any) -> Any:
            if self._depth:
                return ours(functools.partial(torchs.call_boxed, keys), *given, **named)
            return torchs.call_boxed(keys, *given, **named)

        return kernel
