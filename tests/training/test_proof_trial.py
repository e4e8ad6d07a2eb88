"""Real paired trainings: what is as good passes, and what is planted to be worse is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trainable

from hotlap.core import Json
from hotlap.errors import LoaderDied
from hotlap.training import proof_details, proof_runs, proof_trial
from hotlap.training.proof import LOSS_MARGIN
from hotlap.training.proof_details import details
from hotlap.training.proof_trial import Kind, Plan, Side, Trial, judge_in_turn
from hotlap.training.settings import Settings

OWN = Settings(batch_size=16, epochs=16, threads=1)
HEAD = "\nfrom dataclasses import replace\n"
ADAM = "workload = replace(workload, optimizer=lambda parameters: torch.optim.Adam(parameters, lr={rate}))\n"
HALF = """
def half():
    net = model().bfloat16()
    net.register_forward_pre_hook(lambda module, inputs: tuple(value.bfloat16() for value in inputs))
    return net
workload = replace(workload, model=half)
"""


def side(folder: Path, name: str, add: str, **changed: Any) -> Side:
    (folder / name).mkdir()
    target = trainable.write(folder / name, "rows", add=HEAD + ADAM.format(rate=4e-4) + add)
    return Side(name=name, target=target, settings=replace(OWN, **changed), ms=1, rows_a_step=16)


def planned(folder: Path, kind: Kind = "short") -> Plan:
    return Plan(
        kind=kind,
        seconds=900,
        margin=LOSS_MARGIN if kind == "short" else 0.1,
        seed=3,
        all_examples=16 * 150,
        memory_limit=None,
        work=folder,
        tell=lambda event: None,
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_trains_worse_is_refused_and_what_is_as_good_passes(tmp_path: Path) -> None:
    own, plan = side(tmp_path, "own", ""), planned(tmp_path)
    tuned = [
        side(tmp_path, "half the learning rate", ADAM.format(rate=2e-4)),
        side(tmp_path, "bf16 weights", HALF),
        side(tmp_path, "a learning rate that diverges", ADAM.format(rate=1e30)),
        side(tmp_path, "bf16 autocast and a loader process", "", precision="bf16", workers=1),
        side(tmp_path, "never tried", ""),
    ]
    trials = judge_in_turn(own, tuned, plan)
    reasons = {trial.name: trial.reason for trial in trials}
    assert [trial.passed for trial in trials] == [False, False, False, True], reasons
    assert "it trains worse: its loss is higher by" in reasons["half the learning rate"]
    assert "it trains worse: its loss is higher by" in reasons["bf16 weights"]
    assert reasons["a learning rate that diverges"] == "it trains worse: a run of it diverged"
    assert "where 5.0% is allowed; a margin of" in reasons["bf16 autocast and a loader process"]
    found = details(trials, plan, own)
    assert [row["answer"] for row in found["trials"]] == ["worse", "worse", "worse", "as good"]
    assert all(row["seeds"] == 5 for row in found["trials"])
    assert len(found["curves"]["own"]) == len(found["curves"]["tuned"]) == 5
    json.dumps(found, allow_nan=False)


@pytest.mark.exhaustive
def test_full_trainings_compare_scores(tmp_path: Path) -> None:
    own, plan = side(tmp_path, "own", ""), planned(tmp_path, "full")
    worse = side(tmp_path, "a lost learning rate", ADAM.format(rate=1e-5))
    trials = judge_in_turn(own, [worse, side(tmp_path, "a loader process", "", workers=1)], plan)
    assert [trial.passed for trial in trials] == [False, True]
    assert trials[1].reason == "the same numbers, to the last bit, in 5 pairs of trainings"
    row = details(trials, plan, own)["trials"][1]
    assert row["own_scores"] == row["tuned_scores"]
    assert all(row["seconds_to_the_own_score"]["tuned"])
    assert row["speedup_to_the_own_score"] > 0


@pytest.mark.slow
def test_what_does_not_fit_the_time_is_not_judged(tmp_path: Path) -> None:
    own, tuned = (replace(side(tmp_path, name, ""), ms=100_000.0) for name in ("own", "tuned"))
    (trial,) = judge_in_turn(own, [tuned], planned(tmp_path))
    assert trial.judged is None
    assert trial.reason == "5 seeds of short runs do not fit into 900 s; give more time"


@pytest.mark.parametrize(
    ("scores", "reason"),
    [((0.5, 3.0), "scores lie from 0.5 to 3"), ((0.5, None), "own set-up diverged, which leaves no score")],
)
def test_own_scores_that_nothing_can_be_judged_by(tmp_path: Path, scores: tuple[Any, ...], reason: str) -> None:
    plan = replace(planned(tmp_path, "full"), margin=None)
    own = [{"score": score} for score in scores]
    with pytest.raises(proof_trial._NoJudgement, match=reason):
        proof_trial._judge(own, [{"score": 0.5}, {"score": 0.5}], plan, 1)


def test_a_tuned_loss_of_0_is_no_divergence(tmp_path: Path) -> None:
    own, tuned = runs(1.0, 0.1), runs(1.0, 0.1)
    tuned[2]["losses"][60:] = 0.0
    with pytest.raises(proof_trial._NoJudgement, match="above 0 of the tuned set-up; --prove full compares scores"):
        proof_trial._judge(own, tuned, planned(tmp_path), 1)


def test_the_same_few_scores_are_no_proof_where_the_losses_differ(tmp_path: Path) -> None:
    """20 examples, in steps of 0.05: one seed in five may lose one."""
    plan = replace(planned(tmp_path, "full"), margin=None)
    own = [{**run, "score": 0.95, "score_before": 0.1, "scored": 20} for run in runs(1.0, 0.1)]
    tuned = [{**run, "losses": 1.01 * run["losses"]} for run in own]
    assert proof_trial._judge(own, tuned, plan, 1).answer == "undecided"
    assert proof_trial._judge(own, own, plan, 1).answer == "as good"


def scored(before: float, after: float) -> list[Json]:
    change = [0.0001 * seed for seed in range(5)]
    return [{"score": after + one, "score_before": before + one, "scored": 10_000} for one in change]


def test_what_learns_nothing_does_not_pass_where_the_own_score_hardly_rises(tmp_path: Path) -> None:
    own, nothing_learnt = scored(0.900, 0.915), scored(0.900, 0.908)
    plan = replace(planned(tmp_path, "full"), margin=None)
    words = r"score rose by 0\.0150 only, .* where 0\.0100 is allowed; give a --prove-margin of at most 0\.00\d+ or"
    with pytest.raises(proof_trial._NoJudgement, match=words):
        proof_trial._judge(own, nothing_learnt, plan, 1)
    assert proof_trial._judge(own, own, replace(plan, margin=0.007), 1).answer == "as good"
    assert proof_trial._judge(own, scored(0.9, 0.9), replace(plan, margin=0.007), 1).answer == "worse"
    with pytest.raises(proof_trial._NoJudgement, match=r"rose by -0\.0100 only.*; give the workload more epochs"):
        proof_trial._judge(scored(0.9, 0.89), scored(0.9, 0.89), plan, 1)


def runs(first: float, last: float, spread: float = 0.001) -> list[Json]:
    """Five seeds of 100 steps whose loss falls evenly."""
    draw = np.random.default_rng(int(1000 * last))
    curve = np.linspace(first, last, 100)
    return [{"losses": curve + spread * draw.standard_normal(100), "examples": np.full(100, 16)} for _ in range(5)]


def test_what_learns_nothing_does_not_pass_where_the_own_loss_hardly_falls(tmp_path: Path) -> None:
    own, nothing_learnt = runs(6.90, 6.57), runs(6.90, 6.90)
    ways = "give a --prove-margin of at most 0.0(18|19) or more time or --prove full"
    with pytest.raises(proof_trial._NoJudgement, match=rf"loss fell by 3\.\d% only, .* where 5\.0% is allowed; {ways}"):
        proof_trial._judge(own, nothing_learnt, planned(tmp_path), 1)
    assert proof_trial._judge(own, own, replace(planned(tmp_path), margin=0.018), 1).answer == "as good"
    assert proof_trial._judge(own, nothing_learnt, replace(planned(tmp_path), margin=0.018), 1).answer == "worse"
    with pytest.raises(proof_trial._NoJudgement, match=r"fell by 0\.0% only.* the workload `evaluation` and `score`"):
        proof_trial._judge(nothing_learnt, own, planned(tmp_path, "full"), 1)


@pytest.mark.parametrize(
    ("kind", "last", "reason"),
    [
        ("short", -0.5, "losses above 0 of the workload's own set-up; --prove full compares scores"),
        ("full", -0.5, "losses above 0 of the workload's own set-up; give the workload `evaluation` and `score`"),
        ("full", np.inf, "a training with the workload's own set-up diverged, which leaves nothing to compare with"),
    ],
)
def test_own_losses_that_nothing_can_be_judged_by(tmp_path: Path, kind: Kind, last: float, reason: str) -> None:
    own = [{"losses": np.linspace(1.0, -1.0, 20), "examples": np.full(20, 16), "score": None}]
    own[0]["losses"][-1] = last
    with pytest.raises(proof_trial._NoJudgement) as raised:
        proof_trial._judge(own, [{**one, "losses": 1.01 * one["losses"]} for one in own], planned(tmp_path, kind), 1)
    assert str(raised.value).endswith(reason)


BELOW_0 = (
    "workload = replace(workload, evaluation=None, score=None, loss=lambda outputs, labels: -(outputs**2).mean())\n"
)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_losses_that_leave_no_ratio_are_told_after_one_pair(tmp_path: Path) -> None:
    own, tuned = (side(tmp_path, one, BELOW_0, epochs=1, precision=one) for one in ("fp32", "bf16"))
    (trial,) = judge_in_turn(own, [tuned], planned(tmp_path, "full"))
    assert "give the workload `evaluation` and `score`" in trial.reason
    assert len(trial.own) == len(trial.tuned) == 1


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_step_at_all_does_not_pass_for_a_small_one(tmp_path: Path) -> None:
    own = side(tmp_path, "a tiny learning rate", ADAM.format(rate=4e-5))
    (trial,) = judge_in_turn(own, [side(tmp_path, "none", ADAM.format(rate=0.0))], planned(tmp_path))
    assert "only, and what learns nothing might pass" in trial.reason


WHOLE = replace(OWN, batch_size=64)
"""For batches of the data's own, which leave no choice of their size."""


def short(target: str, seed: int) -> Json:
    return proof_runs.short({}, target=target, settings=WHOLE.to_json(), seed=seed, examples=200)


def test_a_seed_that_changes_nothing_is_no_repetition(tmp_path: Path) -> None:
    # The batches are a list, the first weights are always the same, and nothing is dropped.
    target = trainable.write(tmp_path, "tokens")
    with pytest.raises(proof_trial._NoJudgement, match="the seed changes nothing in this training"):
        proof_trial._check_seeds([short(target, 0), short(target, 1)])
    target = trainable.write(tmp_path, "rows")
    proof_trial._check_seeds([short(target, 0), short(target, 1)])


@pytest.mark.slow
def test_seeds_that_change_nothing_are_told_after_two(tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "tokens")
    sides = [replace(WHOLE, precision=one) for one in ("fp32", "bf16")]
    own, tuned = (Side(name=one.precision, target=target, settings=one, ms=1, rows_a_step=3) for one in sides)
    (trial,) = judge_in_turn(own, [tuned], planned(tmp_path))
    assert trial.judged is None
    assert "the seed changes nothing" in trial.reason
    assert len(trial.own) == len(trial.tuned) == 2


DYING = """
import os
from torch.utils.data import get_worker_info
_fine = Rows.__getitem__
def _dying(self, index):
    return os._exit(1) if get_worker_info() and len(self) == 150 else _fine(self, index)
Rows.__getitem__ = _dying
"""


def test_a_lost_loader_process_is_no_divergence(tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows", add=DYING)
    settings, folder = replace(OWN, workers=1).to_json(), str(tmp_path / "run")
    with pytest.raises(LoaderDied, match="a loader process ended by itself"):
        proof_runs.full({}, target=target, settings=settings, seed=0, folder=folder)


def test_whole_trainings_that_do_not_fit_are_not_begun(tmp_path: Path) -> None:
    own = Side(name="own", target="none.py", settings=OWN, ms=6000.0, rows_a_step=16)
    (trial,) = judge_in_turn(own, [replace(own, name="tuned", ms=4000.0)], planned(tmp_path, "full"))
    assert trial.judged is None
    assert trial.reason == (
        "5 seeds on both sides take about 7500 s, and 900 s were given; give more time, or take --prove short"
    )


def test_how_long_whole_trainings_take_is_foreseen_by_the_first(tmp_path: Path) -> None:
    full = planned(tmp_path, "full")
    proof_trial._check_time([], 5, full, 0.0)
    # The first pair takes the start of its processes too, which the others do not.
    proof_trial._check_time([500], 5, full, 90)
    with pytest.raises(proof_trial._NoJudgement, match="5 seeds on both sides take about 1000 s, and 900 s were given"):
        proof_trial._check_time([200], 5, full, 200)
    proof_trial._check_time([500, 600], 5, full, 200)
    with pytest.raises(proof_trial._NoJudgement, match="take about 1100 s"):
        proof_trial._check_time([200, 425], 5, full, 90)
    # Short runs were made to fit.
    proof_trial._check_time([200], 5, planned(tmp_path), 300)
    with pytest.raises(proof_trial._NoJudgement, match="take about 1200 s"):
        proof_trial._check_time([200, 450, 700, 950], 5, planned(tmp_path), 250)


def test_a_score_of_so_few_examples_that_nothing_can_be_shown_is_told_at_once(tmp_path: Path) -> None:
    own = [{"score": 0.9, "scored": 20}]
    words = r"the score is of 20 examples: even 12 seeds .* or a --prove-margin above 0\.01\d\d"
    with pytest.raises(proof_trial._NoJudgement, match=words):
        proof_trial._check_grain(own, 0.01, 1)
    proof_trial._check_grain(own, 0.02, 1)
    proof_trial._check_grain([{"score": 0.9, "scored": 100}], 0.01, 1)


def test_a_speedup_to_the_own_score_needs_every_seed(tmp_path: Path) -> None:
    def scored(*scores: float) -> Json:
        return {"score": scores[-1], "scores": scores, "score_seconds": [1.0, 2.0, 3.0]}

    own, tuned = (scored(0.5, 0.8, 0.9), scored(0.5, 0.8, 0.8)), (scored(0.5, 0.9, 0.9), scored(0.8, 0.8, 0.8))
    trial = Trial(name="tuned", settings=OWN, judged=None, reason="", own=own, tuned=tuned)
    assert proof_details._scores(trial)["speedup_to_the_own_score"] == pytest.approx(3**0.5)
    # What stops early keeps its best weights, not those of its last epochs.
    early = replace(trial, settings=replace(OWN, early_stop=1))
    early = replace(early, own=(scored(0.5, 0.9, 0.6),), tuned=(scored(0.6, 0.7, 0.9),))
    assert proof_details._scores(early)["seconds_to_the_own_score"] == {"own": [2.0], "tuned": [3.0]}
    trial = replace(trial, tuned=(scored(0.5, 0.9, 0.9), scored(0.5, 0.6, 0.7)))
    row = proof_details._scores(trial)
    assert row["seconds_to_the_own_score"]["tuned"] == [2.0, None]
    assert row["speedup_to_the_own_score"] is None


@pytest.mark.parametrize(
    ("kind", "side_by_side"),
    [
        pytest.param("full", True, marks=pytest.mark.slow),
        pytest.param("short", True, marks=pytest.mark.exhaustive),
        pytest.param("full", False, marks=pytest.mark.exhaustive),
    ],
)
def test_the_same_numbers_pass_however_little_is_learnt(
    kind: Kind, side_by_side: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a process for each side, or one for each training where two have no room."""
    started, start = list[Any](), proof_trial.start_worker
    monkeypatch.setattr(proof_trial, "start_worker", lambda *given: started.append(given) or start(*given))
    rate = ADAM.format(rate=1e-9)
    own, tuned = side(tmp_path, "own", rate), side(tmp_path, "a loader process", rate, workers=1)
    plan = replace(planned(tmp_path, kind), margin=None, side_by_side=side_by_side)
    (trial,) = judge_in_turn(own, [tuned], plan)
    assert len(started) == (2 if side_by_side else 10)
    assert trial.passed, trial.reason
    assert trial.reason == "the same numbers, to the last bit, in 5 pairs of trainings"
    json.dumps(details([trial], plan, own), allow_nan=False)
    own_runs = list(trial.own)
    others = [{**run, "losses": run["losses"] * (1 + 1e-7)} for run in own_runs]
    with pytest.raises(proof_trial._NoJudgement, match="only, and what learns nothing might pass"):
        proof_trial._judge(own_runs, others, plan, 1)


def test_a_short_run_goes_through_the_whole_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates, set_rate = list[float](), proof_runs.preparing.set_rate

    def noted(optimizer: Any, factor: float | None) -> float | None:
        assert factor is not None
        rates.append(factor)
        return set_rate(optimizer, factor)

    monkeypatch.setattr(proof_runs.preparing, "set_rate", noted)
    settings = replace(OWN, epochs=100, schedule="one_cycle", warmup=50).to_json()
    proof_runs.short({}, target=trainable.write(tmp_path, "rows"), settings=settings, seed=0, examples=16 * 40)
    assert rates[0] < 0.1
    assert max(rates) > 0.9
    assert rates[-1] < 0.05
