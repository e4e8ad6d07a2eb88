"""The whole profile of workloads as users write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import models
import pytest
import torch
from known_limits import LIMITS

from hotlap.profiling.profile import open_target, profile_target, profile_workload
from hotlap.workload.opened import open_workload
from hotlap.workload.target import load_target


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convolutions", "nested"])
def test_a_profile_adds_up_and_changes_nothing(name: str, tmp_path: Path) -> None:
    opened = open_workload(load_target(models.write(tmp_path, name)))
    before = {key: value.clone() for key, value in opened.model.state_dict().items()}
    profile = profile_workload(opened, batch=2, threads=1, limits=LIMITS)
    assert json.loads(json.dumps(profile)) == profile
    total = profile["total_ms"]
    assert sum(layer["ms"] for layer in profile["layers"]) == pytest.approx(total, rel=0.1)
    kinds = sum(one["ms"] for one in profile["kinds"])
    assert kinds + profile["other_share"] * total == pytest.approx(total, rel=0.1)
    assert profile["other_share"] <= 0.1
    assert profile["batch"] == 2
    assert profile["multiply_adds"] == sum(layer["multiply_adds"] for layer in profile["layers"]) > 0
    assert profile["memory"]["peak_bytes"] > profile["memory"]["weights_bytes"] > 0
    assert profile["overhead"]["waiting_share"] == 0, "one thread waits for none"
    assert profile["bounds_ms"].keys() == {"fp32", "bf16", "int8"}
    after = opened.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not any("forward" in vars(module) for module in opened.model.modules())


@pytest.mark.slow
def test_a_target_is_opened_and_profiled_in_a_worker(tmp_path: Path) -> None:
    state: dict[str, Any] = {}
    opened = open_target(state, target=models.write(tmp_path, "lstm"), threads=1)
    assert opened == {"workload": "lstm", "warnings": []}
    found = profile_target(state, batch=1, threads=1, limits=LIMITS.to_json(), device="cpu")
    assert found["multiply_adds"] == 10 * 4 * 16 * (8 + 16) + 16 * 4
    assert any(one["kind"] == "recurrent" for one in found["kinds"])
