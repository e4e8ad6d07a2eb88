"""`profile` as a person calls it: targets, artifacts, and what is wrong with them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import known_limits
import models
import pytest
import tiny_artifact
import typer
from rich.console import Console
from typer.testing import CliRunner

from hotlap.actions.profile import profile
from hotlap.cli.profile import _workload as workload_parts
from hotlap.cli.profile import profile as command
from hotlap.errors import ArtifactRefused, InputError, TargetError
from hotlap.machine.facts import facts

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """What the code in the documentation gets of an example."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "profile.md").read_text(), re.DOTALL)
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("HOTLAP_HOME", str(home))
        patch.chdir(ROOT)
        known_limits.plant(home, threads=facts().cores)
        names: dict[str, Any] = {}
        exec(compile(code, "docs/profile.md", "exec"), names)
        yield names["result"]


def run(*arguments: str) -> Any:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


@pytest.mark.slow
def test_a_workloads_profile(result: Any) -> None:
    assert json.loads(json.dumps(result)) == result
    assert result["workload"] == "digits"
    assert result["limits"] == known_limits.LIMITS.to_json(), "limits that are known are not measured again"
    found = result["profile"]
    total = found["total_ms"]
    assert sum(layer["ms"] for layer in found["layers"]) == pytest.approx(total, rel=0.1)
    kinds = sum(one["ms"] for one in found["kinds"])
    assert kinds + found["other_share"] * total == pytest.approx(total, rel=0.1)
    assert found["other_share"] <= 0.1
    head, stem = (next(one for one in found["layers"] if one["name"] == name) for name in ("head", "stem"))
    assert head["multiply_adds"] == 4 * 96 * 10
    assert stem["multiply_adds"] == 4 * 32 * 9 * 28 * 28
    assert found["suggestions"]


@pytest.mark.slow
def test_the_table_shows_layers_kinds_and_what_to_try(result: Any, capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(width=100)
    for part in workload_parts(result, 2):
        console.print(part)
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("digits: ")
    assert " ms a call of batch 4, " in first
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
    with pytest.raises(
        InputError, match=r"device cuda \(by --device or the settings\): this machine has no CUDA device"
    ):
        profile(models.write(tmp_path, "lstm"), device="cuda")
