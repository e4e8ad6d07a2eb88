"""An artifact against the target it was made of: still as fast, still as accurate?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hotlap.actions.compare import compare
from hotlap.core import Candidate, Json, Verdict, to_json
from hotlap.measure.required import required
from hotlap.search.confirm import judge
from hotlap.search.setting import start_worker

_LONGEST_SCORING = 3600.0


def accuracy(
    state: dict[str, Any],
    *,
    target: str,
    artifact: str,
    seed: int,
    threads: int,
    max_drop: float | None,
    confidence: float,
) -> Json:
    """Score the target's model and the artifact side by side on confirmation data. Runs in a worker."""
    from hotlap.artifact.load import load
    from hotlap.search.work import scoring

    model = load(artifact, threads=threads)
    candidate = model.manifest.candidate
    state["session"] = model.call_flat
    with TemporaryDirectory() as work:
        found: Json = scoring.confirm(
            state,
            target=target,
            candidate=to_json(candidate),
            built="",
            work=work,
            seed=seed,
            threads=threads,
            roles=["selection", "confirmation"] if candidate.same_numbers else ["confirmation"],
            max_drop=max_drop,
            confidence=confidence,
        )
    return found


def as_accurate(
    artifact: Path, target: str, candidate: Candidate, *, max_drop: float | None, confidence: float, threads: int
) -> Verdict:
    """The verdict that the target's data gives now, by the rule and within the tolerance it was made with."""
    with required(f"{artifact} can't be scored beside {target}"), start_worker(threads, None) as worker:
        found = worker.call(
            "hotlap.actions.against:accuracy",
            target=target,
            artifact=str(artifact),
            seed=0,
            threads=threads,
            max_drop=max_drop,
            confidence=confidence,
            timeout=_LONGEST_SCORING,
        )
    return judge(candidate, found, max_drop=max_drop, confidence=confidence)


def as_fast(
    artifact: Path, target: str, *, claimed: Json, batch: int, threads: int, progress: Callable[[Json], None] | None
) -> tuple[bool, str]:
    """Whether the artifact is still faster than the target's model, and a sentence that names the interval.

    Another machine has another speed-up: what must still hold is that it is faster; the claim is shown beside it.
    """
    found = compare(target, artifact, batch=batch, threads=threads, progress=progress)
    interval = found["speedup"]
    said = f"{interval['estimate']:.2f}x ({interval['low']:.2f} to {interval['high']:.2f}) the speed of {target}"
    said += f"; it was {claimed['estimate']:.2f}x when it was made" if claimed else ", and it claims no more"
    return claimed is None or found["verdict"] == "faster", said
