"""The gate in each slice of the data: a mean that holds can hide a class that broke.

The whole must be proven to lose no more than allowed. Asking that of each slice would refuse everything: 30 examples
that show no flip at all leave a drop of 0.1 possible. So a slice is refused where its own loss is proven to be more
than allowed: where the lower end of its drop is above it. The slices share an error of 5% between them (Bonferroni),
so that of candidates that keep the promise in every slice at most 5 in 100 are refused for one, however many slices
there are. With ten slices and 0.01 allowed it takes 7 lost and none gained of 30 examples, 12 of 350, 21 of 1,000. The
price is that a slice that loses a little more than allowed gets through; docs/log.md says how often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hotlap.core import Array, Drop
from hotlap.errors import WorkloadError
from hotlap.gate.drop import Scale, at_least, interval
from hotlap.gate.resampled import Metric, metric_drop, resample

ERROR = 0.05
"""The chance that a candidate that loses no more than allowed in any slice is refused for one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One slice's drop, and how much it lost for sure."""

    label: str
    drop: Drop
    at_least: float


def scored_slices(
    original: Array, candidate: Array, labels: Sequence[str], scale: Scale, confidence: float
) -> list[Slice]:
    """The drop in each slice, by label. `labels` [n]: one for each example."""
    groups = _groups(labels, len(original))
    sure = 1 - ERROR / len(groups)
    return [
        Slice(
            label=label,
            drop=interval(original[places], candidate[places], scale, confidence),
            at_least=at_least(original[places], candidate[places], scale, sure),
        )
        for label, places in groups.items()
    ]


def metric_slices(
    rows_original: Sequence[Any],
    rows_candidate: Sequence[Any],
    labels: Sequence[str],
    metric: Metric,
    *,
    confidence: float,
    seed: int,
    resamples: int,
) -> list[Slice]:
    """The metric's drop in each slice, by label. A slice where it has no value (one class only) is left out."""
    groups = _groups(labels, len(rows_original))
    sure = 1 - ERROR / len(groups)
    found = []
    for label, places in groups.items():
        before, after = ([rows[place] for place in places] for rows in (rows_original, rows_candidate))
        try:
            drawn = resample(before, after, metric, seed=seed, resamples=resamples)
        except WorkloadError:
            continue
        drop = metric_drop(drawn, before, after, confidence)
        found.append(Slice(label=label, drop=drop, at_least=drawn.at_least(sure)))
    return found


def worst_of(slices: Sequence[Slice]) -> Slice | None:
    """The slice whose loss is surest: of little ones, where one flip is much, the estimate alone says little."""
    return max(slices, key=lambda one: (one.at_least, one.drop.estimate), default=None)


def _groups(labels: Sequence[str], examples: int) -> dict[str, Array]:
    """The places of each label's examples, by label."""
    if len(labels) != examples:
        raise ValueError(f"{len(labels)} slice labels for {examples} examples")
    names, which = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
    order = np.argsort(which, kind="stable")
    ends = np.cumsum(np.bincount(which))[:-1]
    return dict(zip(names.tolist(), np.split(order, ends), strict=True))
