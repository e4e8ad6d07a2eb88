"""Training on a CUDA device: for a machine that has one. Written against the documentation; not yet run on a GPU."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import trainable

import hotlap
from hotlap.errors import OutOfMemory
from hotlap.report.schema import violations
from hotlap.training.bench import Bench
from hotlap.training.memory import work
from hotlap.training.memory.clear import clear_caches
from hotlap.training.memory.timeline import Timeline
from hotlap.training.settings import Settings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SETTINGS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"precision": "bf16", "fused": True},
    "fp16": {"precision": "fp16", "clip": 1.0},
    "fp16 in passes, pinned": {"precision": "fp16", "micro_batch": 8, "workers": 1, "pin": True},
    "compiled bf16 with an average": {"precision": "bf16", "compile": True, "ema": 0.9},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_it_learns_what_the_cpu_does(name: str, tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows")
    own = hotlap.train(target, out=tmp_path / "cpu", device="cpu", threads=1)
    tuned = hotlap.train(target, out=tmp_path / "cuda", settings=SETTINGS[name], device="cuda")
    lines = [json.loads(line) for line in (tmp_path / "cuda" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == own["training"]["steps"] == 30
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    assert tuned["best"]["score"] >= own["best"]["score"] - 0.15


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_goes_on_where_it_was_interrupted(precision: str, tmp_path: Path) -> None:
    def interrupt(event: Any) -> None:
        if event["event"] == "step" and event["step"] == 13:
            raise KeyboardInterrupt

    target, settings = trainable.write(tmp_path, "rows"), {"precision": precision}
    whole = hotlap.train(target, out=tmp_path / "whole", settings=settings, device="cuda")
    with pytest.raises(KeyboardInterrupt):
        hotlap.train(target, out=tmp_path / "cut", settings=settings, device="cuda", progress=interrupt)
    resumed = hotlap.train(target, out=tmp_path / "cut", settings=settings, device="cuda", resume=True)
    assert resumed["training"]["resumed_from_step"] == 10
    assert resumed["training"]["steps"] == whole["training"]["steps"]
    # A device's sums may come in another order: near, not to the last bit as on the CPU.
    assert resumed["best"]["score"] == pytest.approx(whole["best"]["score"], abs=0.05)


def test_memory_is_the_devices_and_no_memory_is_told_as_such(tmp_path: Path) -> None:
    add = "\nimport dataclasses\nworkload = dataclasses.replace(workload, model=lambda: nn.Linear(6, 3))\n"
    target = trainable.write(tmp_path, "rows", add=add)
    settings = Settings(device="cuda", batch_size=64).to_json()
    state: dict[str, Any] = {}
    torch.cuda.reset_peak_memory_stats()
    opened = work.open_training(state, target=target, settings=settings, place=None)
    assert opened["looked_at"] == 150
    found = work.run_steps(state, settings=settings, batch=64, steps=3)
    assert 0 < found["peak_bytes"] < 2**30
    huge = "\nclass Huge(nn.Module):\n    def forward(self, rows):\n        return rows.new_empty(2**45)\n"
    larger = add.replace("nn.Linear(6, 3)", "nn.Sequential(nn.Linear(6, 3), Huge())")
    target = trainable.write(tmp_path, "rows", add=huge + larger)
    bench = Bench(
        target=target, study={}, memory_limit=None, work=tmp_path, deadline=math.inf, compiler=False,
        other_batch_sizes=False, tell=lambda event: None,
    )  # fmt: skip
    with pytest.raises(OutOfMemory):
        bench.peak(Settings(device="cuda", batch_size=64))


def test_a_set_up_is_found(tmp_path: Path) -> None:
    result = hotlap.tune(trainable.write(tmp_path, "rows"), out=tmp_path / "out", budget=90, device="cuda")
    assert violations(result) == []
    assert result["device"] == "cuda"
    rows = {row["name"]: row for row in result["candidates"]}
    assert {"bf16", "fp16", "pinned memory"} <= rows.keys()
    assert rows["kept memory"]["status"] == "skipped"
    assert result["baseline"]["peak_memory_bytes"] < torch.cuda.get_device_properties(0).total_memory


def test_live_use_has_what_the_allocator_holds(tmp_path: Path) -> None:
    with Timeline(every=10, file=tmp_path / "memory.jsonl") as timeline:
        held = torch.ones(2**26, device="cuda")
    assert timeline.looks == 2
    last = json.loads((tmp_path / "memory.jsonl").read_text().splitlines()[-1])
    allocators = [gpu["allocator"] for gpu in last["gpus"] if gpu["allocator"]]
    assert max(one["allocated_bytes"] for one in allocators) >= held.nbytes
    del held
    assert max(clear_caches().device_bytes) >= 2**28
