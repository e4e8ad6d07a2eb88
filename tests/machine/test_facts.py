from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from hotlap.errors import InputError
from hotlap.machine.facts import Gpu, Machine, facts, gpus_of_text

X86 = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Example Xeon
stepping\t: 8
flags\t\t: fpu avx2 avx512f avx512_vnni amx_int8 amx_bf16 amx_tile sse4_2

processor\t: 1
model name\t: another
"""
ARM = """processor\t: 0
BogoMIPS\t: 50.00
Features\t: fp asimd asimddp bf16 i8mm sve
CPU implementer\t: 0x41
CPU part\t: 0xd40
"""


def machine_with(tmp_path: Path, **files: str) -> Machine:
    for name, text in files.items():
        file = tmp_path / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return facts(tmp_path)


def test_an_x86_cpu(tmp_path: Path) -> None:
    machine = machine_with(tmp_path, proc__cpuinfo=X86)
    assert machine.cpu == "Example Xeon"
    assert machine.cpu_model == "vendor_id GenuineIntel cpu family 6 model 143 stepping 8"
    assert machine.instruction_sets == ("avx2", "avx512f", "avx512_vnni", "amx_bf16", "amx_int8")
    assert machine.instruction_set.endswith(" avx2 avx512f avx512_vnni amx_bf16 amx_int8")


def test_an_arm_cpu(tmp_path: Path) -> None:
    machine = machine_with(tmp_path, proc__cpuinfo=ARM)
    assert machine.instruction_sets == ("asimd", "asimddp", "bf16", "i8mm", "sve")
    assert machine.cpu_model == "CPU implementer 0x41 CPU part 0xd40"


def test_a_quota_below_the_cores_leaves_whole_cores_and_at_least_one(tmp_path: Path) -> None:
    machine = machine_with(
        tmp_path,
        proc__self__cgroup="0::/\n",
        sys__fs__cgroup__cpu_max="",
        **{"sys__fs__cgroup__cpu.max": "50000 100000"},
    )
    assert machine.cores == 1
    assert machine.cpu_quota == 0.5


def test_a_memory_limit_below_the_physical_memory_counts(tmp_path: Path) -> None:
    machine = machine_with(tmp_path, proc__self__cgroup="0::/\n", **{"sys__fs__cgroup__memory.max": str(2**26)})
    assert machine.memory_bytes == 2**26


def test_this_machine() -> None:
    machine = facts()
    assert 1 <= machine.cores <= machine.logical_cpus == len(os.sched_getaffinity(0))
    assert 0 < machine.memory_bytes <= psutil.virtual_memory().total
    assert machine.cpu
    assert machine.versions["numpy"]
    assert json.loads(json.dumps(machine.to_json())) == machine.to_json()
    assert {
        "cpu",
        "cores",
        "memory_bytes",
        "instruction_sets",
        "gpus",
        "os",
        "versions",
    } <= machine.to_json().keys()


def test_the_id_follows_what_limits_depend_on_and_nothing_else() -> None:
    machine = facts()
    versions = machine.versions
    assert replace(machine).machine_id == machine.machine_id
    assert replace(machine, os="another").machine_id == machine.machine_id
    assert replace(machine, versions={**versions, "scipy": "0"}).machine_id == machine.machine_id
    assert replace(machine, versions={**versions, "torch": "0"}).machine_id != machine.machine_id
    assert replace(machine, cores=machine.cores + 1).machine_id != machine.machine_id
    assert replace(machine, instruction_sets=()).machine_id != machine.machine_id


@pytest.mark.parametrize(
    ("architecture", "sets", "overflows"),
    [
        ("x86_64", ("avx2",), True),
        ("x86_64", ("avx2", "avx512f"), True),
        ("x86_64", ("avx512f", "avx512_vnni"), False),
        ("x86_64", ("avx2", "avx_vnni"), False),
        ("aarch64", ("asimd",), False),
        ("aarch64", ("asimd", "asimddp"), False),
    ],
)
def test_int8_overflows_on_x86_without_its_dot_product(
    architecture: str, sets: tuple[str, ...], overflows: bool
) -> None:
    assert replace(facts(), architecture=architecture, instruction_sets=sets).int8_overflows == overflows


def test_looking_loads_no_torch_and_no_runtime() -> None:
    code = (
        "import sys; from hotlap.machine.facts import facts; facts();"
        "print([n for n in ('torch', 'onnxruntime', 'openvino', 'numpy') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_gpus_as_nvidia_smi_lists_them() -> None:
    assert gpus_of_text("NVIDIA H200, 143771, 9.0\nTesla, K80, 11441, 3.7\n") == (
        Gpu(name="NVIDIA H200", memory_bytes=143771 * 2**20, compute_capability="9.0"),
        Gpu(name="Tesla, K80", memory_bytes=11441 * 2**20, compute_capability="3.7"),
    )
    assert gpus_of_text("No devices were found\n") == ()


CARD = Gpu(name="NVIDIA H100", memory_bytes=80 * 2**30, compute_capability="9.0")


@pytest.mark.parametrize(
    ("version", "visible", "why"),
    [
        ("2.13.0+cpu", None, "the torch here is a build for the CPU; install one for CUDA"),
        ("2.13.0", "", "CUDA_VISIBLE_DEVICES hides it"),
        ("2.13.0", "-1", "CUDA_VISIBLE_DEVICES hides it"),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_not_the_default(
    version: str, visible: str | None, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    machine = replace(facts(), gpus=(CARD,), versions={"torch": version})
    assert machine.device(None) == "cpu"
    assert why in machine.not_used("cpu")[0]
    with pytest.raises(InputError, match=why):
        machine.device("cuda")


def test_a_gpu_that_torch_can_use_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    machine = replace(facts(), gpus=(CARD,), versions={"torch": "2.13.0"})
    assert machine.device(None) == machine.device("cuda") == "cuda"
    assert machine.not_used("cuda") == []
    assert "NVIDIA H100, which was not used" in machine.not_used("cpu")[0]
    assert replace(machine, gpus=()).not_used("cpu") == []
