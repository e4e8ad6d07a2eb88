"""What the exhaustive run goes through."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hotlap.training.settings import Settings

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
STUDY: dict[str, Any] = {
    "bf16_arithmetic": True,
    "images": True, "fused": True, "foreach": True, "optimizer": "AdamW", "in_passes": {"reason": "layers"},
    "repeated": 0, "locked": [], "trim": {"reason": "no padding"}, "at_once": {"reason": "other values"},
    "kernels": {"reason": None, "attention": 0, "masked": 0}, "length_buckets": {"reason": "no padding"},
    "kept_memory": {"reason": None}, "examples": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def tuner() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("benchmark_tuner", BENCHMARKS / "tuner.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    sys.path.remove(str(BENCHMARKS))
    return module


def test_every_combination_of_what_makes_sense_is_tried_once(tuner: ModuleType) -> None:
    found = list(tuner.every(STUDY, Settings(), compiler=False, loading_share=0.0))
    # bf16, channels_last, fused: each or not.
    assert len(found) == len(set(found)) == 16
    assert Settings() in found
    assert Settings(precision="bf16", layout="channels_last", fused=True, keep_memory=True) in found


def test_reading_ahead_is_for_loader_processes(tuner: ModuleType) -> None:
    found = list(tuner.every({**STUDY, "images": False}, Settings(), compiler=True, loading_share=0.5))
    # bf16, fused and compile with no process, and with 1 and 2 that read 2 or 4 ahead.
    assert len(found) == 16 * (1 + 2 * 2)
    assert not [one for one in found if one.prefetch == 4 and not one.workers]
