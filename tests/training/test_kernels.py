"""What a step computes of which torch has several kernels, and that the one asked for runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import trainable

from hotlap.training import kernels, timing
from hotlap.training.settings import Settings

ATTENDS = """
import dataclasses
class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.out, self.drop = nn.Linear(6, 3), nn.Dropout(0.2)
    def forward(self, rows):
        heads = rows[:, None, None, :].expand(-1, 2, 50, -1)
        mixed = functional.scaled_dot_product_attention(heads, heads, heads)
        return self.out(self.drop(mixed).mean((1, 2)))
workload = dataclasses.replace(workload, model=Attends, batch_size=64)
"""
PLAIN = """
import dataclasses
workload = dataclasses.replace(workload, model=lambda: nn.Linear(6, 3))
"""


def seen(folder: Path, add: str, **changes: Any) -> Any:
    settings = Settings(threads=torch.get_num_threads(), **changes).to_json()
    state: dict[str, Any] = {}
    timing.study(state, target=trainable.write(folder, "rows", add=add), settings=settings)
    return timing.check_kernels(state)


def test_fused_attention_and_large_masks_are_seen(tmp_path: Path) -> None:
    found = seen(tmp_path, ATTENDS, batch_size=64)
    assert found["reason"] is None
    assert found["attention"] == 1
    assert found["masked"] >= 16_384


def test_small_masks_are_none(tmp_path: Path) -> None:
    assert seen(tmp_path, ATTENDS, batch_size=4) == {"reason": None, "attention": 1, "masked": 0}


def test_a_plain_model_has_neither(tmp_path: Path) -> None:
    assert seen(tmp_path, PLAIN, batch_size=16) == {"reason": None, "attention": 0, "masked": 0}


@pytest.mark.parametrize("attention", ["default", "math"])
def test_attention_runs_as_asked_for_and_as_before_afterwards(attention: Any) -> None:
    rows = torch.randn(2, 2, 5, 8)

    def ran() -> set[str]:
        with torch.profiler.profile() as profile:
            torch.nn.functional.scaled_dot_product_attention(rows, rows, rows)
        return {event.key for event in profile.key_averages() if "attention_" in event.key}

    with kernels.chosen(Settings(attention=attention)):
        inside = ran()
    assert any("math" in name for name in inside) == (attention == "math")
    assert not any("math" in name for name in ran())


def test_plain_attention_has_the_same_gradients(tmp_path: Path) -> None:
    found = []
    for attention in ("default", "math"):
        rows = torch.randn(2, 2, 5, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
        with kernels.chosen(Settings(attention=attention)):  # type: ignore[arg-type]
            torch.nn.functional.scaled_dot_product_attention(rows, rows, rows).square().sum().backward()
        assert rows.grad is not None
        found.append(rows.grad)
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


COMPILED = """
import sys, torch
from hotlap.training import kernels, preparing
from hotlap.training.settings import Settings

class Attends(torch.nn.Module):
    def forward(self, rows):
        return torch.nn.functional.scaled_dot_product_attention(rows, rows, rows)

rows = torch.randn(2, 2, 33, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
for attention in sys.argv[1:]:
    settings = Settings(attention=attention, compile=True)
    model = Attends()
    preparing.compile_model(model, settings)
    with kernels.chosen(settings), torch.profiler.profile() as profile:
        model(rows).sum().backward()
    names = {event.key for event in profile.key_averages()}
    print(attention, any("flash_attention" in name for name in names))
"""


@pytest.mark.exhaustive
def test_what_was_compiled_before_with_the_other_attention_is_not_taken(tmp_path: Path) -> None:
    for order in (["default", "math"], ["math", "default"]):
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / order[0])}
        command = [sys.executable, "-c", COMPILED, *order]
        for _ in range(2):
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=300)
            found = dict(line.split() for line in done.stdout.splitlines())
            assert found == {"default": "True", "math": "False"}, done.stderr
