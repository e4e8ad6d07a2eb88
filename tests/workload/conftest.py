"""Workload files, written as a user writes them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hotlap.workload.opened import Opened, open_workload
from hotlap.workload.target import load_target

HEAD = "import torch\nfrom torch import nn\nfrom hotlap import Workload\n"


@pytest.fixture(autouse=True)
def _leave_imports_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What loading a test's files adds to the path and the modules goes away with the test."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write `body` below the usual imports into a file of that name."""

    def make(body: str, name: str = "mine.py", head: str = HEAD) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(head + body)
        return path

    return make


@pytest.fixture
def opened(write: Callable[..., Path]) -> Callable[..., Opened]:
    """Open the workload that `body` defines."""

    def make(body: str, **options: object) -> Opened:
        return open_workload(load_target(str(write(body))), **options)  # type: ignore[arg-type]

    return make


@pytest.fixture
def linear(opened: Callable[..., Opened]) -> Callable[..., Opened]:
    """Open a workload of a small linear model with further `fields`, after `before`."""

    def make(fields: str, before: str = "") -> Opened:
        return opened(
            f"{before}\n"
            "w = Workload(model=lambda: nn.Linear(4, 3).eval(), example=lambda batch: torch.randn(batch, 4),\n"
            f"    {fields})\n"
        )

    return make
