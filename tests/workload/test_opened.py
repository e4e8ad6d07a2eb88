"""Opening a workload: every kind of input and output, and every way a model can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotlap.errors import WorkloadError
from hotlap.workload.opened import open_workload
from hotlap.workload.target import load_target

HEAD = "import torch\nfrom torch import nn\nfrom hotlap import Workload\n"


def opened(folder: Path, body: str, **options):
    path = folder / "model_under_test.py"
    path.write_text(HEAD + body)
    return open_workload(load_target(str(path)), **options)


def test_tensor_in_tensor_out(tmp_path):
    it = opened(
        tmp_path, "w = Workload(model=lambda: nn.Linear(4, 3).eval(), example=lambda batch: torch.randn(batch, 4))"
    )
    assert [(s.name, s.dtype, s.shape) for s in it.signature.inputs] == [("input", "float32", ("batch", 4))]
    assert [(s.name, s.dtype, s.shape) for s in it.signature.outputs] == [("output_0", "float32", ("batch", 3))]
    assert it.signature.output_tree == 0
    assert it.warnings == ()
    assert (it.example_arrays(5)[0] == it.example_arrays(5)[0]).all()


def test_nan_is_refused(tmp_path):
    with pytest.raises(WorkloadError, match=r"gives NaN in output 0 on example\(2\)"):
        opened(
            tmp_path,
            "class M(nn.Module):\n    def forward(self, x): return x / 0 * 0\n"
            "w = Workload(model=M, example=lambda batch: torch.randn(batch, 4))",
        )
