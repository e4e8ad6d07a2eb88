"""Real models under the real profiler. Nothing here depends on how long anything takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from hotlap.profiling.modules import module_names
from hotlap.profiling.trace import Traced, trace, watching_cost

EXPECTED = {
    "convolutions": {"convolution", "matrix product", "pooling"},
    "perceptron": {"launch"},
    "recurrent": {"recurrent"},
    "transformer": {"matrix product", "normalization"},
}


def traced(case: Any) -> Traced:
    return trace(case.model, case, device="cpu", threads=torch.get_num_threads())


@pytest.mark.slow
def test_modules_and_kinds_add_up_and_little_is_left_over(case: Any, request: pytest.FixtureRequest) -> None:
    before = {name: tensor.clone() for name, tensor in case.model.state_dict().items()}
    expected = case.model(*case.inputs)
    found = traced(case)
    assert sum(found.modules.values()) == pytest.approx(found.total_ms, rel=0.1)
    assert sum(found.kinds.values()) == pytest.approx(found.total_ms, rel=0.1)
    assert found.kinds.get("other", 0.0) <= 0.1 * found.total_ms
    assert found.total_ms > 0
    assert found.one_thread_ms > 0
    assert found.operators > 0
    name = request.node.callspec.params["case"]
    assert EXPECTED[name] <= found.kinds.keys()
    assert set(found.modules) <= set(range(len(module_names(case.model))))
    after = case.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(case.model(*case.inputs), expected)
    assert not any("forward" in vars(module) for module in case.model.modules())


@pytest.mark.slow
def test_time_goes_to_the_module_whose_work_it_is() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.ReLU(), nn.Linear(1024, 1024)), nn.Linear(8, 8))
    small, large = torch.zeros(1, 8), torch.zeros(256, 1024)

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = model

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return self.parts[2](self.parts[0](a)).sum() + self.parts[1](b).sum()

    whole = Both().eval()

    def call() -> None:
        with torch.inference_mode():
            whole(small, large)

    found = trace(whole, call, device="cpu", threads=1)
    names = {module.name: index for index, module in enumerate(module_names(whole))}
    longest = max(found.modules, key=lambda index: found.modules[index])
    assert longest == names["parts.1.1"]


@pytest.mark.slow
def test_watching_costs_something_and_an_empty_operator_too() -> None:
    cost = watching_cost("cpu")
    assert 0 < cost.inside < 1e6
    assert {"elementwise", "matrix product", "convolution", "layout"} <= cost.launch.keys()
    assert all(ns > 0 for ns in cost.launch.values())
