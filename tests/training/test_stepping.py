"""A step of several processes: what one gives with all their passes, and gradients that are sent once."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import stepping_together
from several_processes import LAUNCHER

EXACT = 1e-6


@pytest.mark.slow
def test_two_processes_step_as_one_does_in_every_precision_and_send_gradients_once(tmp_path: Path) -> None:
    script = [stepping_together.__file__, str(tmp_path)]
    done = subprocess.run(
        [*LAUNCHER, "--standalone", "--nproc-per-node", "2", *script],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    for found in (first, second):
        assert found["differences"].keys() == {
            "ddp fp32", "ddp bf16", "ddp fp16", "fsdp2 fp32", "fsdp2 bf16", "fsdp2 fp16",
        }  # fmt: skip
        assert max(found["differences"].values()) <= EXACT, found["differences"]
        for sharding, (of_one_pass, of_all) in found["reductions"].items():
            assert of_all == of_one_pass >= 2, f"{sharding}: of the gradients, and of the loss"
    assert (first["overflow"].pop("finite"), second["overflow"].pop("finite")) == (False, True)
    assert first["overflow"] == second["overflow"] == {"skipped": True, "stayed": True, "scale": 2.0**19}
