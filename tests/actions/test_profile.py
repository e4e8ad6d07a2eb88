"""`profile` as a person calls it: targets, artifacts, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import models
import pytest
import tiny_artifact
import typer
from typer.testing import CliRunner

from hotlap.actions.profile import profile
from hotlap.cli.profile import profile as command
from hotlap.errors import ArtifactRefused, InputError, TargetError
from hotlap.machine import limits as machine_limits
from hotlap.machine.facts import facts
from hotlap.machine.limits import Limits

KNOWN = Limits(
    device="cpu",
    threads=1,
    fp32_multiply_adds_per_second=1e11,
    bf16_multiply_adds_per_second=2e11,
    int8_multiply_adds_per_second=4e11,
    bytes_per_second=4e10,
    bandwidth=((2**20, 3e11), (2**28, 4e10)),
    launch_ms=0.001,
    launch_ms_by_kind={"elementwise": 0.001},
    call_ms={"onnxruntime": 0.004},
    kernels={},
    others_share=0.0,
    measurements=1,
    seconds=1.0,
)


@pytest.fixture
def known_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOTLAP_HOME", str(tmp_path / "home"))
    machine_limits._write(tmp_path / "home" / f"limits-{facts().machine_id}-cpu-1.json", KNOWN)


def run(*arguments: str) -> Any:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


@pytest.mark.slow
@pytest.mark.usefixtures("known_limits")
def test_a_workloads_profile(tmp_path: Path) -> None:
    target = models.write(tmp_path, "convolutions")
    done = run(target, "--batch", "2", "--threads", "1", "--device", "cpu", "--json", "--quiet")
    result = json.loads(done.stdout)
    assert result["workload"] == "convolutions"
    assert result["limits"] == KNOWN.to_json()
    found = result["profile"]
    total = found["total_ms"]
    assert sum(layer["ms"] for layer in found["layers"]) == pytest.approx(total, rel=0.1)
    kinds = sum(one["ms"] for one in found["kinds"])
    assert kinds + found["other_share"] * total == pytest.approx(total, rel=0.1)
    assert found["other_share"] <= 0.1
    work = 2 * (16 * 3 * 9 * 16 * 16 + 16 * 16 * 9 * 8 * 8 + 16 * 10)
    assert found["multiply_adds"] == work


@pytest.mark.slow
@pytest.mark.usefixtures("known_limits")
def test_the_table_shows_layers_kinds_and_what_to_try(tmp_path: Path) -> None:
    text = run(models.write(tmp_path, "nested"), "--threads", "1", "--device", "cpu", "--layers", "2").stdout
    first, *rest = text.splitlines()
    assert first.startswith("nested: ")
    assert first.endswith(" ms a call of batch 1, 1 thread, cpu")
    for wanted in ("launch overhead", "more layers take", "kind of operation", "what to try", "the whole process"):
        assert any(wanted in line for line in rest)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_an_artifacts_operations(runtime: str, tmp_path: Path) -> None:
    if runtime == "onnxruntime":
        tiny_artifact.write_onnx(tmp_path / "model.onnx")
        files = {"model.onnx": tmp_path / "model.onnx"}
    else:
        tiny_artifact.write_openvino(tmp_path / "model.xml")
        files = {name: tmp_path / name for name in ("model.xml", "model.bin")}
    artifact = tiny_artifact.make(tmp_path / "artifact", runtime, files)
    result = profile(artifact, batch=3, threads=1, device="cpu")
    found = result["profile"]
    assert found["total_ms"] > 0
    assert any(one["role"] == "compute" for one in found["operations"])
    assert set(found["role_ms"]) == {"compute", "quantize", "layout", "other"}
    table = run(str(artifact), "--device", "cpu").stdout
    assert f"{runtime}, fp32" in table.splitlines()[0]


def test_no_such_file() -> None:
    with pytest.raises(TargetError, match=r"no such file: .*nowhere\.py"):
        profile("nowhere.py", threads=1, device="cpu")


def test_a_folder_that_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactRefused, match=r"has no manifest\.json, so it is no artifact"):
        profile(tmp_path, threads=1, device="cpu")


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    if facts().gpus:
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(InputError, match="--device cuda: this machine has no CUDA device; leave the flag out"):
        profile(models.write(tmp_path, "lstm"), device="cuda")
