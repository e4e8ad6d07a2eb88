"""`compare`: two things that take the same inputs are timed in turn; others are refused."""

from pathlib import Path

import pytest

import hotlap
from hotlap.errors import InputError

TWO = """
import torch
from hotlap import Workload

def of(size):
    return Workload(
        name=f"of-{size}",
        model=lambda: torch.nn.Linear(size, 2),
        example=lambda batch: torch.zeros(batch, size),
    )

three, four = of(3), of(4)
"""


def write(folder: Path) -> str:
    path = folder / "two.py"
    path.write_text(TWO)
    return str(path)


def test_models_that_take_other_inputs_are_refused(tmp_path: Path) -> None:
    two = write(tmp_path)
    with pytest.raises(InputError) as caught:
        hotlap.compare(f"{two}:three", f"{two}:four", budget=1.0, threads=1, device="cpu")
    assert str(caught.value).endswith(
        "two.py:four takes float32[1, 4] and the other side float32[1, 3]; both must take the same inputs"
    )


def test_a_model_beside_itself(tmp_path: Path) -> None:
    two = write(tmp_path)
    found = hotlap.compare(f"{two}:three", f"{two}:three", budget=1.0, threads=1, device="cpu")
    assert found["a"]["inputs"] == found["b"]["inputs"] == [{"dtype": "float32", "shape": [1, 3]}]
    assert found["speedup"]["low"] <= found["speedup"]["estimate"] <= found["speedup"]["high"]
    assert found["verdict"] in ("faster", "slower", "no difference")
