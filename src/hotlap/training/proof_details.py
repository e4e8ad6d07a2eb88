"""What a result says of a proof: every judgement, and the curves of the one that counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from hotlap.core import Json
from hotlap.training import proof
from hotlap.training.proof_trial import Plan, Side, Trial, pairs_of, unit_of
from hotlap.training.settings import Settings

_BINS = 30


def details(trials: Sequence[Trial], plan: Plan, own: Side) -> Json:
    """The trials as `proof_details` of a result.json: every judgement, and the curves of the one that counts."""
    last = trials[-1]
    return {
        "kind": plan.kind,
        "own": own.name,
        "compared": "score" if unit_of(last.own) == "score" else "loss",
        "judged": any(trial.judged is not None for trial in trials),
        "error": proof.ERROR,
        "budget_seconds": plan.seconds,
        "seconds": sum(trial.seconds for trial in trials),
        "trials": [_trial_json(trial) for trial in trials],
        "curves": _curves(last) if last.tuned and last.own and _as_long(last) else None,
    }


def _trial_json(trial: Trial) -> Json:
    judged = trial.judged
    row: dict[str, Any] = {
        "name": trial.name,
        "settings": trial.settings.to_json(),
        "answer": judged.answer if judged else "undecided",
        "reason": trial.reason,
        "seeds": len(trial.tuned),
        "seconds": trial.seconds,
    }
    if judged is not None and math.isfinite(judged.estimate):
        ratio = unit_of(trial.own) == "loss"
        names = ("estimate", "low", "high", "margin", "detectable")
        figures = {name: math.expm1(getattr(judged, name)) if ratio else getattr(judged, name) for name in names}
        row |= {"margin": figures.pop("margin"), "detectable_margin": figures.pop("detectable"), "worse_by": figures}
    if trial.own and "score" in trial.own[0]:
        row |= _scores(trial)
    return row


def _scores(trial: Trial) -> Json:
    """Final scores a seed, and the seconds of training until a run first scored what the own one ended with."""
    own, tuned = ([run["score"] for run in runs] for runs in (trial.own, trial.tuned))
    seconds = [
        (_seconds_to(a, goal), _seconds_to(b, goal))
        for a, b in pairs_of(trial.own, trial.tuned)
        if (goal := _ends_with(a, trial.settings)) is not None
    ]
    both = [(a, b) for a, b in seconds if a and b]
    # Seeds that never got there would have counted against it.
    all_did = bool(both) and len(both) == len(seconds)
    speedup = math.exp(float(np.mean([math.log(a / b) for a, b in both]))) if all_did else None
    return {
        "own_scores": own,
        "tuned_scores": tuned,
        "seconds_to_the_own_score": {"own": [a for a, _ in seconds], "tuned": [b for _, b in seconds]},
        "speedup_to_the_own_score": speedup,
    }


def _ends_with(run: Json, settings: Settings) -> float | None:
    """The score of the weights that it keeps: the last ones, or the best where it stops early."""
    scores: list[float] = run["scores"]
    if not scores:
        return None
    return scores[-1] if settings.early_stop is None else max(scores)


def _seconds_to(run: Json, goal: float) -> float | None:
    reached = (s for score, s in zip(run["scores"], run["score_seconds"], strict=True) if score >= goal)
    return next(reached, None)


def _as_long(trial: Trial) -> bool:
    """Whether all its runs saw as many examples; those that stop early, or diverged, did not."""
    return len({int(run["examples"].sum()) for run in (*trial.own, *trial.tuned)}) == 1


def _curves(trial: Trial) -> Json:
    """Training loss by examples, binned, a list a seed; a loss that is not finite is null."""

    def of(runs: Sequence[Json]) -> list[list[float | None]]:
        curves = [proof.binned(run["losses"], run["examples"], bins=_BINS) for run in runs]
        return [[float(value) if math.isfinite(value) else None for value in curve] for curve in curves]

    count = int(trial.own[0]["examples"].sum())
    middles = [count * (index + 0.5) / _BINS for index in range(_BINS)]
    return {"examples": middles, "own": of(trial.own), "tuned": of(trial.tuned), "tail_from": count * (1 - proof.TAIL)}
