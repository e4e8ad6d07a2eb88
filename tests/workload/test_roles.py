"""The three data roles never mix, and evaluation data that misbehaves is noticed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from hotlap.errors import WorkloadError
from hotlap.workload.roles import (
    Limits,
    calibration_arrays,
    check_evaluation,
    evaluation_rows,
    is_map_style,
)

DATA = "X = torch.arange(400.0).reshape(100, 4)\nY = torch.arange(100) % 3\n"
SCORE = "score=lambda outputs, targets: (outputs.argmax(1) == targets).float()"
BATCHES = "evaluation=lambda: [(X[i:i + 16], Y[i:i + 16]) for i in range(0, 100, 16)]"


@pytest.fixture
def evaluated(linear):
    """Open a workload with that `evaluation`, written after the data X [100, 4] and Y [100]."""

    def make(evaluation=BATCHES, before="", more=""):
        return linear(f"{SCORE}, {evaluation}, {more}", DATA + before)

    return make


def values(batches):
    """The rows' first values, which tell them apart, and their places."""
    found = [(float(value), int(row)) for b in batches for value, row in zip(b.inputs[:, 0], b.rows, strict=True)]
    return sorted(found)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_roles_share_the_examples_out(evaluated, seed):
    it = evaluated()
    selection = values(evaluation_rows(it, "selection", seed=seed))
    confirmation = values(evaluation_rows(it, "confirmation", seed=seed))
    assert sorted(selection + confirmation) == values(evaluation_rows(it, "all", seed=seed))
    assert [row for _, row in sorted(selection + confirmation)] == list(range(100))
    assert (len(selection), len(confirmation)) == (30, 70)
    assert selection == values(evaluation_rows(it, "selection", seed=seed))


def test_another_seed_splits_otherwise(evaluated):
    it = evaluated()
    assert values(evaluation_rows(it, "selection", seed=0)) != values(evaluation_rows(it, "selection", seed=1))


def test_rows_keep_their_targets(evaluated):
    for batch in evaluation_rows(evaluated(), "selection", seed=0):
        assert torch.equal(batch.inputs[:, 0], torch.from_numpy(batch.rows) * 4.0)
        assert torch.equal(batch.targets, torch.from_numpy(batch.rows) % 3)


def test_the_split_does_not_depend_on_the_batches(evaluated):
    other = evaluated("evaluation=lambda: [(X[i:i + 7], Y[i:i + 7]) for i in range(0, 100, 7)]")
    first = values(evaluation_rows(evaluated(), "selection", seed=0))
    assert values(evaluation_rows(other, "selection", seed=0)) == first


@pytest.mark.parametrize("seed", range(8))
def test_equal_inputs_have_one_role(evaluated, seed):
    it = evaluated("evaluation=lambda: [(X[[i % 11, i % 5, i]], Y[:3]) for i in range(50)]")
    selection = {value for value, _ in values(evaluation_rows(it, "selection", seed=seed))}
    confirmation = {value for value, _ in values(evaluation_rows(it, "confirmation", seed=seed))}
    assert not selection & confirmation
    assert len(selection | confirmation) == 50


@pytest.mark.parametrize("seed", range(8))
def test_two_examples_are_enough_to_split(evaluated, seed):
    facts = check_evaluation(evaluated("evaluation=lambda: [(X[:2], Y[:2])]"), seed=seed)
    assert (facts.selection, facts.confirmation) == (1, 1)


def test_targets_that_can_not_be_cut_keep_their_batch_together(evaluated):
    it = evaluated("evaluation=lambda: [(X[i:i + 10], 'opaque') for i in range(0, 100, 10)]")
    facts = check_evaluation(it, seed=0)
    assert (facts.batches, facts.whole_batches) == (10, 10)
    assert (facts.selection, facts.confirmation) == (30, 70)
    for batch in evaluation_rows(it, "selection", seed=0):
        assert len(batch.rows) == 10
        assert batch.targets == "opaque"


def test_inputs_are_cut_along_their_own_batch_axis(opened):
    it = opened(
        "class M(nn.Module):\n    def forward(self, x, grid): return (x + grid).sum(2).t()\n"
        "def evaluation():\n"
        "    yield {'grid': torch.ones(4), 'x': torch.arange(40.0).reshape(2, 5, 4)}, torch.arange(5)\n"
        "w = Workload(model=M, example=lambda batch: {'x': torch.ones(2, batch, 4), 'grid': torch.ones(4)},\n"
        "    dynamic={'x': {1: 'batch'}, 'grid': {}}, evaluation=evaluation, score=lambda o, t: o[:, 0])\n"
    )
    (batch,) = evaluation_rows(it, "confirmation", seed=0)
    whole = torch.arange(40.0).reshape(2, 5, 4)
    assert torch.equal(batch.inputs["x"], whole[:, batch.rows])
    assert torch.equal(batch.inputs["grid"], torch.ones(4))
    assert torch.equal(batch.targets, torch.from_numpy(batch.rows))


def test_facts_of_a_pass(evaluated):
    facts = check_evaluation(evaluated(), seed=0)
    assert (facts.examples, facts.distinct, facts.batches, facts.whole_batches) == (100, 100, 7, 0)
    assert (facts.selection, facts.confirmation) == (30, 70)
    assert len(facts.row_digests) == 100
    other = check_evaluation(evaluated(BATCHES.replace("Y[i", "1 - Y[i")), seed=0)
    assert other.digest != facts.digest


def test_empty_batches_are_left_out(evaluated):
    it = evaluated("evaluation=lambda: [(X[:0], Y[:0]), (X[:4], Y[:4]), (X[:0], Y[:0])]")
    assert check_evaluation(it, seed=0).batches == 1
    assert len(list(evaluation_rows(it, "all", seed=0))) == 1


@pytest.mark.parametrize(
    ("evaluation", "before", "message"),
    [
        ("evaluation=lambda: []", "", r"`evaluation` is empty; it must give at least two"),
        ("evaluation=lambda: [(X[:0], Y[:0])]", "", r"`evaluation` is empty"),
        (
            "evaluation=lambda: [(X[:1], Y[:1])]",
            "",
            r"1 examples that can't be split .* give at least two different",
        ),
        (
            "evaluation=lambda: [(X[[3, 3]], Y[:2])]",
            "",
            r"2 examples that can't be split .* all have the same inputs",
        ),
        (
            "evaluation=lambda: [(X, 'a')]",
            "",
            r"100 examples that can't be split .* keep each batch together; give more",
        ),
        ("evaluation=lambda: X", "", r"`evaluation` must give \(inputs, targets\) pairs; it gave a Tensor$"),
        ("evaluation=lambda: [(X, Y, Y)]", "", r"must give \(inputs, targets\) pairs; it gave a tuple of 3$"),
        ("evaluation=lambda: 7", "", r"`evaluation` raised TypeError: 'int' object is not iterable"),
        (
            "evaluation=evaluation",
            "def evaluation():\n    yield X, Y\n    raise OSError('disk is gone')\n",
            r"`evaluation` raised OSError: disk is gone \(.*mine\.py:8: raise OSError\('disk is gone'\)\)$",
        ),
        ("evaluation=lambda: [(X.double(), Y)]", "", r"`evaluation`: 'input' is float64, but float32 in `example`"),
        ("evaluation=lambda: [(X[0], Y)]", "", r"'input' has shape \[4\], but \[batch, 4\] in `example`"),
        (
            "evaluation=lambda: [(X[:, :3], Y)]",
            "",
            r"`evaluation`: axis 1 of 'input' has size 3, but 4 in `example`; give it one size, or name it in",
        ),
        ("evaluation=lambda: [({'x': X}, Y)]", "", r"`evaluation`: inputs are `x`; `example` gave `input`"),
        (
            "evaluation=lambda: [('x', Y)]",
            "",
            r"`evaluation`: inputs must be a Tensor, or a tuple or dict of Tensors",
        ),
        (
            "evaluation=lambda: once",
            "once = iter([(X, Y)])\n",
            r"gives 100 examples the first time and 0 the second; give a fresh iterable each time",
        ),
        (
            "evaluation=evaluation",
            "seen = []\ndef evaluation():\n    seen.append(0)\n    return [(X, Y)] * len(seen)\n",
            r"gives 100 examples the first time and more the second",
        ),
        (
            "evaluation=lambda: [(X[torch.randperm(100)], Y)]",
            "",
            r"`evaluation` differs between two passes \(first in batch 0\); take the shuffling and the",
        ),
        ("evaluation=lambda: [(X, torch.rand(100))]", "", r"differs between two passes \(first in batch 0\)"),
    ],
)
def test_evaluation_that_misbehaves(evaluated, evaluation, before, message):
    with pytest.raises(WorkloadError, match=message):
        check_evaluation(evaluated(evaluation, before), seed=0)


ENDLESS = "def evaluation():\n    while True:\n        yield X, Y\n"


def test_endless_evaluation_is_noticed_by_its_count(evaluated):
    message = r"gives more than 5,000 examples; make it finite or smaller \(optimize takes more with --max-evaluation"
    it = evaluated("evaluation=evaluation", ENDLESS)
    with pytest.raises(WorkloadError, match=message):
        check_evaluation(it, seed=0, max_examples=5000)
    with pytest.raises(WorkloadError, match=message):
        list(evaluation_rows(it, "selection", seed=0, limits=Limits(max_examples=5000)))


@pytest.mark.parametrize(
    "before",
    [
        "import itertools\ndef evaluation():\n    for i in itertools.count():\n        yield X[:0], Y[:0]\n",
        "def evaluation():\n    yield X, Y\n    while True:\n        pass\n",
        "import threading\ndef evaluation():\n    threading.Event().wait()\n",
    ],
    ids=["empty batches for ever", "hangs in its second batch", "hangs before its first"],
)
def test_endless_evaluation_is_noticed_by_its_time(evaluated, before):
    message = r"was not through after 0\.1 s and \d+ examples; .*allow more time with --budget"
    with pytest.raises(WorkloadError, match=message):
        check_evaluation(evaluated("evaluation=evaluation", before), seed=0, seconds=0.1)


@pytest.mark.parametrize(("changed", "noticed"), [(0, True), (4, True), (9, False)])
def test_the_second_pass_is_cut_short_where_time_is(evaluated, monkeypatch, changed, noticed):
    """By this clock a batch takes 1 s: the first pass 10 of 15 s, so the second reads its beginning only."""
    monkeypatch.setattr("hotlap.workload.evaluation.time.perf_counter", itertools.count().__next__)
    before = (
        "passes = []\ndef evaluation():\n    passes.append(0)\n    for i in range(10):\n"
        f"        yield X[i * 10:i * 10 + 10] + len(passes) * (i == {changed}), Y[:10]\n"
    )
    it = evaluated("evaluation=evaluation", before)
    if noticed:
        with pytest.raises(WorkloadError, match=rf"differs between two passes \(first in batch {changed}\)"):
            check_evaluation(it, seed=0, seconds=15)
    else:
        assert check_evaluation(it, seed=0, seconds=15).seconds == 10
    with pytest.raises(WorkloadError, match=r"was not through after 9 s"):
        check_evaluation(it, seed=0, seconds=9)


# Calibration


def test_calibration_is_the_workloads_own(evaluated):
    make, count, note = calibration_arrays(evaluated(more="calibration=lambda: [X[:16] + 0.5] * 40"), seed=0)
    assert (count, note) == (256, None)
    arrays = [array for (array,) in make()]
    assert sum(len(array) for array in arrays) == 256
    assert arrays[0].dtype == np.float32
    assert [len(array) for (array,) in make()] == [len(array) for array in arrays]


TRAIN = "from torch.utils.data import DataLoader, TensorDataset\ntraining = TensorDataset(X + 0.5, Y)\n"


def test_calibration_is_drawn_from_training_data(evaluated):
    it = evaluated(before=TRAIN, more="training=lambda: training")
    make, count, note = calibration_arrays(it, seed=0, examples=40)
    assert (count, note) == (40, None)
    drawn = [float(value) for (array,) in make() for value in array[:, 0]]
    assert len(set(drawn)) == 40
    assert all(value % 4 == 0.5 for value in drawn)
    assert drawn != sorted(drawn)
    again, _, _ = calibration_arrays(it, seed=0, examples=40)
    assert [float(value) for (array,) in again() for value in array[:, 0]] == drawn
    other, _, _ = calibration_arrays(it, seed=1, examples=40)
    assert [float(value) for (array,) in other() for value in array[:, 0]] != drawn


@pytest.mark.parametrize("loader", ["DataLoader(training, batch_size=8)", "[(X[:8] + 0.5, Y[:8])] * 5"])
def test_calibration_from_batches(evaluated, loader):
    it = evaluated(before=TRAIN, more=f"training=lambda: {loader}")
    make, count, _ = calibration_arrays(it, seed=0, examples=20)
    assert count == 20
    assert [len(array) for (array,) in make()] == [8, 8, 4]


def test_endless_training_data_is_no_matter(evaluated):
    before = "import itertools\ntraining = lambda: ((X[:8] + i + 0.5, Y[:8]) for i in itertools.count())\n"
    assert calibration_arrays(evaluated(before=before, more="training=training"), seed=0, examples=20)[1] == 20


def test_single_examples_of_different_sizes(opened):
    it = opened(
        "class Items(torch.utils.data.Dataset):\n"
        "    def __len__(self): return 9\n"
        "    def __getitem__(self, index): return {'input': torch.ones(index + 1, 4)}, 0\n"
        "w = Workload(model=nn.ReLU, example=lambda batch, length=6: {'input': torch.ones(batch, length, 4)},\n"
        "    dynamic={'input': {0: 'batch', 1: 'length'}}, training=Items)\n"
    )
    make, count, _ = calibration_arrays(it, seed=0)
    assert count == 9
    assert sorted(array.shape for (array,) in make()) == [(1, length, 4) for length in range(1, 10)]


def test_calibration_never_holds_evaluation_examples(evaluated):
    it = evaluated(more="calibration=lambda: [X[:50], X[50:] + 0.5, X[:10] + 0.25]")
    facts = check_evaluation(it, seed=0)
    for given_facts in (facts, None):
        make, count, note = calibration_arrays(it, seed=0, facts=given_facts)
        assert count == 60
        assert note == "50 examples of `calibration` left out, since `evaluation` holds them too"
        assert not {float(value) for (array,) in make() for value in array[:, 0]} & {4.0 * i for i in range(100)}


def test_training_data_that_is_the_evaluation_data_calibrates_nothing(evaluated):
    before = "from torch.utils.data import TensorDataset\n"
    make, count, note = calibration_arrays(
        evaluated(before=before, more="training=lambda: TensorDataset(X, Y)"), seed=0
    )
    assert (make, count) == (None, 0)
    assert note == "100 examples of `training` left out, since `evaluation` holds them too"


def test_endless_calibration_data_that_evaluation_holds_ends(evaluated):
    before = "import itertools\ncalibration = lambda: itertools.repeat(X)\n"
    assert calibration_arrays(evaluated(before=before, more="calibration=calibration"), seed=0)[0] is None


def test_without_either_field_the_reason_is_given(evaluated):
    assert calibration_arrays(evaluated(), seed=0) == (
        None,
        0,
        "the workload has neither `calibration` nor `training`, and random inputs are never used",
    )


def test_empty_calibration_data(evaluated):
    assert calibration_arrays(evaluated(more="calibration=list"), seed=0) == (
        None,
        0,
        "the workload's `calibration` is empty",
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("calibration=lambda: [(X, Y)]", r"`calibration`: inputs are 2 Tensors; `example` gave `input`"),
        (
            "calibration=lambda: 1 / 0",
            r"`calibration` raised ZeroDivisionError: division by zero \(.*mine\.py:\d+: ",
        ),
        ("calibration=lambda: (1 / 0 for _ in X)", r"`calibration` raised ZeroDivisionError"),
        ("training=lambda: [X]", r"`training` must give \(inputs, targets\) pairs; it gave a Tensor"),
        ("training=lambda: [(X.long(), Y)]", r"`training`: 'input' is int64, but float32 in `example`"),
        ("training=lambda: 1 / 0", r"`training` raised ZeroDivisionError"),
    ],
)
def test_calibration_data_that_misbehaves(evaluated, more, message):
    with pytest.raises(WorkloadError, match=message):
        calibration_arrays(evaluated(more=more), seed=0)


def test_which_training_data_is_single_examples():
    from torch.utils.data import DataLoader, IterableDataset, TensorDataset

    dataset = TensorDataset(torch.ones(3))

    class Stream(IterableDataset):
        def __iter__(self):
            return iter([])

    assert is_map_style(dataset)
    assert not any(map(is_map_style, (DataLoader(dataset), Stream(), [], iter([]))))


@pytest.mark.parametrize("spoilt", ["float('nan')", "float('inf')"])
def test_calibration_that_is_not_finite_is_none(evaluated, spoilt):
    made, count, why = calibration_arrays(
        evaluated(more=f"calibration=lambda: [X[:16] + 0.5, X[:16] * {spoilt}]"), seed=0
    )
    assert (made, count) == (None, 0)
    assert why.startswith("the workload's `calibration` gives NaN or Inf in `")
