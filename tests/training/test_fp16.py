"""Training in fp16, whose first gradients overflow: the scale is halved, and those steps are left out and counted."""

from __future__ import annotations

import json
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest
import trainable
from safetensors.numpy import load_file

import hotlap
from hotlap.training import stepping

GIVEN: dict[str, Any] = {
    "settings": {"precision": "fp16", "epochs": 2, "checkpoint_seconds": 0}, "threads": 1, "device": "cpu"
}  # fmt: skip
"""A checkpoint after each of 20 steps."""


class Stop(BaseException):
    """Stands for a kill."""


def lines(out: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if "loss" in line]


def learnt(out: Path) -> list[tuple[Any, ...]]:
    return [tuple(line[name] for name in ("step", "loss", "gradient_norm", "skipped")) for line in lines(out)]


def test_steps_whose_gradients_overflow_are_counted(tmp_path: Path) -> None:
    target, out = trainable.write(tmp_path, "rows", add=trainable.LOUD), tmp_path / "out"
    result = hotlap.train(target, out=out, **GIVEN)
    noted = lines(out)
    overflowed = [line["gradient_norm"] is None for line in noted]
    assert overflowed[0]
    assert not overflowed[-1]
    assert [line["skipped"] for line in noted] == list(accumulate(overflowed))
    assert result["training"]["skipped_steps"] == sum(overflowed)
    assert result["training"]["steps"] == 20


def test_a_resumed_run_goes_on_with_the_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And with how long it has stood: it is doubled after some steps, and then gradients overflow once more."""
    monkeypatch.setattr(stepping, "_GROWTH_STEPS", 3)
    target = trainable.write(tmp_path, "rows", add=trainable.LOUD)
    hotlap.train(target, out=tmp_path / "whole", **GIVEN)
    steps = [line["skipped"] for line in lines(tmp_path / "whole")]
    taken = next(step for step, (before, after) in enumerate(pairwise(steps), 2) if before == after)
    assert steps[-1] > steps[taken - 1] > 0, "the scale was to be doubled within the run"

    def stop(event: Any) -> None:
        if event["event"] == "step" and event["step"] == taken + 1:
            raise Stop

    with pytest.raises(Stop):
        hotlap.train(target, out=tmp_path / "out", progress=stop, **GIVEN)
    result = hotlap.train(target, out=tmp_path / "out", resume=True, **GIVEN)
    assert result["training"]["resumed_from_step"] == taken
    assert learnt(tmp_path / "out") == learnt(tmp_path / "whole")
    ended, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "whole"))
    assert all((ended[name] == whole[name]).all() for name in whole)
