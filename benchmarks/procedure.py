"""The whole procedure of choosing and confirming, simulated: what benchmarks/gate_simulation.py and the tests run.

In each trial 50 candidates are looked at on selection data, three tenths of the examples. The three first in line are
confirmed one after the other on the rest, until one passes, at the confidences of `gate.confirmation_confidences`. A
trial goes wrong where what passes loses more than allowed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist

import numpy as np

from hotlap import gate
from hotlap.core import Array
from hotlap.gate.foresight import chance_from

CANDIDATES = 50
SELECTION = 0.3
ALLOWED_ERROR = 0.05
A_LITTLE_MORE = 1.001
NOISE = 0.02
LARGEST_LOSS = 0.9
UNLIKELY = 1e-4
"""A true error of 5% fails the check with this chance."""

Upper = Callable[[Array, Array, float], float]
"""(original scores, candidate's, confidence) to the upper end of the drop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is simulated: `examples` in all, and how they lose score.

    `scores`: `flips` are 0/1, `flips` of them change, in multiples of the allowed drop (at least as many as the drop
    needs; the rest go as often one way as the other). `large` are real ones in [0, 1] of which a few lose 0.9 each,
    `any` of which more lose between 0 and 0.9; on top of a little noise for all.
    """

    scores: str
    examples: int
    max_drop: float
    flips: float = 1.0

    @property
    def selection(self) -> int:
        """Examples that choose."""
        return int(SELECTION * self.examples)

    @property
    def confirmation(self) -> int:
        """Examples that confirm."""
        return self.examples - self.selection


@dataclass(frozen=True, slots=True, kw_only=True)
class Procedure:
    """How candidates are chosen and confirmed; the defaults are hotlap's.

    `line`: `flattered` puts first what lost least on selection data, whatever that is. The others take those
    that are worth a try, going by how likely the examples that confirm let them pass: `expected` in hotlap's order, for
    the most speed that the tries promise together; `likely` the fastest of those that are likely to pass, then the
    others by likelihood; `fastest` the fastest first. Later candidates are faster. Without `confirming` the first in
    line is judged by all examples, those that chose it among them (0/1 scores only).
    """

    upper: Upper
    confidences: tuple[float, ...] = gate.confirmation_confidences()
    line: str = "expected"
    confirming: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of the trials. `wrong`: one that loses more than allowed passed. `good_first`: the first in line loses
    no more than allowed; `good_refused`: and it was refused; `empty_handed`: nothing passed, though a good one tried.
    `speedup`: the geometric mean of what the trials ended with, 1 where nothing passed.
    """

    trials: int
    wrong: int
    passed: int
    good_first: int
    good_refused: int
    empty_handed: int
    speedup: float


LEAST_FAVOURABLE = np.full(CANDIDATES, A_LITTLE_MORE)
MIXED = np.repeat([0.0, 0.2, 0.5, 0.9, A_LITTLE_MORE, 1.5, 3.0], [8, 8, 8, 7, 7, 6, 6])
"""True drops of the 50 candidates, in multiples of what is allowed. The faster, the more is lost."""
FEW = np.array([0.0, 0.05, 0.1, 0.3, 0.3, 0.6, 1.2])
"""The same of seven, about as many as a search has time to score."""
MOST_SPEED = 8.0
"""The fastest candidate's speed-up; the others' lie between it and 1, in equal ratios."""


def gate_upper(original: Array, candidate: Array, confidence: float) -> float:
    """The product's own upper end."""
    return gate.drop_interval(original, candidate, confidence=confidence, bounds=(0.0, 1.0)).high


def normal_upper(original: Array, candidate: Array, confidence: float) -> float:
    """A normal interval: what is taught, and what must fail."""
    lost = original - candidate
    return float(lost.mean() + NormalDist().inv_cdf(confidence) * lost.std() / math.sqrt(len(lost)))


def bootstrap_upper(original: Array, candidate: Array, confidence: float) -> float:
    """A percentile bootstrap over examples: what is often used, and what must fail."""
    lost, times = np.unique(original - candidate, return_counts=True)
    draws = np.random.default_rng(0).multinomial(len(original), times / times.sum(), size=400) @ lost
    return float(np.quantile(draws, confidence) / len(original))


def simulate(case: Case, drops: Array, procedure: Procedure, *, trials: int, seed: int) -> Outcome:
    """Run the procedure `trials` times. `drops` [candidates]: true drops in multiples of the allowed one."""
    random = np.random.default_rng(seed)
    true = np.broadcast_to(drops * case.max_drop, (trials, len(drops)))
    choosing = flips_of(case, true, case.selection, random) if case.scores == "flips" else None
    if choosing is None:
        observed, squares = _real_look(case, true, random)
    else:
        observed, squares = choosing.drops, (choosing.lost + choosing.gained) / case.selection
    tried = _in_line(case, observed, squares, procedure)
    tried = tried[:, : len(procedure.confidences) if procedure.confirming else 1]
    places = np.maximum(tried, 0)
    lose = np.take_along_axis(true, places, axis=1)
    if choosing is None:
        passes = _real_passes(case, lose, tried >= 0, procedure, random)
    else:
        confirming = flips_of(case, lose, case.confirmation, random)
        if not procedure.confirming:
            confirming = confirming.joined(choosing.picked(places))
        passes = _flips_pass(case, confirming, tried >= 0, procedure)
    won = passes.any(axis=1)
    winner = np.take_along_axis(lose, passes.argmax(axis=1)[:, None], axis=1)[:, 0]
    good = (lose <= case.max_drop) & (tried >= 0)
    chosen = np.take_along_axis(places, passes.argmax(axis=1)[:, None], axis=1)[:, 0]
    return Outcome(
        trials=trials,
        wrong=int((won & (winner > case.max_drop)).sum()),
        passed=int(won.sum()),
        good_first=int(good[:, 0].sum()),
        good_refused=int((good[:, 0] & ~passes[:, 0]).sum()),
        empty_handed=int((good.any(axis=1) & ~won).sum()),
        speedup=float(np.exp(np.where(won, log_speeds(len(drops))[chosen], 0.0).mean())),
    )


def keeps_its_word(outcome: Outcome) -> bool:
    """Whether so many wrong ones go with 5 in 100: a binomial limit, which chance alone passes 1 in 10,000 times."""
    return at_least(outcome.wrong, outcome.trials, ALLOWED_ERROR) >= UNLIKELY


def at_least(count: int, trials: int, rate: float) -> float:
    """P(binomial >= count)."""
    logs = [
        math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
        + k * math.log(rate) + (trials - k) * math.log1p(-rate)
        for k in range(count)
    ]  # fmt: skip
    return max(0.0, 1.0 - sum(map(math.exp, logs)))


def log_speeds(candidates: int) -> Array:
    """Logarithms of the candidates' speed-ups, rising."""
    return math.log(MOST_SPEED) * np.arange(1, candidates + 1) / candidates


def _in_line(case: Case, drops: Array, squares: Array, procedure: Procedure) -> Array:
    """The candidates in the order in which they are tried, [trials, candidates]; -1 for none."""
    if procedure.line == "flattered":
        return np.argsort(drops, axis=1, kind="stable")
    chances = np.stack([_chances(case, drops, squares, confidence) for confidence in procedure.confidences], axis=-1)
    passes = chances[..., 0] >= gate.WORTH_A_TRY
    if procedure.line == "expected":
        return _best_tries(chances, passes)
    speeds = np.arange(drops.shape[1])
    ranks = np.where(chances[..., 0] >= gate.LIKELY, speeds, chances[..., 0] - 1)
    ranks = np.where(passes, speeds if procedure.line == "fastest" else ranks, -np.inf)
    order = np.argsort(-ranks, axis=1, kind="stable")
    return np.where(np.take_along_axis(ranks, order, axis=1) > -np.inf, order, -1)


def _chances(case: Case, drops: Array, squares: Array, confidence: float) -> Array:
    chance = partial(
        chance_from,
        seen=case.selection,
        largest=1.0,
        examples=case.confirmation,
        max_drop=case.max_drop,
        confidence=confidence,
    )
    return np.vectorize(chance)(drops, squares)


def _best_tries(chances: Array, passes: Array) -> Array:
    """hotlap's tries, and after them those that are left by likelihood, [trials, candidates]; -1 for none."""
    gains = log_speeds(chances.shape[1]).tolist()
    found = np.full(passes.shape, -1)
    for trial, (each, there) in enumerate(zip(chances, passes, strict=True)):
        known = np.flatnonzero(there)
        first = known[gate.order_of_tries(each[known].tolist(), [gains[place] for place in known])].astype(int)
        rest = [place for place in known[np.argsort(-each[known, 0], kind="stable")] if place not in first]
        line = [*first.tolist(), *rest]
        found[trial, : len(line)] = line
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Flips:
    """Examples lost and gained by candidates [trials, candidates], of so many."""

    lost: Array
    gained: Array
    examples: int

    @property
    def drops(self) -> Array:
        """What was lost net, as a share."""
        return (self.lost - self.gained) / self.examples

    def picked(self, places: Array) -> Flips:
        """Those of some candidates."""
        lost, gained = (np.take_along_axis(counts, places, axis=1) for counts in (self.lost, self.gained))
        return Flips(lost=lost, gained=gained, examples=self.examples)

    def joined(self, other: Flips) -> Flips:
        """Those on both sets of examples."""
        return Flips(
            lost=self.lost + other.lost,
            gained=self.gained + other.gained,
            examples=self.examples + other.examples,
        )


def flips_of(case: Case, true: Array, examples: int, random: np.random.Generator) -> Flips:
    """Counts on fresh examples of candidates that truly lose `true` [trials, candidates]."""
    flips = np.maximum(case.flips * case.max_drop, true)
    p10, p01 = (flips + true) / 2, (flips - true) / 2
    lost = random.binomial(examples, p10)
    gained = random.binomial(examples - lost, p01 / (1 - p10))
    return Flips(lost=lost, gained=gained, examples=examples)


def _flips_pass(case: Case, flips: Flips, there: Array, procedure: Procedure) -> Array:
    passes = np.zeros(there.shape, dtype=bool)
    for column, confidence in enumerate(procedure.confidences[: there.shape[1]]):
        judge = Judge(procedure.upper, flips.examples, case.max_drop, confidence)
        # What comes after the first that passes is not tried, and where the drop is too large no limit is needed.
        rows = np.flatnonzero(there[:, column] & ~passes.any(axis=1) & (flips.drops[:, column] <= case.max_drop))
        counts = zip(flips.lost[rows, column].tolist(), flips.gained[rows, column].tolist(), strict=True)
        passes[rows, column] = [judge.passes(lost, gained) for lost, gained in counts]
    return passes


class Judge:
    """Whether counts pass, asking for a limit only where those known do not tell: one more lost is never better."""

    def __init__(self, upper: Upper, examples: int, max_drop: float, confidence: float) -> None:
        self._upper, self._examples, self._max_drop, self._confidence = upper, examples, max_drop, confidence
        self._known: dict[tuple[int, int], bool] = {}
        self._good: list[tuple[int, int]] = []
        self._bad: list[tuple[int, int]] = []

    def passes(self, lost: int, gained: int) -> bool:
        """Whether the upper end for those counts is within what is allowed."""
        if (lost, gained) not in self._known:
            self._known[lost, gained] = self._find(lost, gained)
        return self._known[lost, gained]

    def _find(self, lost: int, gained: int) -> bool:
        if any(lost <= b and gained >= c for b, c in self._good):
            return True
        if any(lost >= b and gained <= c for b, c in self._bad):
            return False
        original, candidate = scores_of(lost, gained, self._examples)
        passed = self._upper(original, candidate, self._confidence) <= self._max_drop
        (self._good if passed else self._bad).append((lost, gained))
        return passed


def scores_of(lost: int, gained: int, examples: int) -> tuple[Array, Array]:
    """0/1 scores of original and candidate with those counts."""
    original, candidate = np.ones(examples), np.ones(examples)
    candidate[:lost] = 0
    original[lost : lost + gained] = 0
    return original, candidate


def _real_look(case: Case, true: Array, random: np.random.Generator) -> tuple[Array, Array]:
    """Mean and mean square of what is lost on selection data: by those that lose, and by the noise of all."""
    hits = random.binomial(case.selection, true / _mean_loss(case))
    most = int(hits.max()) + 1
    lost, squares = np.empty(true.shape), np.empty(true.shape)
    for trial, row in enumerate(hits):
        losses = np.where(np.arange(most) < row[:, None], _losses(case, (len(row), most), random), 0.0)
        lost[trial], squares[trial] = losses.sum(axis=1), (losses**2).sum(axis=1)
    noise = NOISE * math.sqrt(case.selection) * random.standard_normal(true.shape)
    return (lost + noise) / case.selection, squares / case.selection + NOISE**2


def _real_passes(case: Case, lose: Array, there: Array, procedure: Procedure, random: np.random.Generator) -> Array:
    passes = np.zeros(there.shape, dtype=bool)
    for trial, drops in enumerate(lose):
        for column, confidence in enumerate(procedure.confidences[: there.shape[1]]):
            if not there[trial, column]:
                break
            hit = random.random(case.confirmation) < drops[column] / _mean_loss(case)
            lost = np.where(hit, _losses(case, (case.confirmation,), random), 0.0)
            lost = (lost + NOISE * random.standard_normal(case.confirmation)).clip(-1, 1)
            if lost.mean() <= case.max_drop:
                upper = procedure.upper(0.5 + lost / 2, 0.5 - lost / 2, confidence)
                passes[trial, column] = upper <= case.max_drop
            if passes[trial, column]:
                break
    return passes


def _mean_loss(case: Case) -> float:
    return LARGEST_LOSS if case.scores == "large" else LARGEST_LOSS / 2


def _losses(case: Case, shape: tuple[int, ...], random: np.random.Generator) -> Array:
    return np.full(shape, LARGEST_LOSS) if case.scores == "large" else LARGEST_LOSS * random.random(shape)
