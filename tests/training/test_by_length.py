"""Rows put in passes by length: the fewest numbers that so many passes can have, and the same step."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from padded import DRAWS_BY_FUNCTION, FIXED, LOOKS, PADDED, opened
from several_processes import furthest, sets, torchrun
from trainable import CONTRASTIVE

import hotlap
from hotlap.errors import InputError
from hotlap.training import comparing, masks, timing
from hotlap.training.by_length import by_length, groups
from hotlap.training.making import check_trimming, look_at_casts, make_parts
from hotlap.training.processes import Processes
from hotlap.training.reading import MicroBatch
from hotlap.training.settings import Settings
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
    fit = [way for way in ways if len(way) == 1 or all(stop - start > 1 for start, stop in way)]
    assert area(longest, parts) == min(area(longest, way) for way in fit)


def test_a_pass_more_has_to_save_something() -> None:
    assert groups([10, 10, 10, 10], 4) == [(0, 4)]
    assert groups([99, 99, 99, 100], 4) == [(0, 4)]
    assert groups([10, 10, 50, 100], 2) == [(0, 2), (2, 4)]
    assert groups([10, 10, 50, 100], 4) == [(0, 2), (2, 4)]
    assert groups([10, 50, 100], 4) == [(0, 3)]


def batch(rows: list[int], width: int = 12, **more: Any) -> MicroBatch:
    lengths = torch.tensor(rows)
    mask = (torch.arange(width) < lengths[:, None]).long()
    ids = (torch.arange(width) + 1 + torch.arange(len(rows))[:, None]) * mask
    given = {"ids": ids, "attention_mask": mask, **more}
    targets = torch.arange(len(rows))
    indices = tuple(100 + row for row in range(len(rows)))
    return MicroBatch(inputs=given, targets=targets, rows=len(rows), weight=float(len(rows)), start=4, indices=indices)


def test_rows_stay_together_with_all_that_is_theirs() -> None:
    one = batch([9, 2, 12, 3], floats=torch.arange(8.0).view(4, 2), nothing=None)
    parts = by_length(one, 2, WORKLOAD)
    assert [part.targets.tolist() for part in parts] == [[1, 3], [0, 2]]
    assert [part.indices for part in parts] == [(101, 103), (100, 102)]
    assert [(part.rows, part.weight, part.start, part.part) for part in parts] == [(2, 2.0, 4, 0), (2, 2.0, 4, 2)]
    for part in parts:
        for name in ("ids", "attention_mask", "floats"):
            assert torch.equal(part.inputs[name], one.inputs[name][part.targets])
        assert part.inputs["nothing"] is None


def test_ids_alone_tell_their_length_by_what_is_0() -> None:
    one = batch([9, 2, 12, 3])
    parts = by_length(
        MicroBatch(inputs=one.inputs["ids"], targets=one.targets, rows=4, weight=4.0, start=0), 2, WORKLOAD
    )
    assert [part.targets.tolist() for part in parts] == [[1, 3], [0, 2]]


@pytest.mark.parametrize(
    "one",
    [
        batch([5, 5, 5, 5]),
        batch([5]),
        batch([2, 9, 9]),
        batch([2, 2, 9, 9], names=["a", "b", "c", "d"]),
        batch([2, 2, 9, 9], table=torch.ones(3, 3)),
        batch([2, 2, 9, 9], scale=torch.tensor(2.0)),
        batch([2, 2, 9, 9], numbers=[1.0, 2.0, 3.0, 4.0]),
        batch([2, 2, 9, 9], sparse=torch.eye(4).to_sparse()),
        batch([2, 2, 9, 9], nested=torch.nested.nested_tensor([torch.ones(one) for one in (1, 2, 3, 4)])),
        MicroBatch(inputs=torch.rand(4, 12), targets=torch.zeros(4), rows=4, weight=4.0, start=0),
        MicroBatch(inputs=batch([2, 2, 9, 9]).inputs, targets=None, rows=4, weight=0.0, start=0),
        MicroBatch(
            inputs={"ids": torch.ones(4, 9), "attention_mask": torch.tensor(2 * [[0, 0, 1, 1], [1, 1, 1, 1]])},
            targets=torch.zeros(4), rows=4, weight=4.0, start=0,
        ),
    ],
    ids=[
        "one length", "one row", "few rows", "texts", "a table", "one number", "numbers", "sparse", "nested",
        "no lengths", "no weight", "padded on the left",
    ],
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


UNLIKE = """
_read = Texts.__getitem__
Texts.__getitem__ = lambda self, index: _read(self, 6 if index % 4 < 2 else index)
workload = dataclasses.replace(workload, batch_size=15, epochs=2)
"""
"""Half of the examples have one length, and the last step's shares are uneven."""


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
    for window, cut in zip(*(one.source.epoch(0, 0) for one in parts), strict=True):
        total = sum(one.weight for one in window.micro_batches)
        whole = parts[0].stepper.gradients(window, total)
        assert len(parts[1].stepper.passes_of(cut)) > len(cut.micro_batches) >= len(window.micro_batches)
        assert parts[1].stepper.gradients(cut, total) == pytest.approx(whole, rel=1e-6)
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
PAIRS = """
def loss(outputs, targets):
    return functional.softplus(outputs[0::2, 0] - outputs[1::2, 0]).mean()
import dataclasses
workload = dataclasses.replace(workload, loss=loss, batch_size=32)
"""
A_MASK_FOR_ALL = """
class Masked(Net):
    def forward(self, ids, attention_mask):
        kept = torch.empty(ids.shape[1]).bernoulli_(0.5) if self.training else torch.ones(ids.shape[1])
        weights = (attention_mask * kept).unsqueeze(2) + 0.1
        return self.out((self.embed(ids) * weights * attention_mask.unsqueeze(2)).sum(1))
import dataclasses
workload = dataclasses.replace(workload, model=Masked)
"""
TEACHER = (
    DRAWS_BY_FUNCTION
    + """
class Taught(Drawing):
    def __init__(self):
        super().__init__()
        self.teacher = nn.Parameter(torch.zeros(2), requires_grad=False)

    def forward(self, ids, attention_mask):
        if self.training:
            with torch.no_grad():
                self.teacher.mul_(0.9).add_(0.1 * self.out[1].bias)
        return super().forward(ids, attention_mask) + 0 * self.teacher
workload = dataclasses.replace(workload, model=Taught)
"""
)
"""It follows the weights in training alone, and dropout is a function's."""
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
        (CONTRASTIVE, "what a row gives hangs on the others"),
        (NORMED, "layers with batch statistics would give another result"),
        (PAIRS, "what a row gives hangs on the others"),
        (A_MASK_FOR_ALL, "draw random numbers for a whole batch, perhaps (a mask for all rows)"),
        (TEACHER, "forward or the loss changes what it keeps in each pass"),
        (MIXUP, "forward or the loss draw random numbers for a whole batch, perhaps (aten.randperm.default)"),
        (PYTHONS_OWN, "draw random numbers for a whole batch, perhaps (a generator of Python's"),
        (COUNTS, "forward or the loss changes what it keeps in each pass"),
        (ONE_LENGTH, "no batch has rows of several lengths that can be told apart"),
    ],
    ids=[
        "dropout", "dropout by a function", "own batches", "looked at", "fixed", "contrastive", "batch statistics",
        "pairs", "a mask for all", "a teacher", "mixup", "Python draws", "counts", "one length",
    ],
)  # fmt: skip
def test_tune_says_where_passes_by_length_would_change_something(tmp_path: Any, add: str, words: str | None) -> None:
    (tmp_path / "texts.py").write_text(PADDED + add)
    settings = Settings(threads=torch.get_num_threads(), batch_size=32 if add == PAIRS else 16).to_json()
    state: dict[str, Any] = {}
    timing.study(state, target=str(tmp_path / "texts.py"), settings=settings)
    found = timing.check_length_buckets(state)
    assert found["reason"] is None if words is None else words in (found["reason"] or "")
    assert words is not None or found["kept"] < 0.5


def test_training_refuses_by_name_what_would_change_numbers(tmp_path: Any) -> None:
    settings = Settings(batch_size=16, trim=True, length_buckets=2)
    assert check_trimming(opened(tmp_path, ""), settings, Processes("cpu")) == []
    (told,) = check_trimming(opened(tmp_path, ONE_LENGTH), settings, Processes("cpu"))
    assert "length_buckets=2: no batch has rows of several lengths" in told
    with pytest.raises(InputError, match="trim=true: without padding, loss"):
        check_trimming(opened(tmp_path, LOOKS), settings, Processes("cpu"))
    for add, words in (
        (CONTRASTIVE, "hangs on the others"),
        (COUNTS, "keeps in each pass"),
        (MIXUP, "for a whole batch"),
    ):
        with pytest.raises(InputError, match=f"length_buckets=2: .*{words}.* leave it out"):
            check_trimming(opened(tmp_path, add), settings, Processes("cpu"))


def test_weights_that_do_not_add_up_stay_in_one_pass() -> None:
    one = batch([9, 2, 12, 3])
    at_least_three = replace(WORKLOAD, loss_weight=lambda targets: max(3, len(targets)))
    assert by_length(one, 2, at_least_three) == [one]


OWN_TWICE = """
from torch.utils.data import DataLoader
class Drawn(Net):
    seen = []
    def forward(self, ids, attention_mask):
        Drawn.seen.append(float(torch.rand(())))
        return super().forward(ids, attention_mask)
import dataclasses
workload = dataclasses.replace(workload, model=Drawn, training=lambda: DataLoader(Texts(), batch_size=8))
"""


def test_no_two_passes_of_a_step_draw_alike(tmp_path: Any) -> None:
    found = opened(tmp_path, OWN_TWICE)
    settings = Settings(accumulation=8, trim=True, length_buckets=4)
    parts = make_parts(found, settings, tmp_path, Processes("cpu"), print)
    window = next(iter(parts.source.epoch(0, 0)))
    type(parts.model).seen.clear()
    parts.stepper.gradients(window, sum(one.weight for one in window.micro_batches))
    seen = type(parts.model).seen
    assert len(seen) > 8
    assert len(set(seen)) == len(seen)


WRITES = """
class Halves(Net):
    def forward(self, ids, attention_mask):
        self.out[1].weight.data.mul_(0.5 if self.training else 1.0)
        return super().forward(ids, attention_mask)
import dataclasses
workload = dataclasses.replace(workload, model=Halves)
"""


@pytest.mark.parametrize(("add", "once"), [("", True), (WRITES, False)])
def test_weights_are_cast_once_only_where_that_is_found_to_change_nothing(tmp_path: Any, add: str, once: bool) -> None:
    settings = Settings(batch_size=16, trim=True, length_buckets=2, precision="bf16")
    parts = make_parts(opened(tmp_path, add), settings, tmp_path, Processes("cpu"), print)
    before = {name: value.clone() for name, value in parts.model.state_dict().items()}
    look_at_casts(parts)
    assert parts.stepper.casts_once is once
    assert all(torch.equal(value, before[name]) for name, value in parts.model.state_dict().items())
    assert all(one.grad is None for one in parts.model.parameters())
    for changes in ({"precision": "fp32"}, {"length_buckets": 1}):
        other = make_parts(opened(tmp_path, ""), replace(settings, **changes), tmp_path, Processes("cpu"), print)
        look_at_casts(other)
        assert other.stepper.casts_once is False


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


COMPILED = """
counted = []
def backend(graph, inputs):
    counted.append(1)
    return graph.forward
class Compiled(Net):
    def __init__(self):
        super().__init__()
        self.out = torch.compile(self.out, backend=backend)
import dataclasses
workload = dataclasses.replace(workload, model=Compiled)
"""


def test_what_a_model_compiles_itself_is_compiled_after_the_check(tmp_path: Any) -> None:
    found = opened(tmp_path, COMPILED)
    assert check_trimming(found, Settings(batch_size=16, trim=True, length_buckets=2), Processes("cpu")) == []
    parts = make_parts(found, Settings(batch_size=16), tmp_path, Processes("cpu"), print)
    counted = type(parts.model).__init__.__globals__["counted"]
    counted.clear()
    torch.compiler.reset()
    parts.stepper.gradients(next(iter(parts.source.epoch(0, 0))), 16.0)
    assert counted


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["ddp", "fsdp2"])
def test_processes_whose_steps_have_other_numbers_of_passes(sharding: str, tmp_path: Any) -> None:
    path = tmp_path / "texts.py"
    path.write_text(PADDED + NO_DROPOUT + UNLIKE)
    settings = {"trim": True, "length_buckets": 3, "sharding": sharding}
    done = torchrun(2, str(path), tmp_path / "several", *sets(settings))
    assert done.returncode == 0, done.stderr
    hotlap.train(path, out=tmp_path / "one", threads=1, device="cpu")
    assert furthest(tmp_path / "one", tmp_path / "several") < 1e-4
