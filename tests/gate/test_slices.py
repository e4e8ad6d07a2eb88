"""The gate in each slice: a broken class is refused, small slices do not block, the surest loss is the worst."""

import numpy as np
import pytest
from scipy import stats

from hotlap import gate
from hotlap.gate.drop import Scale
from hotlap.gate.slices import scored_slices, worst_of


def scores(lost: dict[str, tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Scores and labels of slices given as label: (lost, gained, examples)."""
    original, candidate, labels = [], [], []
    for label, (gone, found, examples) in lost.items():
        original += [1] * gone + [0] * found + [1] * (examples - gone - found)
        candidate += [0] * gone + [1] * found + [1] * (examples - gone - found)
        labels += [label] * examples
    return np.array(original, float), np.array(candidate, float), labels


def test_small_slices_without_a_loss_block_nothing() -> None:
    original, candidate, labels = scores({f"class {index}": (0, 0, 20) for index in range(50)})
    verdict = gate.judge_drop(original, candidate, max_drop=0.01, slices=labels, bounds=(0, 1))
    assert verdict.passed
    assert len(verdict.slices) == 50
    assert verdict.slices["class 7"].high > 0.1
    assert verdict.worst_slice in verdict.slices


def test_one_flip_in_a_small_slice_blocks_nothing() -> None:
    original, candidate, labels = scores({"rare": (1, 0, 5), "common": (2, 2, 3000)})
    assert gate.judge_drop(original, candidate, max_drop=0.01, slices=labels, bounds=(0, 1)).passed


def test_a_small_slice_that_broke_is_refused() -> None:
    original, candidate, labels = scores({"rare": (6, 0, 20), "common": (2, 2, 3000)})
    verdict = gate.judge_drop(original, candidate, max_drop=0.01, slices=labels, bounds=(0, 1))
    assert not verdict.passed
    assert verdict.worst_slice == "rare"
    assert verdict.drop is not None
    assert verdict.drop.high < 0.01
    assert verdict.distance is not None
    assert verdict.distance > 0
    assert verdict.reason.startswith("slice 'rare', lost 6, gained 0 of 20 examples: drop at least 0.0")


def test_the_worst_slice_is_the_one_whose_loss_is_surest() -> None:
    """1 of 3 is a third, but may well be chance; 30 of 300 is not."""
    original, candidate, labels = scores({"tiny": (1, 0, 3), "large": (30, 0, 300), "sound": (0, 0, 3000)})
    verdict = gate.judge_drop(original, candidate, max_drop=1.0, slices=labels, bounds=(0, 1))
    assert verdict.worst_slice == "large"
    assert verdict.slices["tiny"].estimate > verdict.slices["large"].estimate


def test_of_sound_candidates_at_most_5_in_100_are_refused_for_a_slice() -> None:
    random, trials, classes, each = np.random.default_rng(1), 300, 10, 120
    labels = [f"class {index}" for index in range(classes) for _ in range(each)]
    refused = 0
    for _ in range(trials):
        lost = (random.random(classes * each) < 0.05).astype(float)
        found = scored_slices(np.ones(len(lost)), 1 - lost, labels, Scale(largest=1.0, binary=True), 0.95)
        worst = worst_of(found)
        refused += worst is not None and worst.at_least > 0.05
    assert 0 < refused <= stats.binom.ppf(1 - 1e-4, trials, 0.05)


def test_slices_of_real_scores_and_of_a_metric() -> None:
    original = np.full(600, 0.9)
    candidate = original - np.where(np.arange(600) < 40, 0.6, 0.0)
    labels = ["night"] * 60 + ["day"] * 540
    real = gate.judge_drop(original, candidate, max_drop=0.1, slices=labels, bounds=(0, 1))
    assert real.reason.startswith("slice 'night'")
    rows = [round(value, 3) for value in original.tolist()], [round(value, 3) for value in candidate.tolist()]
    by_metric = gate.judge_drop(
        *rows, max_drop=0.1, slices=labels, metric=lambda rows: sum(rows) / len(rows), resamples=200
    )
    assert by_metric.worst_slice == real.worst_slice == "night"
    assert not by_metric.passed
    assert by_metric.slices["night"].estimate == pytest.approx(0.4)


def test_a_slice_in_which_a_metric_has_no_value_is_left_out() -> None:
    def spread(rows: list[float]) -> float:
        if len(set(rows)) < 2:
            raise ValueError("one class only")
        return max(rows) - min(rows)

    rows = [0.0, 1.0] * 50 + [1.0] * 20
    verdict = gate.judge_drop(
        rows, rows, max_drop=0.5, slices=["both"] * 100 + ["one"] * 20, metric=spread, resamples=50
    )
    assert set(verdict.slices) == {"both"}


def test_labels_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="2 slice labels for 3 examples"):
        gate.judge_drop(np.ones(3), np.ones(3), max_drop=0.1, slices=["a", "b"], bounds=(0, 1))
