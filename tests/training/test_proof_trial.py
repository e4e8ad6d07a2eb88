"""Real paired trainings: what is as good passes, and what is planted to be worse is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trainable

from hotlap.training import proof_trial
from hotlap.training.proof import LOSS_MARGIN
from hotlap.training.proof_trial import Kind, Plan, Side, details, judge_in_turn
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
    return Side(name=name, target=target, settings=replace(OWN, **changed), ms=1)


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
    assert "its score is lower by 0.0000, at most 0.0000 (95%), where 0.1000 is allowed" in trials[1].reason
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
