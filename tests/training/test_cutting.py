"""Whether a batch may be computed in passes: what ties its rows together is found on real rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import trainable
from trainable import CONTRASTIVE

from hotlap.training import timing
from hotlap.training.cutting import in_two
from hotlap.training.settings import Settings

PLAIN = """
import dataclasses
class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
        self.register_buffer("seen", torch.zeros(()))
    def forward(self, rows):
        return self.layers(rows)
workload = dataclasses.replace(workload, model=Plain)
"""
MEAN_OF_BATCH = """
class Averaging(Plain):
    def forward(self, rows):
        with torch.no_grad():
            self.seen.mul_(0.9).add_(0.1 * rows.mean())
        return self.layers(rows)
workload = dataclasses.replace(workload, model=Averaging)
"""
DRAWS = """
class Draws(Plain):
    def forward(self, rows):
        return self.layers(functional.dropout(rows, 0.5, training=self.training))
workload = dataclasses.replace(workload, model=Draws)
"""
STATISTICS = """
class Normed(Plain):
    def forward(self, rows):
        return self.layers(functional.batch_norm(rows, None, None, training=True))
workload = dataclasses.replace(workload, model=Normed)
"""
ADDED_UP = """
def added_up(outputs, labels):
    return functional.cross_entropy(outputs, labels, reduction="sum")
workload = dataclasses.replace(workload, loss=added_up)
"""
BALANCED = """
def balanced(outputs, labels):
    return functional.cross_entropy(outputs, labels) + 0.01 * outputs.softmax(1).mean(0).square().sum()
workload = dataclasses.replace(workload, loss=balanced)
"""
NOT_A_NUMBER = """
def not_a_number(outputs, labels):
    return functional.cross_entropy(outputs, labels) / 0.0
workload = dataclasses.replace(workload, loss=not_a_number)
"""
WEIGHTED = """
workload = dataclasses.replace(
    workload, loss=lambda outputs, labels: functional.cross_entropy(outputs, labels, ignore_index=0),
    loss_weight=lambda labels: (labels != 0).sum().item())
"""


def reason(folder: Path, add: str) -> Any:
    settings = Settings(threads=torch.get_num_threads(), batch_size=16).to_json()
    target = trainable.write(folder, "rows", add=add)
    state: dict[str, Any] = {}
    timing.study(state, target=target, settings=settings)
    return timing.check_in_passes(state)["reason"]


ONCE = """
class Once(Plain):
    width = last = None
    def forward(self, rows):
        self.width = self.width or rows.shape[1]
        self.last = rows.detach().mean(0)
        return self.layers(rows)
workload = dataclasses.replace(workload, model=Once)
"""


@pytest.mark.parametrize("add", ["", WEIGHTED, ONCE])
def test_rows_that_stand_alone(tmp_path: Path, add: str) -> None:
    assert reason(tmp_path, PLAIN + add) is None


@pytest.mark.parametrize("add", [MEAN_OF_BATCH, STATISTICS, CONTRASTIVE, ADDED_UP, BALANCED])
def test_rows_that_hang_together(tmp_path: Path, add: str) -> None:
    assert "what a row gives hangs on the others" in reason(tmp_path, PLAIN + add)


def test_a_model_that_draws_in_functions_is_told_as_such(tmp_path: Path) -> None:
    assert "differ by" in reason(tmp_path, PLAIN + DRAWS)
    assert reason(tmp_path, PLAIN + DRAWS).endswith(": the model draws random numbers")


COUNTS = """
class Counts(Plain):
    calls = 0
    def forward(self, rows):
        self.calls += self.training
        return self.layers(rows) if self.calls < 500 else self.layers(rows) / 2
workload = dataclasses.replace(workload, model=Counts)
"""
COUNTS_IN_A_TENSOR = """
class Counts(Plain):
    def __init__(self):
        super().__init__()
        self.calls = torch.zeros(())
    def forward(self, rows):
        self.calls += self.training
        return self.layers(rows) / (1 + self.calls // 500)
workload = dataclasses.replace(workload, model=Counts)
"""
TEACHES = """
class Taught(nn.Module):
    def __init__(self):
        super().__init__()
        self.teacher = nn.Linear(6, 16).requires_grad_(False)
    def forward(self, outputs, labels):
        with torch.no_grad():
            self.teacher.weight.mul_(0.9)
        return functional.cross_entropy(outputs, labels)
workload = dataclasses.replace(workload, loss=Taught())
"""
FOLLOWS = """
class Follows(Plain):
    def __init__(self):
        super().__init__()
        self.teacher = nn.Linear(6, 16).requires_grad_(False)
        self.teacher.load_state_dict(self.layers[0].state_dict())
    def forward(self, rows):
        if self.training:
            with torch.no_grad():
                self.teacher.weight.lerp_(self.layers[0].weight, 0.1)
        return self.layers(rows)
workload = dataclasses.replace(workload, model=Follows)
"""


@pytest.mark.parametrize("add", [COUNTS, COUNTS_IN_A_TENSOR, FOLLOWS, TEACHES])
def test_what_changes_in_each_pass(tmp_path: Path, add: str) -> None:
    assert "changes what it keeps in each pass" in reason(tmp_path, PLAIN + add)


MASKED = """
class Masked(Plain):
    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.full((3, 3), float("-inf")).triu(1))
workload = dataclasses.replace(workload, model=Masked)
"""


def test_a_mask_of_infinities_is_alike(tmp_path: Path) -> None:
    assert reason(tmp_path, PLAIN + MASKED) is None


SOME_LEFT_OUT = """
def some_left_out(outputs, labels):
    MET.append(len(labels))
    ignored = 0 if len(MET) > 3 else -100  # In the first window, of one pass and of two, all rows count by chance.
    return functional.cross_entropy(outputs, labels, ignore_index=ignored)
MET = []
workload = dataclasses.replace(workload, loss=some_left_out)
"""


def test_one_window_whose_rows_all_count_shows_nothing_of_the_others(tmp_path: Path) -> None:
    assert "what a row gives hangs on the others" in reason(tmp_path, PLAIN + SOME_LEFT_OUT)


def test_layers_are_named_by_their_kind(tmp_path: Path) -> None:
    assert reason(tmp_path, "") == "layers with batch statistics and randomness would give another result"


def test_rows_that_cant_be_computed(tmp_path: Path) -> None:
    assert reason(tmp_path, PLAIN + NOT_A_NUMBER) == "a few rows of a batch could not be computed alone: loss: inf"


def test_a_few_rows_are_halved() -> None:
    small = in_two(Settings(batch_size=64, precision="bf16"), 150)
    assert small is not None
    assert (small.batch_size, small.micro_batch, small.precision) == (8, 4, "fp32")
    few = in_two(Settings(batch_size=64), 3)
    assert few is not None
    assert (few.batch_size, few.micro_batch) == (3, 2)
    assert in_two(Settings(batch_size=64), 1) is None
    assert in_two(Settings(batch_size=1), 150) is None
