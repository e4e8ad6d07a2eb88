"""Rows put in passes by length: the fewest numbers that so many passes can have, and the same step."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from padded import DRAWS_BY_FUNCTION, FIXED, LOOKS, PADDED

import hotlap
from hotlap.errors import InputError
from hotlap.training import comparing, masks, timing
from hotlap.training.by_length import by_length, groups
from hotlap.training.making import check_trimming, make_parts
from hotlap.training.processes import Processes
from hotlap.training.reading import MicroBatch
from hotlap.training.settings import Settings
from hotlap.workload.opened import open_workload
from hotlap.workload.target import load_target
from hotlap.workload.workload import Workload

WORKLOAD = Workload(model=lambda: torch.nn.Identity(), example=lambda batch: torch.ones(batch, 1))


def area(longest: list[int], parts: list[tuple[int, int]]) -> int:
    return sum((stop - start) * longest[stop - 1] for start, stop in parts)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=9).map(sorted), st.integers(1, 4))
def test_no_other_cuts_leave_fewer_numbers(longest: list[int], most: int) -> None:
    parts = groups(longest, most, a_pass=0.0)
    assert [one for part in parts for one in range(*part)] == list(range(len(longest)))
    assert len(parts) <= most
    ways = (
        list(itertools.pairwise([0, *cuts, len(longest)]))
        for number in range(min(most, len(longest)))
        for cuts in itertools.combinations(range(1, len(longest)), number)
    )
    assert area(longest, parts) == min(area(longest, way) for way in ways)


def test_a_pass_more_has_to_save_something() -> None:
    assert groups([10, 10, 10, 10], 4) == [(0, 4)]
    assert groups([99, 99, 99, 100], 4) == [(0, 4)]
    assert groups([10, 10, 50, 100], 2) == [(0, 2), (2, 4)]
    assert groups([10, 10, 50, 100], 4) == [(0, 2), (2, 3), (3, 4)]


def batch(rows: list[int], width: int = 12, **more: Any) -> MicroBatch:
    lengths = torch.tensor(rows)
    mask = (torch.arange(width) < lengths[:, None]).long()
    ids = (torch.arange(width) + 1 + torch.arange(len(rows))[:, None]) * mask
    given = {"ids": ids, "attention_mask": mask, **more}
    targets = torch.arange(len(rows))
    indices = tuple(100 + row for row in range(len(rows)))
    return MicroBatch(inputs=given, targets=targets, rows=len(rows), weight=float(len(rows)), start=4, indices=indices)


def test_rows_stay_together_with_all_that_is_theirs() -> None:
    one = batch([9, 2, 12, 3], floats=torch.arange(8.0).view(4, 2), table=torch.ones(3, 3), scale=torch.tensor(2.0))
    parts = by_length(one, 2, WORKLOAD)
    assert [part.targets.tolist() for part in parts] == [[1, 3], [0, 2]]
    assert [part.indices for part in parts] == [(101, 103), (100, 102)]
    assert [(part.rows, part.weight, part.start) for part in parts] == [(2, 2.0, 4), (2, 2.0, 6)]
    for part in parts:
        for name in ("ids", "attention_mask", "floats"):
            assert torch.equal(part.inputs[name], one.inputs[name][part.targets])
        assert part.inputs["table"] is one.inputs["table"]
        assert part.inputs["scale"] is one.inputs["scale"]


def test_ids_alone_tell_their_length_by_what_is_0() -> None:
    one = batch([9, 2, 12, 3])
    parts = by_length(
        MicroBatch(inputs=one.inputs["ids"], targets=one.targets, rows=4, weight=4.0, start=0), 2, WORKLOAD
    )
    assert [part.targets.tolist() for part in parts] == [[1, 3], [0, 2]]


@pytest.mark.parametrize(
    "one",
    [
        batch([5, 5, 5]),
        batch([5]),
        batch([2, 9], names=["a", "b"]),
        MicroBatch(inputs=torch.rand(4, 12), targets=torch.zeros(4), rows=4, weight=4.0, start=0),
        MicroBatch(inputs=batch([2, 9]).inputs, targets=None, rows=2, weight=0.0, start=0),
        MicroBatch(
            inputs={"ids": torch.ones(2, 9), "attention_mask": torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])},
            targets=torch.zeros(2), rows=2, weight=2.0, start=0,
        ),
    ],
    ids=["one length", "one row", "texts", "no lengths", "no weight", "padded on the left"],
)  # fmt: skip
def test_what_can_t_be_told_apart_stays_whole(one: MicroBatch) -> None:
    assert by_length(one, 4, WORKLOAD) == [one]


NO_DROPOUT = """
class Sure(Net):
    def __init__(self):
        super().__init__()
        self.out[0].p = 0.0
import dataclasses
workload = dataclasses.replace(workload, model=Sure)
"""
UNEVEN = """
def loss(outputs, targets):
    return functional.cross_entropy(outputs, targets, ignore_index=1)
workload = dataclasses.replace(workload, loss=loss, loss_weight=lambda targets: (targets != 1).sum())
"""
IN_BATCHES = """
from torch.utils.data import DataLoader
workload = dataclasses.replace(workload, training=lambda: DataLoader(Texts(), batch_size=16))
"""


def opened(folder: Any, add: str) -> Any:
    (folder / "texts.py").write_text(PADDED + add)
    return open_workload(load_target(str(folder / "texts.py")), needs=("training", "loss"), command="train")


@pytest.mark.parametrize("add", [NO_DROPOUT, NO_DROPOUT + UNEVEN, NO_DROPOUT + IN_BATCHES])
@pytest.mark.parametrize("changes", [{}, {"micro_batch": 6}])
def test_gradients_are_those_of_the_whole_batch(tmp_path: Any, add: str, changes: Any) -> None:
    found = opened(tmp_path, add)
    if "DataLoader" in add and changes:
        return
    parts = [
        make_parts(found, Settings(batch_size=16, **one), tmp_path, Processes("cpu"), print)
        for one in ({}, {"trim": True, "length_buckets": 3, **changes})
    ]
    for window in parts[0].source.epoch(0, 0):
        total = sum(one.weight for one in window.micro_batches)
        whole = parts[0].stepper.gradients(window, total)
        assert len(parts[1].stepper.passes_of(window)) > len(window.micro_batches)
        assert parts[1].stepper.gradients(window, total) == pytest.approx(whole, rel=1e-6)
        gradients = [comparing.gradients_of(one.model) for one in parts]
        assert comparing.of_tensors(*gradients) <= 1e-6


MIXUP = """
def loss(outputs, targets):
    order = torch.randperm(len(targets))
    return functional.cross_entropy(outputs + outputs[order], targets)
import dataclasses
workload = dataclasses.replace(workload, loss=loss)
"""
PYTHONS_OWN = """
import dataclasses, random
class Skips(Net):
    def forward(self, ids, attention_mask):
        outputs = super().forward(ids, attention_mask)
        return outputs * 2 if self.training and random.random() < 0.5 else outputs
workload = dataclasses.replace(workload, model=Skips)
"""
CONTRASTIVE = """
def loss(outputs, targets):
    return functional.cross_entropy(outputs @ outputs.T, torch.arange(len(targets)))
import dataclasses
workload = dataclasses.replace(workload, loss=loss)
"""
NORMED = """
class Normed(Net):
    def __init__(self):
        super().__init__()
        self.out.insert(0, nn.BatchNorm1d(8))
import dataclasses
workload = dataclasses.replace(workload, model=Normed)
"""
COUNTS = """
class Counts(Net):
    calls = 0
    def forward(self, ids, attention_mask):
        self.calls += 1
        return super().forward(ids, attention_mask) * (1 + self.calls // 1000)
import dataclasses
workload = dataclasses.replace(workload, model=Counts)
"""
ONE_LENGTH = """
Texts.__getitem__ = lambda self, index: (
    {"ids": torch.arange(12), "attention_mask": torch.ones(12, dtype=torch.int64)}, index % 2)
"""


@pytest.mark.parametrize(
    ("add", "words"),
    [
        ("", None),
        (DRAWS_BY_FUNCTION, None),
        (NO_DROPOUT + IN_BATCHES, None),
        (LOOKS, "in passes by length loss or gradients differ by"),
        (FIXED, "the model does not take shorter inputs"),
        (CONTRASTIVE, "in passes by length loss or gradients differ by"),
        (NORMED, "in passes by length loss or gradients differ by"),
        (MIXUP, "forward or the loss draw random numbers for a whole batch, perhaps (aten.randperm.default)"),
        (PYTHONS_OWN, "draw random numbers for a whole batch, perhaps (a generator of Python's"),
        (COUNTS, "forward or the loss changes what it keeps in each pass"),
        (ONE_LENGTH, "no batch has columns that are padding in every row"),
    ],
    ids=[
        "dropout", "dropout by a function", "own batches", "looked at", "fixed", "contrastive", "batch statistics",
        "mixup", "Python draws", "counts", "one length",
    ],
)  # fmt: skip
def test_tune_says_where_passes_by_length_would_change_something(tmp_path: Any, add: str, words: str | None) -> None:
    (tmp_path / "texts.py").write_text(PADDED + add)
    settings = Settings(threads=torch.get_num_threads(), batch_size=16).to_json()
    state: dict[str, Any] = {}
    timing.study(state, target=str(tmp_path / "texts.py"), settings=settings)
    found = timing.check_length_buckets(state)
    assert found["reason"] is None if words is None else words in (found["reason"] or "")
    assert words is not None or found["kept"] < 0.5


def test_training_refuses_by_name_what_would_change_numbers(tmp_path: Any) -> None:
    settings = Settings(batch_size=16, trim=True, length_buckets=2)
    check_trimming(opened(tmp_path, ""), settings, Processes("cpu"))
    with pytest.raises(InputError, match=r"length_buckets=2: in passes by length loss or gradients .* leave it out"):
        check_trimming(opened(tmp_path, CONTRASTIVE), settings, Processes("cpu"))


def test_they_take_trimming_with_them() -> None:
    with pytest.raises(InputError, match="length_buckets leaves out padding, as trim does; give trim=true with it"):
        Settings(length_buckets=2)


@pytest.mark.parametrize("changes", [{"micro_batch": 6}, {"precision": "bf16"}], ids=["micro-batches", "bf16"])
def test_a_run_that_goes_on_has_the_same_bytes(tmp_path: Any, changes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "LEAST", 1)
    (tmp_path / "texts.py").write_text(PADDED)
    settings = {"trim": True, "length_buckets": 3, "fast_dropout": True, "attention": "math", **changes}
    given: Any = {"threads": 1, "device": "cpu"}
    for name, epochs in (("whole", 3), ("parted", 1)):
        hotlap.train(tmp_path / "texts.py", out=tmp_path / name, settings={**settings, "epochs": epochs}, **given)
    more = {**settings, "epochs": 3}
    hotlap.train(tmp_path / "texts.py", out=tmp_path / "parted", settings=more, resume=True, **given)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parted")]
    assert weights[0] == weights[1]
