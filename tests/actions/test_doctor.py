"""`doctor` on this machine, with limits that are already known, and its advice for made-up ones."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import known_limits
import pytest

from hotlap import runtimes
from hotlap.actions.doctor import _unavailable, advice, doctor
from hotlap.cli.doctor import lines
from hotlap.errors import InputError
from hotlap.machine.facts import Gpu, facts

KNOWN = replace(known_limits.LIMITS, bf16_multiply_adds_per_second=None)
DOCS = Path(__file__).parents[2] / "docs" / "doctor.md"
GOOD: dict[str, Any] = {
    "device": "cpu",
    "noise_floor": 0.02,
    "compiler": "/usr/bin/g++",
    "disk": [{"what": "cache", "path": "/home", "free_bytes": 10**11}],
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """What the code in the documentation gets on this machine."""
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("HOTLAP_HOME", str(home))
        known_limits.plant(home, threads=facts().cores, known=KNOWN)
        names: dict[str, Any] = {}
        exec(compile(code, DOCS.name, "exec"), names)
        yield names["report"]


@pytest.mark.slow
def test_it_says_what_this_machine_is_and_can_do(report: Any) -> None:
    assert json.loads(json.dumps(report)) == report
    assert report["machine"]["cores"] == facts().cores
    assert report["limits"] == KNOWN.to_json(), "limits that are known are not measured again"
    assert 0 < report["noise_floor"] < 10
    assert {one["name"] for one in report["runtimes"]} == set(runtimes.RUNTIMES)
    assert all(one["works"] or one["reason"] for one in report["runtimes"])
    assert next(one for one in report["runtimes"] if one["name"] == "eager")["works"]
    assert report["threads"] == facts().cores
    assert all(place["free_bytes"] > 0 for place in report["disk"])


@pytest.mark.slow
def test_the_lines_have_every_figure(report: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    Console(width=200).print(lines(report))
    text = capsys.readouterr().out
    for wanted in (
        "100 G multiply-adds/s (torch.mm 1024 x 1024)",
        "bf16                   not here",
        "400 G multiply-adds/s (OpenVINO MatMul 768 x 768)",
        "40.0 GB/s",
        "1.0 us an operation of eager PyTorch",
        "no gain below it is reported as one",
        report["machine"]["cpu"],
        *runtimes.RUNTIMES,
    ):
        assert wanted in text


def test_a_device_that_is_not_there() -> None:
    if facts().gpus:
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(
        InputError, match=r"device cuda \(by --device or the settings\): this machine has no CUDA device"
    ):
        doctor(device="cuda")


@pytest.mark.slow
def test_a_runtime_that_crashes_as_it_is_imported_is_a_line_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "openvino.py").write_text("import os\nos.abort()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(runtimes, "RUNTIMES", {name: runtimes.RUNTIMES[name] for name in ("onnxruntime", "openvino")})
    found = _unavailable("cpu", 1)
    assert found["onnxruntime"] is None
    assert found["openvino"] == "asking it ended the process: killed by SIGABRT"


def test_a_good_machine_needs_no_advice() -> None:
    machine = replace(facts(), instruction_sets=("avx512f", "avx512_vnni", "avx512_bf16"), cpu_quota=None)
    assert advice(GOOD, machine, KNOWN) == []


def test_advice_names_what_stands_in_the_way() -> None:
    machine = replace(facts(), instruction_sets=("avx2",), cpu_quota=1.5, logical_cpus=8, cores=1)
    worse = {
        **GOOD,
        "noise_floor": 0.08,
        "compiler": None,
        "disk": [{"what": "this folder", "path": "/work", "free_bytes": 10**9}],
    }
    assert advice(worse, machine, replace(KNOWN, others_shares={"fp32": 0.1, "int8": 0.4})) == [
        "a cgroup grants 1.5 of the 8 CPUs: hotlap uses 1 threads; more would be throttled",
        "others got 40% of the CPU time while the limits were measured, so they may be too low; run `hotlap doctor "
        "--again` when the machine is quiet",
        "this CPU has no dot product of int8 (VNNI, AMX, or dotprod on Arm), so int8 gains little beyond size",
        "this CPU has no bf16 arithmetic (AVX512_BF16, AMX, or bf16 on Arm), so bf16 takes half the memory and is "
        "often slower, in training too",
        "the same thing differs from itself by 8.0% here, so smaller gains can't be shown; quiet the machine, or "
        "give it cores of its own",
        "there is no C++ compiler, which torch.compile and AOTInductor need; install g++",
        "/work (this folder) has 1.0 GB left; a search may need more",
    ]


def test_a_gpu_needs_no_int8_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)  # It would be asked.
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    machine = replace(facts(), instruction_sets=(), gpus=(Gpu(name="A", memory_bytes=1, compute_capability="9.0"),))
    machine = replace(machine, versions={"torch": "2.13.0"})
    assert advice({**GOOD, "device": "cuda"}, machine, KNOWN) == []
