"""The beginning of an optimization: what the workload is, how the original scores, and the journal's first event."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hotlap import gate
from hotlap.actions.stored import checked_features
from hotlap.core import Json
from hotlap.errors import OutputError
from hotlap.measure.required import required
from hotlap.measure.worker import Worker
from hotlap.search.journal import Journal
from hotlap.search.reserve import examples_to_confirm

_WORK = "hotlap.search.work"
_EVALUATION_SHARE = 0.1
"""Evaluation data that eats more than this share of the budget in one pass is refused."""
_SELECTION_SHARE, _MOST_SELECTION_SHARE = 0.05, 0.25
"""Of slow models no more examples choose than the original gives outputs for in the first share of the budget, but
enough to tell candidates apart; of very slow ones, what it gives outputs for in the second."""
_LONGER = "more --budget gives it longer, and smaller evaluation batches take less"
_AGAIN = 10
"""A run that is taken up sees what the first saw, however much slower the machine is by then."""


def study_of(student: Worker, settings: Json, work: Path, budget: float, most_examples: int) -> Json:
    """What the workload is, and what its features are in their repository."""
    with required(f"{settings['target']} can't be opened", longer=_LONGER):
        study: Json = student.call(
            f"{_WORK}.opening:study",
            **_shared(settings, work),
            batch=settings["batch"],
            most_examples=most_examples,
            seconds=_EVALUATION_SHARE * budget,
            timeout=_patience(budget),
        )
    return {**study, "stored": checked_features(study["features"], study["signature"], settings["target"])}


def with_scores(student: Worker, study: Json, settings: Json, work: Path, budget: float, begun: Json | None) -> Json:
    """The study with the original's scores on selection data, and how many examples choose and confirm.

    `begun`: the journal's first event of a run that is taken up, whose examples are the same.
    """
    begun = begun or {}
    with required("the original can't be scored on one batch of selection data", longer=_LONGER):
        scored = student.call(
            f"{_WORK}.scoring:score_original",
            **_shared(settings, work),
            role="selection",
            seconds=_SELECTION_SHARE * budget,
            most_seconds=_MOST_SELECTION_SHARE * budget,
            batches=begun.get("batches"),
            timeout=_patience(budget) * (_AGAIN if begun else 1),
        )
    seconds, measured = begun.get("score_seconds", scored["seconds"]), study["evaluation"]
    confirmation = begun.get("confirmation") or examples_to_confirm(
        score_seconds=seconds,
        selection=scored["examples"],
        confirmation=study["confirmation"] if measured else scored["examples"],
        budget=budget,
    )
    fewer = not measured or confirmation < study["confirmation"]
    return {
        **study,
        "selection": scored["examples"] if measured else study["selection"],
        "selection_batches": scored["batches"],
        "selection_scores": scored["scores"],
        "selection_metric": scored["metric"],
        "score_seconds": seconds,
        "confirmation": confirmation if measured else study["confirmation"],
        "confirming": {"selection": scored["examples"], "confirmation": confirmation} if fewer else None,
        "warnings": [*study["warnings"], *_fewer(study, scored["examples"], confirmation, seconds)],
    }


def allowed_drop(study: Json, max_drop: float | str | None) -> float | None:
    """The drop allowed, in the score's unit. Raises InputError where it can't be understood or is missing."""
    scores, metric = study["selection_scores"], study["selection_metric"]
    known = [metric] if metric is not None else scores
    return gate.tolerance(max_drop, None if known is None else np.asarray(known))


def _shared(settings: Json, work: Path) -> dict[str, Any]:
    return {
        "target": settings["target"],
        "work": str(work),
        "seed": settings["seed"],
        "threads": settings["threads"],
    }


def _patience(budget: float) -> float:
    return max(120.0, 2 * budget)


def _fewer(study: Json, choosing: int, confirming: int, seconds: float) -> list[str]:
    """Says so where fewer examples choose or confirm than there are."""
    if not study["evaluation"] or choosing >= study["selection"]:
        return []
    rest = "all that confirm do"
    if confirming < study["confirmation"]:
        rest = f"so do {confirming:,} of {study['confirmation']:,} that confirm"
    return [
        f"{choosing:,} of {study['selection']:,} selection examples choose, since the original takes "
        f"{1000 * seconds / choosing:.3g} ms each; {rest}; more --budget uses more"
    ]


def same_run(journal: Journal, settings: Json, digest: str) -> Json | None:
    """The journal's first event; None where nothing has begun. Raises OutputError where that was another run."""
    earlier: Json | None = next((e for e in journal.events if e["event"] == "begin"), None)
    if earlier is None:
        return None
    if earlier["digest"] != digest:
        raise OutputError("--resume: the workload has changed since that run; start over with --force")
    for name, value in settings.items():
        if earlier["settings"][name] != value:
            flag = name.replace("_", "-")
            raise OutputError(
                f"--resume: that run had {flag} {earlier['settings'][name]!r}, this one {value!r}; give the same, "
                "or start over with --force"
            )
    return earlier


def note(journal: Journal, settings: Json, study: Json) -> None:
    """Note what this run is, and how many examples choose and confirm, which stay the same where it is taken up."""
    if any(event["event"] == "begin" for event in journal.events):
        journal.append("resumed")
        return
    journal.append(
        "begin",
        settings=settings,
        digest=study["digest"],
        batches=study["selection_batches"],
        score_seconds=study["score_seconds"],
        confirmation=study["confirming"]["confirmation"] if study["confirming"] else study["confirmation"],
    )
