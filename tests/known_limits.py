"""Limits as if they had been measured here, so that a test need not wait for them."""

from pathlib import Path

from hotlap.machine import limits as machine_limits
from hotlap.machine.facts import facts
from hotlap.machine.limits import Limits

LIMITS = Limits(
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
    kernels={"fp32": "torch.mm 1024 x 1024", "bf16": "torch.mm 512 x 512", "int8": "OpenVINO MatMul 768 x 768"},
    others_shares={},
    measurements=1,
    seconds=1.0,
)


def plant(home: Path, threads: int, known: Limits = LIMITS) -> None:
    """Keep them in `home` (to be HOTLAP_HOME) as this machine's, for the CPU with so many threads."""
    machine_limits._write(home / f"limits-{facts().machine_id}-cpu-{threads}.json", known)
