"""The set-up as code for other loops: it parses, and says what the settings say; the plain one is run."""

import ast
from typing import Any

import pytest
import torch

from hotlap.report.snippets import snippets
from hotlap.training.settings import Settings

CHANGED: dict[str, Any] = {
    "precision": "bf16", "layout": "channels_last", "compile": True, "fused": True, "batch_size": 32, "micro_batch": 8,
    "workers": 2, "prefetch": 3,
}  # fmt: skip
TEXTS: dict[str, Any] = {"trim": True, "foreach": True}
AT_ONCE: dict[str, Any] = {"at_once": True, "workers": 1, "batch_size": 16}


@pytest.mark.parametrize(
    "changes",
    [{}, CHANGED, {"precision": "fp16"}, TEXTS, AT_ONCE],
    ids=["plain", "changed", "fp16", "texts", "at once"],
)
@pytest.mark.parametrize("loop", ["pytorch", "lightning", "accelerate"])
def test_it_is_python(loop: str, changes: Any) -> None:
    ast.parse(snippets(Settings(**changes).to_json())[loop])


def test_each_setting_is_said() -> None:
    found = snippets(Settings(**CHANGED).to_json())
    for words in ("bf16-mixed", "accumulate_grad_batches=4", "batch_size=8", "num_workers=2", "prefetch_factor=3"):
        assert words in found["lightning"]
    for words in ('mixed_precision="bf16"', "gradient_accumulation_steps=4", "channels_last", "torch.compile", "fused"):
        assert words in found["accelerate"]


def test_trimming_and_the_optimizers_form_are_said() -> None:
    for code in snippets(Settings(**TEXTS).to_json()).values():
        assert "inputs = {name: value[:, :length] for name, value in inputs.items()}" in code
        assert "foreach=True" in code


def test_reading_at_once_is_said_with_its_batch_size() -> None:
    for code in snippets(Settings(**AT_ONCE).to_json()).values():
        assert "BatchSampler(RandomSampler(dataset), 16" in code
        assert "batch_size=None, num_workers=1" in code


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 4},
        {"batch_size": 4, "micro_batch": 2, "precision": "bf16", "fused": True},
        {"precision": "fp16"},
        {"batch_size": 4, "at_once": True},
    ],
    ids=["fp32", "bf16 in parts", "fp16", "batches at once"],
)
def test_the_plain_one_trains(changes: Any) -> None:
    data = torch.utils.data.TensorDataset(torch.randn(64, 3), torch.randint(0, 2, (64,)))
    model = torch.nn.Linear(3, 2)
    before = model.weight.detach().clone()
    names = {"torch": torch, "model": model, "dataset": data, "loss_function": torch.nn.functional.cross_entropy}
    exec(snippets(Settings(**changes).to_json())["pytorch"], names)
    assert not torch.equal(before, model.weight)
