"""What this machine is: CPU, the cores and memory that are really ours, instruction sets, GPUs, versions."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import platform
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hotlap.core import Device, Json, to_json
from hotlap.errors import InputError
from hotlap.machine import containers

# The kernel's names of what decides how fast, and with which rounding, low-precision kernels run.
_X86 = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "avx_vnni",
    "avx_vnni_int8",
    "amx_bf16",
    "amx_fp16",
    "amx_int8",
)
_INT8_DOT_PRODUCTS = {"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "asimddp", "i8mm"}
_BF16_DOT_PRODUCTS = {"avx512_bf16", "amx_bf16", "bf16"}
_ARM = ("asimd", "asimddp", "asimdhp", "bf16", "i8mm", "sve", "sve2", "sme")
_PACKAGES = (
    "hotlap",
    "torch",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxscript",
    "openvino",
    "nncf",
    "tensorrt",
    "triton",
    "numpy",
    "scipy",
)
# Packages whose kernels the measured limits come from: another version may reach another limit.
_KERNEL_PACKAGES = ("torch", "onnxruntime", "openvino")
_SMI_SECONDS = 10.0
_MEMORY_SHARE = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One CUDA device. `memory_bytes` is all of its memory; `compute_capability` such as "9.0"."""

    name: str
    memory_bytes: int
    compute_capability: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What this machine is, as far as it is ours.

    cpu: the model's name as the kernel gives it. cpu_model: vendor, family, model and stepping, since virtual
    machines share a name between generations.
    cores: physical cores that we may keep busy: within the affinity mask and the cgroup quota; at least 1.
    logical_cpus: what the affinity mask allows, hyper-threads counted. cpu_quota: the cgroups' limit in CPUs.
    memory_bytes: what we may use: physical memory, cgroup limit or RLIMIT, whichever is least.
    """

    cpu: str
    cpu_model: str
    architecture: str
    cores: int
    logical_cpus: int
    cpu_quota: float | None
    memory_bytes: int
    last_level_cache_bytes: int
    instruction_sets: tuple[str, ...]
    gpus: tuple[Gpu, ...]
    os: str
    python: str
    versions: dict[str, str]

    @property
    def instruction_set(self) -> str:
        """What an artifact records of the CPU: its architecture and the sets that kernels choose between."""
        return " ".join((self.architecture, *self.instruction_sets))

    @property
    def has_int8_dot_product(self) -> bool:
        """Whether int8 products are added in 32 bits by one instruction: VNNI or AMX, dotprod or i8mm on Arm."""
        return bool(_INT8_DOT_PRODUCTS & set(self.instruction_sets))

    @property
    def has_bf16_dot_product(self) -> bool:
        """Whether bf16 products are added by one instruction: AVX512_BF16 or AMX, bf16 on Arm."""
        return bool(_BF16_DOT_PRODUCTS & set(self.instruction_sets))

    @property
    def int8_overflows(self) -> bool:
        """Whether int8 kernels add products in 16 bits (x86 before VNNI: `vpmaddubsw`), where large ones overflow."""
        return self.architecture in ("x86_64", "AMD64") and not self.has_int8_dot_product

    @property
    def memory_limit(self) -> int:
        """Bytes that a process of ours may take: what is ours, less a tenth for all that runs beside it."""
        return int(_MEMORY_SHARE * self.memory_bytes)

    def device(self, wanted: str | None) -> Device:
        """The device asked for; where none was, CUDA if torch can use one. Raises InputError where it is not here."""
        if wanted not in (None, "cpu", "cuda"):
            raise InputError(f"device {wanted}: give cpu or cuda")
        if wanted == "cuda" and not self.gpus:
            raise InputError(
                "device cuda (by --device or the settings): this machine has no CUDA device; give --device cpu"
            )
        if wanted == "cuda" and self.unused_gpu is not None:
            raise InputError(f"device cuda: {self.unused_gpu}")
        return "cuda" if wanted == "cuda" or (wanted is None and self.gpus and not self.unused_gpu) else "cpu"

    @property
    def unused_gpu(self) -> str | None:
        """Why torch can't use the GPU that is here, and what to do; None where it can, or there is none.

        torch is not loaded for it: where it is, it is asked.
        """
        if not self.gpus:
            return None
        has = f"this machine has {self.gpus[0].name}"
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is not None and visible.strip() in ("", "-1"):
            return f"{has}, and CUDA_VISIBLE_DEVICES hides it; unset that to use it"
        if self.versions.get("torch", "").endswith("+cpu"):
            return f"{has}, and the torch here is a build for the CPU; install one for CUDA to use it"
        torch = sys.modules.get("torch")
        if torch is not None and not torch.cuda.is_available():
            return f"{has}, and torch here can't use it: torch.cuda.is_available() says no"
        return None

    def not_used(self, device: Device) -> list[str]:
        """What a result on that device warns of: a GPU that is here and goes without work."""
        if device != "cpu" or not self.gpus:
            return []
        return [self.unused_gpu or f"this machine has {self.gpus[0].name}, which was not used: the device is the CPU"]

    @property
    def machine_id(self) -> str:
        """A digest of what the CPU's measured limits depend on. Holds no host name, address or serial number."""
        kernels = {name: self.versions.get(name) for name in _KERNEL_PACKAGES}
        parts = [self.cpu, self.cpu_model, self.cores, self.instruction_set, kernels]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> Json:
        """The form that results and artifacts keep."""
        return {**to_json(self), "instruction_set": self.instruction_set}


def facts(root: Path = containers.ROOT) -> Machine:
    """Look at this machine; loads no torch. `root` is the root of the file system that is read."""
    information = _cpu_information(root)
    cpus = containers.allowed_cpus()
    quota = containers.cpu_quota(root)
    physical = containers.physical_cores(cpus, root)
    return Machine(
        cpu=information.get("model name") or information.get("Hardware") or platform.machine(),
        cpu_model=_cpu_model(information),
        architecture=platform.machine(),
        cores=max(1, min(physical, math.floor(quota) if quota else physical)),
        logical_cpus=len(cpus),
        cpu_quota=quota,
        memory_bytes=_memory_bytes(root),
        last_level_cache_bytes=containers.last_level_cache_bytes(root),
        instruction_sets=_instruction_sets(information),
        gpus=_gpus(),
        os=_operating_system(root),
        python=platform.python_version(),
        versions=_versions(),
    )


def _cpu_information(root: Path) -> dict[str, str]:
    """The first block of /proc/cpuinfo."""
    try:
        block = (root / "proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in block.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _cpu_model(information: dict[str, str]) -> str:
    names = ("vendor_id", "cpu family", "model", "stepping", "CPU implementer", "CPU part", "CPU variant")
    return " ".join(f"{name} {information[name]}" for name in names if name in information)


def _instruction_sets(information: dict[str, str]) -> tuple[str, ...]:
    flags = set((information.get("flags") or information.get("Features") or "").split())
    known = _X86 if "flags" in information else _ARM
    return tuple(name for name in known if name in flags)


def _memory_bytes(root: Path) -> int:
    import psutil

    total = int(psutil.virtual_memory().total)
    return min(total, containers.memory_limit(root) or total)


def _operating_system(root: Path) -> str:
    try:
        lines = (root / "etc/os-release").read_text().splitlines()
    except OSError:
        lines = []
    pretty = next((line.partition("=")[2].strip('"') for line in lines if line.startswith("PRETTY_NAME=")), "")
    return f"{pretty or platform.system()}, {platform.system()} {platform.release()}"


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _gpus() -> tuple[Gpu, ...]:
    """CUDA devices by NVML where its package is installed; else by torch, if it is loaded; else by nvidia-smi."""
    try:
        import pynvml
    except ImportError:
        return (
            _gpus_of_torch() if "torch" in sys.modules else gpus_of_text(asked_of_smi("name,memory.total,compute_cap"))
        )
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        found = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            # One that is lost, or whose memory the driver does not know apart from the machine's, is left out.
            with suppress(pynvml.NVMLError):
                found.append(_gpu_of_nvml(pynvml, index))
        return tuple(found)
    except pynvml.NVMLError:
        return ()  # Not even their number is told.
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _gpu_of_nvml(pynvml: Json, index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    name = pynvml.nvmlDeviceGetName(handle)
    return Gpu(
        name=name.decode() if isinstance(name, bytes) else name,
        memory_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
        compute_capability=f"{major}.{minor}",
    )


def _gpus_of_torch() -> tuple[Gpu, ...]:
    import torch

    if not torch.cuda.is_available():
        return ()
    devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return tuple(
        Gpu(name=d.name, memory_bytes=int(d.total_memory), compute_capability=f"{d.major}.{d.minor}") for d in devices
    )


def asked_of_smi(fields: str) -> str:
    """What nvidia-smi says of each GPU, a line each with the fields in their order; nothing where it can't be asked."""
    if not shutil.which("nvidia-smi"):
        return ""
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SMI_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def gpus_of_text(text: str) -> tuple[Gpu, ...]:
    """Devices from nvidia-smi's lines of name, MiB of memory, compute capability; other lines are no devices."""
    rows = [[field.strip() for field in line.rsplit(",", 2)] for line in text.splitlines()]
    return tuple(
        Gpu(name=row[0], memory_bytes=int(row[1]) * 2**20, compute_capability=row[2])
        for row in rows
        if len(row) == 3 and row[1].isdigit()
    )
