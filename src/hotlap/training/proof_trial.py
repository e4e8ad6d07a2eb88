"""The proof of a tuned set-up: paired trainings, seed after seed, until it is settled or the time is spent."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hotlap.core import Json
from hotlap.errors import HotlapError
from hotlap.measure.worker import Worker
from hotlap.search.setting import start_worker
from hotlap.training import proof
from hotlap.training.bench import told
from hotlap.training.proof import Judged
from hotlap.training.settings import Settings

Kind = Literal["short", "full"]
BUDGET_SECONDS = {"short": 300.0, "full": 3600.0}
_RUNS = "hotlap.training.proof_runs"
_SLOW = 10.0
"""A run may take so many times its share of the budget before it counts as hung."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What is trained: a target with settings. `ms`: what a step of `rows_a_step` examples takes."""

    name: str
    target: str
    settings: Settings
    ms: float
    rows_a_step: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How it is proven. `seconds`: for each set-up that is judged. `margin`: a share of the loss (short, or without a
    score), or in the score's unit; None for the usual. `all_examples`: of a whole training, where known."""

    kind: Kind
    seconds: float
    margin: float | None
    seed: int
    all_examples: int | None
    memory_limit: int | None
    work: Path
    tell: Callable[[Json], None]
    side_by_side: bool = True
    """Whether a process of each side fits the memory; else each training has one of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One set-up judged against the own one. `judged` is None where it came to no judgement; `reason` says it all."""

    name: str
    settings: Settings
    judged: Judged | None
    reason: str
    own: tuple[Json, ...] = ()
    tuned: tuple[Json, ...] = ()
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether it was shown to be as good."""
        return self.judged is not None and self.judged.answer == "as good"


class _NoJudgement(Exception):
    """Why it came to none."""


@dataclass(slots=True)
class _Runs:
    """The runs of one side, kept by seed: made in its one process, or each in one of its own where there is none."""

    side: Side
    worker: Worker | None
    found: list[Json] = field(default_factory=list)


def judge_in_turn(
    own: Side, tuned: Sequence[Side], plan: Plan, after: Callable[[Sequence[Trial]], None] | None = None
) -> list[Trial]:
    """Judge each of `tuned` in turn until one is shown to be as good as `own`; the last trial is the one that counts.

    They share the error. Each seed's pair of runs sees the same examples in the same order. `after` is called with the
    trials so far after each.
    """
    examples = _examples(own, tuned[0], plan)
    too_long = _too_long(own, tuned[0], plan, examples)
    if too_long:
        return [Trial(name=tuned[0].name, settings=tuned[0].settings, judged=None, reason=too_long)]
    trials: list[Trial] = []
    with ExitStack() as stack:
        ours = _Runs(side=own, worker=stack.enter_context(_worker_for_all(own, plan)))
        for side in tuned:
            with _worker_for_all(side, plan) as worker:
                theirs = _Runs(side=side, worker=worker)
                trials.append(_trial(ours, theirs, plan, examples or 0, len(tuned)))
            if after is not None:
                after(trials)
            if trials[-1].passed:
                break
    return trials


def _too_long(own: Side, tuned: Side, plan: Plan, examples: int | None) -> str | None:
    """Why the time does not suffice, as far as that is known before any run."""
    seeds = proof.LOOKS.at[0]
    if plan.kind == "short":
        fits = examples is not None
        return None if fits else f"{seeds} seeds of short runs do not fit into {plan.seconds:.0f} s; give more time"
    if plan.all_examples is None:
        return None
    needed = proof.full_seconds(
        own_ms=own.ms, tuned_ms=tuned.ms, rows_a_step=own.rows_a_step, all_examples=plan.all_examples
    )
    return _takes(needed, seeds, plan) if needed > plan.seconds else None


def _takes(seconds: float, seeds: int, plan: Plan) -> str:
    shorter = ", or take --prove short" if plan.kind == "full" else ""
    return (
        f"{seeds} seeds on both sides take about {seconds:.0f} s, and {plan.seconds:.0f} s were given; give more "
        f"time{shorter}"
    )


def _trial(ours: _Runs, theirs: _Runs, plan: Plan, examples: int, tried: int) -> Trial:
    began, judged, side = time.monotonic(), None, theirs.side
    try:
        judged = _judgement(ours, theirs, plan, examples, tried)
        reason = proof.sentence(judged, unit=unit_of(ours.found))
        if _same_numbers(ours.found[: judged.seeds], theirs.found):
            reason = f"the same numbers, to the last bit, in {judged.seeds} pairs of trainings"
    except _NoJudgement as error:
        reason = str(error)
    count = judged.seeds if judged else min(len(ours.found), len(theirs.found))
    return Trial(
        name=side.name,
        settings=side.settings,
        judged=judged,
        reason=reason,
        own=tuple(ours.found[:count]),
        tuned=tuple(theirs.found[:count]),
        seconds=time.monotonic() - began,
    )


def _judgement(ours: _Runs, theirs: _Runs, plan: Plan, examples: int, tried: int) -> Judged:
    """Look after each of a few numbers of seeds, while there is time. Raises _NoJudgement before the first look."""
    began, judged = time.monotonic(), None
    ends: list[float] = []
    while (look := proof.next_look(len(theirs.found))) is not None:
        spent = time.monotonic() - began
        if judged is not None and spent * look / judged.seeds > plan.seconds:
            break
        while len(theirs.found) < look:
            if judged is None:
                _check_time(ends, look, plan, _seconds_of_the_last(ours, theirs))
            _pair_of_runs(ours, theirs, plan, examples, left=plan.seconds - (time.monotonic() - began))
            ends.append(time.monotonic() - began)
            if _same_numbers(ours.found, theirs.found):
                continue
            # What would leave no judgement in the end is said at once: the other seeds may take an hour.
            _check_seeds(ours.found)
            if unit_of(ours.found) == "score":
                _check_grain(ours.found, _score_margin(ours.found, plan), tried)
            else:
                _check_losses(ours.found, plan)
                _ratios(_tails(ours.found[: len(theirs.found)]), _tails(theirs.found), plan)
        judged = _judge(ours.found[:look], theirs.found, plan, tried)
        if judged.answer != "undecided":
            break
    assert judged is not None
    return judged


def _pair_of_runs(ours: _Runs, theirs: _Runs, plan: Plan, examples: int, *, left: float) -> None:
    """One more seed on both sides, the other side first each time; the own side's may be there already."""
    number = len(theirs.found)
    phase = f"proof of {theirs.side.name}: training with seed {plan.seed + number}"
    plan.tell({"event": "phase", "phase": phase, "seconds_left": left})
    for runs in (ours, theirs) if number % 2 == 0 else (theirs, ours):
        if len(runs.found) > number:
            continue
        try:
            runs.found.append(_run(runs, plan, number, examples))
        except HotlapError as error:
            raise _NoJudgement(
                f"training with {runs.side.name} failed at seed {plan.seed + number}: {told(error)}"
            ) from error


def _seconds_of_the_last(ours: _Runs, theirs: _Runs) -> float:
    """What the steps of the last pair took, as far as they are not the own side's of another trial."""
    runs = theirs.found[-1:] + (ours.found[-1:] if len(ours.found) == len(theirs.found) else [])
    return float(sum(run["seconds"] for run in runs))


def _check_time(ends: Sequence[float], look: int, plan: Plan, last: float) -> None:
    """Raise _NoJudgement where the first look comes too late. A whole training is long enough to foresee that by.

    `ends` are the seconds until each pair was there, the first with the start of its processes; `last` those of the
    steps of the last one.
    """
    if not ends:
        return
    a_pair = (ends[-1] - ends[0]) / (len(ends) - 1) if len(ends) > 1 else last
    expected = ends[-1] + (look - len(ends)) * a_pair
    if (expected if plan.kind == "full" else ends[-1]) > plan.seconds:
        raise _NoJudgement(_takes(expected, look, plan))


def _check_grain(own: Sequence[Json], margin: float, tried: int) -> None:
    """Raise _NoJudgement where the score is of so few examples that no number of seeds could show anything."""
    count, least = own[-1]["scored"], proof.least_shown(_grain(own), tried=tried)
    if least >= margin:
        raise _NoJudgement(
            f"the score is of {count} example{'' if count == 1 else 's'}: even {proof.LOOKS.at[-1]} seeds without a "
            f"difference would not show that less than {margin:.4f} is lost; give more evaluation examples, or a "
            f"--prove-margin above {least:.4f}"
        )


def _check_seeds(own: Sequence[Json]) -> None:
    """Raise _NoJudgement where seeds are no repetitions."""
    if len(own) > 1 and proof.same_curve(own[0]["losses"], own[1]["losses"]):
        raise _NoJudgement(
            "the seed changes nothing in this training, so that more seeds are no repetitions of it: have `training` "
            "shuffle, or `model` draw the first weights"
        )


def _check_fall(own: Sequence[Json], margin: float, plan: Plan) -> None:
    """Raise _NoJudgement where the own loss falls so little that what learns nothing might pass. margin: of the log."""
    fall = proof.fall(_heads(own), _tails(own))
    if fall >= proof.LEAST_FALL * margin:
        return
    smallest = math.floor(1000 * math.expm1(max(0.0, fall) / proof.LEAST_FALL)) / 1000
    ways = [f"a --prove-margin of at most {smallest}"] if smallest else []
    if plan.kind == "short":
        ways += ["more time"] if len(own[0]["losses"]) < proof.LONGEST_STEPS else []
        ways.append("--prove full")
    else:
        ways.append("the workload `evaluation` and `score`")
    raise _NoJudgement(
        f"the own set-up's loss fell by {-math.expm1(-max(0.0, fall)):.1%} only, and what learns nothing might pass "
        f"where {math.expm1(margin):.1%} is allowed; give {' or '.join(ways)}"
    )


def _check_rise(own: Sequence[Json], margin: float) -> None:
    """Raise _NoJudgement where the own score rises so little that what learns nothing might pass."""
    rise = float(np.mean([run["score"] - run["score_before"] for run in own]))
    if rise >= proof.LEAST_FALL * margin:
        return
    smallest = math.floor(10_000 * max(0.0, rise) / proof.LEAST_FALL) / 10_000
    ways = [f"a --prove-margin of at most {smallest}"] if smallest else []
    ways.append("the workload more epochs")
    raise _NoJudgement(
        f"the own set-up's score rose by {rise:.4f} only, and what learns nothing might pass where {margin:.4f} is "
        f"allowed; give {' or '.join(ways)}"
    )


def _judge(own: Sequence[Json], tuned: Sequence[Json], plan: Plan, tried: int) -> Judged:
    if _same_numbers(own, tuned):
        # However little it learns, it learns the same.
        score = unit_of(own) == "score"
        usual = proof.SCORE_MARGIN if score else proof.LOSS_MARGIN
        margin = usual if plan.margin is None else plan.margin
        return proof.judge([0.0] * len(own), margin=margin if score else math.log1p(margin), tried=tried)
    if unit_of(own) == "score":
        margin = _score_margin(own, plan)
        differences = [a["score"] - b["score"] if b["score"] is not None else math.inf for a, b in pairs_of(own, tuned)]
        judged = proof.judge(differences, margin=margin, tried=tried, grain=_grain([*own, *tuned]))
        if judged.answer != "worse":
            _check_rise(own, margin)
        return judged
    margin = math.log1p(proof.LOSS_MARGIN if plan.margin is None else plan.margin)
    _check_losses(own, plan)
    ratios = _ratios(_tails(own), _tails(tuned), plan)
    judged = proof.judge(ratios, margin=margin, tried=tried)
    if judged.answer != "worse":
        _check_fall(own, margin, plan)
    return judged


def _same_numbers(own: Sequence[Json], tuned: Sequence[Json]) -> bool:
    """Whether each pair's losses, and scores, are the same to the last bit, and none of them diverged."""
    return all(
        "losses" in a
        and np.array_equal(a["losses"], b["losses"])
        and np.isfinite(a["losses"]).all()
        and (a.get("score"), a.get("scores")) == (b.get("score"), b.get("scores"))
        for a, b in zip(own, tuned, strict=False)
    )


def _check_losses(own: Sequence[Json], plan: Plan) -> None:
    """Raise _NoJudgement where the own losses leave no ratio."""
    if not all(math.isfinite(run["losses"][-1]) for run in own):
        raise _NoJudgement("a training with the workload's own set-up diverged, which leaves nothing to compare with")
    losses = [*_heads(own), *_tails(own)]
    _ratios(losses, losses, plan)


def _ratios(own: Sequence[float], tuned: Sequence[float], plan: Plan) -> list[float]:
    """Raises _NoJudgement where a loss leaves no ratio."""
    try:
        return proof.log_ratios(own, tuned)
    except ValueError as error:
        way = "--prove full compares scores" if plan.kind == "short" else "give the workload `evaluation` and `score`"
        raise _NoJudgement(f"{error}; {way}") from error


def _grain(runs: Sequence[Json]) -> float:
    """Of the scores, each over as few examples as any of them."""
    return proof.grain([run["score"] for run in runs if run["score"] is not None], min(run["scored"] for run in runs))


def _score_margin(own: Sequence[Json], plan: Plan) -> float:
    """What counts as worse. Raises _NoJudgement where the own scores leave nothing to judge by."""
    scores = [run["score"] for run in own]
    if None in scores:
        raise _NoJudgement("a training with the workload's own set-up diverged, which leaves no score to compare with")
    if plan.margin is None and not all(0 <= score <= 1 for score in scores):
        raise _NoJudgement(
            f"--prove full: scores lie from {min(scores):.4g} to {max(scores):.4g}, where 0.01 may mean anything; give "
            "--prove-margin, in the score's unit"
        )
    return proof.SCORE_MARGIN if plan.margin is None else plan.margin


def pairs_of(own: Sequence[Json], tuned: Sequence[Json]) -> list[tuple[Json, Json]]:
    return list(zip(own, tuned, strict=True))


def unit_of(runs: Sequence[Json]) -> Literal["loss", "score"]:
    """Scores are compared where trainings to the end gave them."""
    return "score" if any(run.get("score") is not None for run in runs) else "loss"


def _heads(runs: Sequence[Json]) -> list[float]:
    return [proof.head_mean(run["losses"], run["examples"]) for run in runs]


def _tails(runs: Sequence[Json]) -> list[float]:
    return [proof.tail_mean(run["losses"], run["examples"]) for run in runs]


def _examples(own: Side, tuned: Side, plan: Plan) -> int | None:
    return proof.short_examples(
        seconds=plan.seconds,
        own_ms=own.ms,
        tuned_ms=tuned.ms,
        rows_a_step=own.rows_a_step,
        all_examples=plan.all_examples,
    )


def _worker(side: Side, plan: Plan) -> Worker:
    return start_worker(side.settings.threads, plan.memory_limit, plan.work)


def _worker_for_all(side: Side, plan: Plan) -> AbstractContextManager[Worker | None]:
    """One process for all trainings of a side, where one of each side fits the memory; else none."""
    return _worker(side, plan) if plan.side_by_side else nullcontext()


def _run(runs: _Runs, plan: Plan, number: int, examples: int) -> Json:
    given: dict[str, Any] = {"examples": examples}
    if plan.kind == "full":
        given = {"folder": str(plan.work / "proof")}
    with nullcontext(runs.worker) if runs.worker else _worker(runs.side, plan) as worker:
        found: Json = worker.call(
            f"{_RUNS}:{plan.kind}",
            target=runs.side.target,
            settings=runs.side.settings.to_json(),
            seed=plan.seed + number,
            timeout=_SLOW * plan.seconds,
            **given,
        )
        # The other side's turn: idle threads of this one would tax it.
        worker.pause()
    return found
