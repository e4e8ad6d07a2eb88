"""The benchmark of noise runs, in small."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "noise.py"


@pytest.mark.slow
def test_it_records_starts_that_can_be_read_again(tmp_path):
    path = tmp_path / "recorded.json"
    command = [sys.executable, BENCHMARK, "--record", path, "--starts", "2", "--threads", "1"]
    subprocess.run(command, check=True, capture_output=True)
    found = json.loads(path.read_text())
    assert found["configuration"]["runtime"] == "onnxruntime"
    assert len(found["starts"]) == 2
    for baseline, candidate in found["starts"]:
        assert len(baseline) == len(candidate) == found["configuration"]["blocks"]["pairs"]
        assert all(time > 0 for time in baseline + candidate)


@pytest.mark.exhaustive
def test_it_writes_what_it_found(tmp_path):
    path = tmp_path / "noise.json"
    command = [sys.executable, BENCHMARK, "--itself", "1", "--planted", "1", "--threads", "1", "--out", path]
    # 3: one of the two verdicts was wrong, which a busy machine may bring about.
    assert subprocess.run(command, check=False, capture_output=True).returncode in (0, 3)
    found = json.loads(path.read_text())
    assert found["itself"]["comparisons"] == found["planted"]["comparisons"] == 1
    assert [one["layers"] for one in found["comparisons"]] == [20, 21]
    assert found["noise_floor"] > 0
    assert found.keys() >= {"command", "commit", "when", "machine", "configuration"}
