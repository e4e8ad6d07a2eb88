"""A checkpoint is tensors and JSON, and is read as such."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import trainable

import hotlap


def test_a_run_that_goes_on_unpickles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle runs what whoever wrote it wants, and checkpoints may come from elsewhere."""
    target, out = trainable.write(tmp_path, "rows"), tmp_path / "out"
    settings = {"precision": "fp16", "ema": 0.9, "schedule": "cosine", "epochs": 2, "checkpoint_seconds": 0}
    given: dict[str, Any] = {"settings": settings, "threads": 1, "device": "cpu", "out": out}
    hotlap.train(target, **given)
    whole = (out / "model.safetensors").read_bytes()
    for path in (out / "result.json", out / "model.safetensors", *out.glob("checkpoints/step-00000020.*")):
        path.unlink()
    used: list[str] = []
    for module, names in {torch: ("load",), pickle: ("load", "loads", "Unpickler", "_Unpickler")}.items():
        for name in names:

            def noted(*_: Any, name: str = f"{module.__name__}.{name}", **__: Any) -> None:
                used.append(name)
                raise AssertionError(f"{name} was called")

            monkeypatch.setattr(module, name, noted)
    result = hotlap.train(target, resume=True, **given)
    assert used == []
    assert result["training"]["resumed_from_step"] == 19
    assert (out / "model.safetensors").read_bytes() == whole
