"""Cutting padding off: what is cut, that it changes nothing where it is allowed, and that it is refused elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from padded import DRAWS_BY_FUNCTION, FIXED, LOOKS, PADDED, opened
from several_processes import furthest, torchrun

import hotlap
from hotlap.errors import InputError
from hotlap.training import trimming
from hotlap.training.making import check_trimming, trimming_of
from hotlap.training.processes import Processes
from hotlap.training.reading import MicroBatch
from hotlap.training.settings import Settings

ONLY_IN_TRAINING = """
class Normed(Net):
    def __init__(self):
        super().__init__()
        self.norm = nn.InstanceNorm1d(8, track_running_stats=True)
        self.out[0].p = 0.0

    def forward(self, ids, attention_mask):
        weights = attention_mask.unsqueeze(2).float()
        normed = self.norm((self.embed(ids) * weights).transpose(1, 2)).transpose(1, 2)
        return self.out((normed * weights).sum(1) / weights.sum(1))
import dataclasses
workload = dataclasses.replace(workload, model=Normed)
"""
FULL = """
Texts.__getitem__ = lambda self, index: (
    {"ids": torch.arange(12), "attention_mask": torch.ones(12, dtype=torch.int64)}, index % 2)
"""


ONE_SIZE = """
def of_one_size(outputs, labels):
    return functional.cross_entropy(outputs + torch.zeros(32, 1), labels)
import dataclasses
workload = dataclasses.replace(workload, loss=of_one_size)
"""
LABELLED = """
import dataclasses
class Tagged(Net):
    def forward(self, ids, attention_mask):
        return self.out(self.embed(ids))
_read = Texts.__getitem__
Texts.__getitem__ = lambda self, index: (_read(self, index)[0], torch.full((12,), 1))
workload = dataclasses.replace(
    workload, model=Tagged, loss=lambda outputs, labels: functional.cross_entropy(outputs.transpose(1, 2), labels))
"""
SPOILT = """
def spoilt(outputs, labels):
    return functional.cross_entropy(outputs, labels) + float("nan")
import dataclasses
workload = dataclasses.replace(workload, loss=spoilt)
"""
STEEP = """
class Steep(Net):
    def forward(self, ids, attention_mask):
        return super().forward(ids, attention_mask) + self.out[1].weight.sum().mul(0).sqrt()
import dataclasses
workload = dataclasses.replace(workload, model=Steep)
"""
"""The root of 0 has no finite gradient."""


def batch(inputs: Any, targets: Any = None) -> MicroBatch:
    rows = len(next(iter(inputs.values()))) if isinstance(inputs, dict) else len(inputs)
    return MicroBatch(inputs=inputs, targets=targets, rows=rows, weight=float(rows), start=0)


def found(folder: Path, add: str = "") -> trimming.Trimmed:
    return trimming_of(opened(folder, add), Settings(batch_size=32 if "zeros(32" in add else 16), Processes("cpu"))


def test_padding_that_nothing_looks_at_may_be_cut(tmp_path: Path) -> None:
    result = found(tmp_path)
    assert result.reason is None
    assert result.kept == pytest.approx(7 / 12)
    assert result.difference <= 1e-6


@pytest.mark.parametrize(
    ("add", "words"),
    [
        (LOOKS, "without padding, loss or gradients differ by"),
        (FIXED, "the model does not take shorter inputs"),
        (ONLY_IN_TRAINING, "without padding, loss or gradients differ by"),
        (DRAWS_BY_FUNCTION, None),
        (SPOILT, "the loss of a batch is not finite"),
        (STEEP, "without padding, loss or gradients differ by inf"),
        (FULL, "no batch has columns that are padding in every row"),
        ("PAD = 1\n", None),
        (ONE_SIZE, None),
        (LABELLED, "targets have labels above 0, or several, beside padding; fill them up with -100 or 0"),
    ],
    ids=[
        "looked at",
        "fixed",
        "only in training",
        "draws by a function",
        "not finite",
        "gradients not finite",
        "full",
        "another number",
        "batches of one size",
        "labels beside padding",
    ],
)
def test_where_it_would_change_something_it_says_so(tmp_path: Path, add: str, words: str | None) -> None:
    result = found(tmp_path, add)
    assert result.reason is None if words is None else words in (result.reason or "")


def test_training_refuses_by_name_what_would_change_numbers(tmp_path: Path) -> None:
    looks = opened(tmp_path, LOOKS)
    assert check_trimming(looks, Settings(batch_size=16), Processes("cpu")) == []
    (told,) = check_trimming(opened(tmp_path, FULL), Settings(batch_size=16, trim=True), Processes("cpu"))
    assert "trim=true: no batch has columns that are padding in every row of those that were looked at" in told
    with pytest.raises(InputError, match=r"trim=true: without padding, loss or gradients differ by .* leave it out"):
        check_trimming(looks, Settings(batch_size=16, trim=True), Processes("cpu"))


UNLIKE = """
Texts.__getitem__ = lambda self, index: (
    {"ids": torch.full((12,), 1 + index % 5), "attention_mask": torch.ones(12, dtype=torch.int64)} if index % 2
    else {"ids": torch.arange(12) % 3, "attention_mask": (torch.arange(12) < 3).long()}, index % 2)
class Sure(NET):
    def __init__(self):
        super().__init__()
        self.out[0].p = 0.0
import dataclasses
workload = dataclasses.replace(workload, batch_size=2, epochs=1, model=Sure)
"""
"""A step has two examples, one of each process, and half of the examples have no padding."""


@pytest.mark.parametrize(
    ("net", "refused"),
    [
        pytest.param("Net", None, marks=pytest.mark.slow),
        pytest.param("Looks", "without padding, loss or gradients differ by", marks=pytest.mark.exhaustive),
    ],
)
def test_processes_check_shares_of_their_own_and_decide_together(net: str, refused: str | None, tmp_path: Path) -> None:
    path = tmp_path / "texts.py"
    path.write_text(PADDED + LOOKS + UNLIKE.replace("NET", net))
    done = torchrun(2, str(path), tmp_path / "several", "--set", "trim=true")
    if refused is not None:
        assert done.returncode != 0
        assert done.stderr.count(refused) == 2
        return
    assert done.returncode == 0, done.stderr
    hotlap.train(path, out=tmp_path / "one", threads=1, device="cpu")
    assert furthest(tmp_path / "one", tmp_path / "several") < 1e-4


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 4))
@limits(max_examples=60, deadline=None)
def test_no_column_that_a_row_uses_is_ever_cut(lengths: list[int], least: int) -> None:
    mask = (torch.arange(9) < torch.tensor(lengths)[:, None]).long()
    ids = torch.where(mask == 1, 5 + torch.arange(9), 1)
    labels = torch.where(mask == 1, 3, -100)
    cut = trimming.trimmed(batch({"ids": ids, "attention_mask": mask}, labels), least)
    width = cut.inputs["ids"].shape[1]
    assert width == max(least, *lengths)
    assert cut.inputs["attention_mask"].shape == cut.targets.shape == (len(lengths), width)
    assert int(cut.inputs["attention_mask"].sum()) == int(mask.sum())
    assert torch.equal(cut.inputs["ids"], ids[:, :width])


def test_without_a_mask_zeros_are_padding() -> None:
    ids = torch.tensor([[4, 0, 7, 0, 0], [0, 3, 0, 0, 0]])
    assert trimming.trimmed(batch(ids), 1).inputs.tolist() == [[4, 0, 7], [0, 3, 0]]


@pytest.mark.parametrize(
    ("inputs", "targets"),
    [
        # The mask marks padding with 1, so that its zeros are text.
        ({"ids": torch.tensor([[1, 2, 3, 4]]), "key_padding_mask": torch.tensor([[0, 0, 0, 0]])}, None),
        # Targets say something where inputs don't.
        (torch.tensor([[1, 2, 0, 0]]), torch.tensor([[1, 2, 3, 4]])),
        # Nothing tells what is padding among numbers that are not whole.
        (torch.zeros(2, 4), None),
        # Inputs of two widths.
        ({"ids": torch.zeros(2, 4, dtype=torch.int64), "tags": torch.zeros(2, 3, dtype=torch.int64)}, None),
    ],
)
def test_what_may_be_more_than_padding_stays(inputs: Any, targets: Any) -> None:
    given_batch = batch(inputs, targets)
    assert trimming.trimmed(given_batch, 1) is given_batch


def test_a_gradient_on_one_side_alone_is_a_difference() -> None:
    plain, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    for model in (plain, other):
        model.weight.grad = torch.ones(2, 2)
    assert trimming._gradients_difference(plain, other) == 0.0
    other.bias.grad = torch.full((2,), 3.0)
    assert trimming._gradients_difference(plain, other) == pytest.approx(18**0.5 / 2)
    plain.weight.grad = other.weight.grad = None
    assert trimming._gradients_difference(plain, other) > 1


def test_classes_that_are_as_many_as_columns_stay() -> None:
    ids = torch.tensor([[5, 7, 0, 0], [3, 0, 0, 0]])
    classes = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    cut = trimming.trimmed(batch(ids, classes), 1)
    assert cut.inputs.shape == (2, 2)
    assert cut.targets is classes
    tokens = trimming.trimmed(batch(ids, ids), 1)
    assert tokens.targets.shape == (2, 2)
