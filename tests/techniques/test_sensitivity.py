"""Quantizers that lose too much are found and taken out, in every form that is quantized statically."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hotlap.core import Candidate, Step, to_json
from hotlap.machine import facts as machine
from hotlap.search.work import building, holding, opening
from hotlap.techniques import ModelFacts, get, onnx_quantizers, sensitivity

OUTLIERS = """
import torch
from torch import nn
from hotlap import Workload

class Net(nn.Module):
    \"\"\"One unit is a thousand times as large as the others, and the next layer does not look at it.\"\"\"

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(6))
        with torch.no_grad():
            self.layers[3].weight[0] *= 1000
            self.layers[4].weight[:, 0] = 0

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x)) if layer is not self.layers[-1] else layer(x)
        return x

def rows(seed):
    return torch.randn(64, 32, generator=torch.Generator().manual_seed(seed))

workload = Workload(
    name="outliers", model=lambda: Net().eval(), example=lambda batch: rows(1)[:batch],
    calibration=lambda: iter(rows(2).split(16)),
)
"""


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("outliers")
    (folder / "outliers.py").write_text(OUTLIERS)
    return {"target": str(folder / "outliers.py"), "work": str(folder / "work")}


def difference(process: dict[str, Any], runtime: str, technique: str, share: float | None) -> float:
    """By how much the outputs differ from the original's, as a share of their size."""
    overflows = machine.facts().int8_overflows
    facts = ModelFacts(layers={"Linear": 6}, input_ranks=(2,), has_calibration=True, int8_overflows=overflows)
    options = get(technique).variants(facts)[0][1] | ({sensitivity.OPTION: share} if share else {})
    candidate = Candidate(
        steps=(Step(technique=technique, options=tuple(sorted(options.items()))),), runtime=runtime, threads=1,
        precision="int8", same_numbers=False, name=technique,
    )  # fmt: skip
    state: dict[str, Any] = {}
    built = building.build(state, candidate=to_json(candidate), seed=0, threads=1, **process)
    opened = opening.opened_workload(state, process["target"], 1)
    arrays = opened.example_arrays(32)
    session = holding.loaded_session(state, candidate, Path(built["folder"]), opened.signature)
    (found,), (wanted,) = session(arrays), opening.original_outputs(opened, arrays)
    return float(((found - wanted) ** 2).sum() / ((wanted - wanted.mean(0)) ** 2).sum())


@pytest.mark.parametrize(
    ("runtime", "technique"), [("openvino", "nncf_int8"), ("onnxruntime", "nncf_int8"), ("onnxruntime", "static_int8")]
)
def test_without_its_worst_quantizer_a_model_of_outliers_keeps_its_outputs(
    runtime: str, technique: str, process: dict[str, Any]
) -> None:
    everything = difference(process, runtime, technique, None)
    without = difference(process, runtime, technique, 0.1)
    assert everything > 0.1
    assert without < 0.2 * everything


def test_what_loses_most_comes_first_and_one_at_least_is_taken() -> None:
    assert sensitivity.worst([0.1, 0.5, 0.2, 0.0], 0.5) == [1, 2]
    assert sensitivity.worst([0.1, 0.5, 0.2], 0.01) == [1]


def test_losses_are_those_of_each_alone() -> None:
    def run(on: Any) -> list[np.ndarray]:
        return [np.array([2.0, 0.0]) + 2.0 * on[1], np.array([3, 4])]

    assert sensitivity.losses(run, 2) == [0.0, 2.0]


def test_weights_are_unpacked_along_their_axis() -> None:
    from onnx import helper, numpy_helper

    values, scale = np.array([[2, -4], [6, 8]], np.int8), np.array([0.5, 0.25], np.float32)
    stored = {"w": numpy_helper.from_array(values), "s": numpy_helper.from_array(scale)}
    node = helper.make_node("DequantizeLinear", ["w", "s"], ["f"], axis=0)
    assert onnx_quantizers._dequantized(node, stored).tolist() == [[1.0, -2.0], [1.5, 2.0]]
