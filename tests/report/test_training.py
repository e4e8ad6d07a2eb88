"""The terminal's last words on a training and on a tuning."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from hotlap.report.training import TrainingLive, closing, tuned
from hotlap.training.settings import Settings

TRAINED: dict[str, Any] = {
    "workload": "base",
    "baseline": {"name": "fp32", "median_ms": 2.0},
    "best": {"name": "fp32", "precision": "fp32", "median_ms": 2.0, "score": 0.9},
    "training": {"steps": 40, "score_before": None, "skipped_steps": 0},
    "warnings": [],
}


def printed(renderable: RenderableType, width: int = 200) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


@pytest.mark.parametrize(
    ("target", "whole"),
    [
        ("base.py", "base.py@o/x"),
        ("base.py@o/base", "base.py@o/x"),
        ("at@home/base.py:small@runs/me@home", "at@home/base.py:small@o/x"),
        ("package.module:small@o/base", "package.module:small@o/x"),
        ("at@home/base.py", "at@home/base.py@o/x"),
    ],
)
def test_the_way_on_has_the_new_weights_only(target: str, whole: str) -> None:
    assert f"go on with: hotlap optimize {whole} --out ..." in printed(closing(TRAINED, target, Path("o/x")))


@pytest.mark.parametrize(
    ("precision", "steps", "words"),
    [
        ("fp32", 3, "3 steps had nothing to learn from: their loss_weight was 0"),
        ("bf16", 1, "1 step had nothing to learn from: its loss_weight was 0"),
        (
            "fp16",
            2,
            "2 steps skipped: gradients overflowed in fp16, or there was nothing to learn from (loss_weight 0)",
        ),
    ],
)
def test_skipped_steps_say_why(precision: str, steps: int, words: str) -> None:
    result = {
        **TRAINED,
        "best": {**TRAINED["best"], "precision": precision},
        "training": {**TRAINED["training"], "skipped_steps": steps},
    }
    assert words in printed(closing(result, "base.py", Path("o")))


@pytest.mark.parametrize(
    ("tried", "words", "other"),
    [
        (0, "None of 2 changes could be tried within the budget; give more with --budget", "confirmed as faster"),
        (1, "Only 1 of 3 changes could be tried within the budget; give more with --budget", "the settings of today"),
    ],
)
def test_a_budget_too_short_is_told(tried: int, words: str, other: str) -> None:
    figures = {"name": "fp32", "median_ms": 2.0, "bound_by": "compute", "loading_share": 0.0}
    spent = {"name": "bf16", "status": "skipped", "reason": "the budget was spent"}
    result = {
        "kind": "tune", "baseline": figures, "best": figures, "confirmed": False, "left_untried": ["bf16", "compile"],
        "candidates": [{"name": "fused", "status": "rejected", "reason": "no faster"}] * tried + [spent] * 2,
        "locked": [], "proposal": None, "warnings": [],
    }  # fmt: skip
    said = printed(tuned(result, "base.py", Path("o")))
    assert words in said
    assert other not in said


def test_what_is_left_to_the_user_is_told() -> None:
    figures = {"name": "fp32", "median_ms": 2.0, "bound_by": "data loading", "loading_share": 0.6}
    result = {
        "kind": "tune", "baseline": figures, "best": figures, "confirmed": False, "left_untried": [], "candidates": [],
        "locked": ["workers", "pin"], "proposal": "steps of 64 examples change the result", "warnings": ["look out"],
        "settings": Settings(clip=0.5, warmup=3, batch_size=32).to_json(),
    }  # fmt: skip
    said = printed(tuned(result, "base.py", Path("o")))
    assert "workers, pin: not hotlap's to choose, since `training` gives batches of its own" in said
    assert "steps of 64 examples change the result" in said
    assert "warning: look out" in said
    assert "the workload's own set-up with clip=0.5, warmup=3: 2.00 ms a step" in said
    assert "bound by data loading (60% of a step is waiting for data)" in said


STEP: dict[str, Any] = {
    "event": "step", "epoch": 2, "epochs": 9, "step": 140, "steps": 846, "loss": 0.2134, "examples_per_second": 1830.0,
    "left": 706, "ms": 60.0, "memory_bytes": 512_000_000,
}  # fmt: skip
FIGURES = "epoch 2 of 9, step 140 of 846, loss 0.213, 1,830 examples a second, 42 s left, 512 MB"


@pytest.mark.parametrize("width", [60, 80, 200])
def test_all_figures_of_a_step_are_shown_on_a_terminal(width: int) -> None:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, color_system=None)
    with TrainingLive(console=console) as live:
        live({"event": "phase", "phase": "training"})
        live(STEP)
        live({"event": "score", "epoch": 1, "score": 0.91234})
        shown = printed(live._render(), width)
    assert "training; last score 0.9123" in shown
    assert FIGURES in " ".join(shown.split())


def test_elsewhere_a_line_comes_every_ten_seconds() -> None:
    out, now = io.StringIO(), [0.0]
    with TrainingLive(console=Console(file=out, width=80), clock=lambda: now[0]) as live:
        for seconds in range(1, 23):
            now[0] = float(seconds)
            live(STEP)
    assert out.getvalue() == f"      10 s  {FIGURES}\n      20 s  {FIGURES}\n"
    with TrainingLive(console=Console(file=out), quiet=True, clock=lambda: 1000.0) as live:
        live(STEP)
    assert len(out.getvalue().splitlines()) == 2


def test_commands_can_be_copied_into_a_shell() -> None:
    figures = {"name": "fp32", "median_ms": 2.0, "bound_by": "compute", "loading_share": 0.0}
    best = {**figures, "name": "bf16", "speedup": {"estimate": 2.0, "low": 1.9, "high": 2.1}}
    result = {
        "kind": "tune", "baseline": figures, "best": best, "confirmed": True, "left_untried": [], "candidates": [],
        "locked": [], "proposal": None, "warnings": [], "proof": "pending",
    }  # fmt: skip
    said = printed(tuned(result, "my models/base.py", Path("my  runs/x\x1b")))
    assert "hotlap train 'my models/base.py' --out ... --settings 'my  runs/x /settings.json'" in said
    said = printed(closing(TRAINED, "my models/base.py:small", Path("my runs/x")))
    assert "go on with: hotlap optimize 'my models/base.py:small@my runs/x' --out ..." in said
