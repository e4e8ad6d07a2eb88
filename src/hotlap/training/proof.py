"""Is training with a tuned set-up as good? What paired runs over seeds say. Pure.

Both set-ups train with the same seeds, hence on the same examples in the same order, so that the noise of the data
cancels in their difference. The unit is the seed: a curve's own steps depend on one another. The test is one of
non-inferiority: "as good" is said only where the one-sided 95% bound of how much worse it is lies below a margin that
was fixed before. Student's t over the seeds' differences, at a few fixed looks that share the error, as
`measure.statistics` has them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hotlap.core import Array
from hotlap.measure import statistics
from hotlap.measure.statistics import Looks
from hotlap.measure.student import quantile

Answer = Literal["as good", "worse", "undecided"]

LOOKS = Looks(at=(5, 8, 12))
"""After so many seeds the differences may be looked at."""
LOSS_MARGIN = 0.05
"""A loss that is higher by this share counts as worse. Half the learning rate, which must not pass, cost 8% within 160
steps of a small network."""
SCORE_MARGIN = 0.01
"""A final score that is lower by this much counts as worse: the drop that `optimize` allows."""
ERROR = 0.05
"""The chance to call a set-up as good that is worse by the margin, all looks and all set-ups tried together, where its
seeds differ as noise does. What goes wrong in one of ten is not seen in five 59 times in 100."""
_POWER = 0.8
HEAD, TAIL = 0.1, 1 / 3
"""The first share of a run's examples, whose loss is that of weights that learnt little yet, and the last, which is
judged."""
LEAST_FALL = 2.0
"""The own loss must fall, or the own score rise, by so many margins for a judgement: what learns half as much is then
worse by a whole one."""
LONGEST_STEPS = 400
"""Of a short run: more seeds show more than longer runs."""
_LEAST_STEPS = 30
_ROUNDING = 1e-4
"""Curves of two seeds that differ by no larger share at any step differ by rounding alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """How much worse: `estimate`, and one-sided bounds `low` and `high` of it, in the differences' own unit.

    `detectable` is the margin at which a set-up that is exactly as good would have passed with a chance of 80%, at
    this number of seeds and this spread between them.
    """

    answer: Answer
    estimate: float
    low: float
    high: float
    margin: float
    detectable: float
    seeds: int


def judge(
    differences: Sequence[float], *, margin: float, tried: int = 1, looks: Looks = LOOKS, grain: float = 0.0
) -> Judged:
    """Judge one difference a seed, above 0 where the tuned set-up is worse; at least two.

    margin: in the differences' unit. tried: set-ups that may be judged in turn until one passes; they share ERROR.
    grain: differences are whole multiples of it, so that a few that are all alike do not mean that others are: so many
    of the others may differ by one as is known of what was never seen.
    A difference that is not finite (a run that diverged) is worse than any margin.
    """
    found = np.asarray(differences, float)
    count = len(found)
    if not np.all(np.isfinite(found)):
        return Judged(
            answer="worse",
            estimate=math.inf,
            low=math.inf,
            high=math.inf,
            margin=margin,
            detectable=math.inf,
            seeds=count,
        )
    # Two-sided intervals with twice the error are one-sided bounds with it.
    confidence = 1 - 2 * ERROR / tried
    centre, width = statistics.centres_and_half_widths(found, confidence=confidence, looks=looks, least_spread=0.0)
    half = max(float(width), grain * statistics.unseen_share(count, confidence=confidence, looks=looks))
    estimate = float(centre)
    low, high = estimate - half, estimate + half
    error_of_mean = float(np.std(found, ddof=1)) / math.sqrt(count)
    answer: Answer = "undecided"
    if high < margin:
        answer = "as good"
    elif low > 0 and estimate > margin:
        answer = "worse"
    return Judged(
        answer=answer,
        estimate=estimate,
        low=low,
        high=high,
        margin=margin,
        detectable=half + quantile(_POWER, count - 1) * error_of_mean,
        seeds=count,
    )


def least_shown(grain: float, *, tried: int = 1, looks: Looks = LOOKS) -> float:
    """The smallest margin that the last look may show, of scores with that grain, where no seed shows a difference."""
    return grain * statistics.unseen_share(looks.at[-1], confidence=1 - 2 * ERROR / tried, looks=looks)


def log_ratios(own: Sequence[float], tuned: Sequence[float]) -> list[float]:
    """Log of tuned over own loss, a seed each; infinite where the tuned run has no finite loss.

    Raises ValueError where a loss of the own set-up is not finite, or one of either is not above 0, which leaves no
    ratio.
    """
    if not all(math.isfinite(value) and value > 0 for value in own):
        raise ValueError("a ratio needs losses above 0 of the workload's own set-up")
    if any(value <= 0 for value in tuned):
        raise ValueError("a ratio needs losses above 0 of the tuned set-up")
    return [math.log(b / a) if math.isfinite(b) else math.inf for a, b in zip(own, tuned, strict=True)]


def grain(scores: Sequence[float], examples: int) -> float:
    """What one of so many examples makes of a score: 1/n where it lies from 0 to 1, and in proportion where beyond.

    A score over examples that are right or wrong comes in such steps; one of another kind hardly differs by less where
    an example goes otherwise.
    """
    return max([1.0, *map(abs, scores)]) / examples


def fall(heads: Sequence[float], tails: Sequence[float]) -> float:
    """How far losses fell from `heads` to `tails`, a seed each: the mean log of their ratio, above 0 where they fell.

    Raises ValueError where a loss is not finite or not above 0, which leaves no ratio.
    """
    return -float(np.mean(log_ratios(heads, tails)))


def same_curve(losses: Array, others: Array) -> bool:
    """Whether two curves are the same but for rounding: float[steps] each, all finite."""
    if losses.shape != others.shape or not np.all(np.isfinite(losses)):
        return False
    return bool(np.allclose(losses, others, rtol=_ROUNDING, atol=0))


def next_look(seeds: int, looks: Looks = LOOKS) -> int | None:
    """The number of seeds at which to look next, or None where no look is left."""
    return next((at for at in looks.at if at > seeds), None)


def tail_mean(losses: Array, examples: Array, *, share: float = TAIL) -> float:
    """The mean loss over the last `share` of the examples: float[steps] and int[steps], the examples of each step.

    At least the last step counts. Not finite where one of those losses is not.
    """
    after = np.cumsum(examples)
    kept = after > (1 - share) * after[-1]
    return float(np.sum(losses[kept] * examples[kept]) / np.sum(examples[kept]))


def head_mean(losses: Array, examples: Array, *, share: float = HEAD) -> float:
    """The mean loss over the first `share` of the examples, as `tail_mean`; at least the first step counts."""
    kept = np.cumsum(examples) - examples < share * np.sum(examples)
    return float(np.sum(losses[kept] * examples[kept]) / np.sum(examples[kept]))


def binned(losses: Array, examples: Array, *, bins: int) -> Array:
    """A curve as `bins` means over equal shares of its examples: float[bins]; what falls between is the one before."""
    after = np.cumsum(examples)
    place = np.minimum((bins * (after - examples / 2) / after[-1]).astype(int), bins - 1)
    curve, last = np.empty(bins), float(losses[0])
    for index in range(bins):
        inside = place == index
        if inside.any():
            last = float(np.sum(losses[inside] * examples[inside]) / np.sum(examples[inside]))
        curve[index] = last
    return curve


def short_examples(
    *, seconds: float, own_ms: float, tuned_ms: float, rows_a_step: float, all_examples: int | None
) -> int | None:
    """How many examples each short run sees, so short that all looks fit into `seconds`.

    own_ms, tuned_ms: of a step of `rows_a_step` examples. all_examples: of a whole training. None where not even the
    least fits.
    """
    steps = int(_FIRST_LOOK_SHARE * seconds * 1000 / (LOOKS.at[0] * (own_ms + tuned_ms)))
    whole = math.inf if all_examples is None else all_examples / rows_a_step
    if steps < min(_LEAST_STEPS, whole):
        return None
    return int(rows_a_step * min(steps, LONGEST_STEPS, whole))


def full_seconds(*, own_ms: float, tuned_ms: float, rows_a_step: float, all_examples: int) -> float:
    """What the steps of whole trainings take until the first look; scoring comes on top."""
    return LOOKS.at[0] * (own_ms + tuned_ms) / 1000 * all_examples / rows_a_step


def sentence(judged: Judged, *, unit: Literal["loss", "score"], seeds: str = "seeds") -> str:
    """What was judged, in words, with its margin and the margin that could have been shown."""
    write = _share if unit == "loss" else _plain
    estimate, high, margin = write(judged.estimate), write(judged.high), write(judged.margin)
    worse, better = ("higher", "lower") if unit == "loss" else ("lower", "higher")
    what = f"its {unit} is {worse} by"
    if judged.answer == "worse":
        if not math.isfinite(judged.estimate):
            return "it trains worse: a run of it diverged"
        return f"it trains worse: {what} {estimate}, at least {write(judged.low)}, where {margin} is allowed"
    shown = f"a margin of {write(judged.detectable)} could have been shown with {judged.seeds} {seeds}"
    if judged.answer == "as good" and judged.estimate < 0:
        gained = f"its {unit} is {better} by {estimate.removeprefix('-')}"
        return f"{gained}, {worse} by at most {high} (95%), where {margin} is allowed; {shown}"
    if judged.answer == "as good":
        return f"{what} {estimate}, at most {high} (95%), where {margin} is allowed; {shown}"
    return (
        f"not shown to be as good: {what} {estimate}, and up to {high} is possible where {margin} is allowed; {shown}"
    )


def _share(log_ratio: float) -> str:
    return f"{100 * math.expm1(log_ratio):.1f}%"


def _plain(value: float) -> str:
    return f"{value:.4f}"


_FIRST_LOOK_SHARE = 0.9 * LOOKS.at[0] / LOOKS.at[-1]
"""Of the time, so that the last look fits too: more seeds of shorter runs can show a smaller margin."""
