"""`verify`: is an artifact intact, fresh, trusted, and does it still bear out what it claims?

The checks go on where one fails, so that one run tells all that is wrong. What is claimed is reached again from the
evidence by the same pure functions that reached it first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hotlap.actions import against
from hotlap.artifact import evidence as evidences
from hotlap.artifact import golden as goldens
from hotlap.artifact.check import Checked, check_artifact, require_fresh, require_trust
from hotlap.artifact.evidence import Evidence
from hotlap.artifact.load import require_same_answers, start
from hotlap.artifact.manifest import EVIDENCE, GOLDEN
from hotlap.artifact.sign import Wanted
from hotlap.core import TOLERANCE, Candidate, Device, Json, Verdict, to_json
from hotlap.errors import ArtifactRefused
from hotlap.workload.target import target_of
from hotlap.workload.workload import Workload

Outcome = Literal["passed", "failed", "not done"]

_SAME = 1e-6
"""Relative difference up to which a figure counts as reached again: other versions of NumPy and SciPy sum in
another order, and no figure is shown to more than four digits."""
_CONFIDENCE_ONCE = 0.95
"""Of the speed-up's interval in artifacts made before each try to confirm had its own share of the error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One question put to an artifact. `detail`: a sentence on what was found."""

    name: str
    outcome: Outcome
    detail: str


def verify(
    artifact: str | Path,
    target: str | Path | Workload | None = None,
    *,
    batch: int = 1,
    allow_expired: bool = False,
    trust: Wanted | None = None,
    device: Device | None = None,
    threads: int | None = None,
    progress: Callable[[Json], None] | None = None,
) -> Json:
    """Check an artifact; give `passed`, `trust`, and `checks`, each with its `name`, `outcome` and `detail`.

    Raises TargetError where there is no such artifact. What is wrong with one is in the answer: `intact` (every
    byte is accounted for), `trusted`, `fresh`, `same answers` (to the golden inputs), `verdict` and `speedup` (as
    its own evidence bears them out). With the `target` that it was made of also `as accurate` and `as fast` (at
    `batch` rows a call), both measured anew.
    """
    try:
        checked = check_artifact(artifact, also=[EVIDENCE])
    except ArtifactRefused as error:
        checks = [Check(name="intact", outcome="failed", detail=str(error))]
        rest = ("trusted", "fresh", "same answers", "verdict", "speedup")
        checks += [Check(name=name, outcome="not done", detail="it is not intact") for name in rest]
        return _answer(artifact, checks)
    checks = _checks(checked, allow_expired, trust, device, threads)
    if target is not None:
        sound = all(check.outcome != "failed" for check in checks)
        checks += _against(checked, target_of(target), batch, threads, progress) if sound else _NOT_MEASURED
    return _answer(artifact, checks, checked)


_NOT_MEASURED = [
    Check(name=name, outcome="not done", detail="it failed the checks before") for name in ("as accurate", "as fast")
]


def _against(
    checked: Checked, target: str, batch: int, threads: int | None, progress: Callable[[Json], None] | None
) -> list[Check]:
    """Measure accuracy and speed against the target's own model."""
    manifest, evidence = checked.manifest, evidences.parse(checked.files[EVIDENCE])
    count = threads or manifest.candidate.threads

    def accurate() -> str:
        verdict = against.as_accurate(
            checked.folder,
            target,
            manifest.candidate,
            max_drop=evidence.max_drop,
            confidence=evidence.confidence,
            threads=count,
        )
        if not verdict.passed:
            raise ArtifactRefused(verdict.reason)
        return verdict.reason

    def fast() -> str:
        still, said = against.as_fast(
            checked.folder, target, claimed=manifest.result["speedup"], batch=batch, threads=count, progress=progress
        )
        if not still:
            raise ArtifactRefused(f"it is no longer faster: {said}")
        return said

    return [_check("as accurate", accurate), _check("as fast", fast)]


def _answer(artifact: str | Path, checks: list[Check], checked: Checked | None = None) -> Json:
    found: dict[str, Any] = {
        "kind": "verify",
        "artifact": str(artifact),
        "passed": all(check.outcome != "failed" for check in checks),
        "checks": [to_json(check) for check in checks],
    }
    if checked is not None:
        manifest = checked.manifest
        found |= {
            "workload": manifest.workload,
            "candidate": manifest.candidate.name,
            "trust": str(checked.trust),
            "notes": list(checked.trust.notes),
            "created": manifest.created.isoformat(),
            "expires": manifest.expires.isoformat() if manifest.expires else None,
            "speedup": manifest.result["speedup"],
            "features": manifest.features.to_json() if manifest.features else None,
        }
    return found


def _checks(
    checked: Checked, allow_expired: bool, trust: Wanted | None, device: Device | None, threads: int | None
) -> list[Check]:
    manifest = checked.manifest
    size = sum(entry.bytes for entry in manifest.files.values())
    checks = [Check(name="intact", outcome="passed", detail=f"{len(manifest.names)} files, {size / 1e6:,.1f} MB")]

    def trusted() -> str:
        require_trust(manifest, checked.trust, trust)
        return "; ".join((str(checked.trust), *checked.trust.notes))

    def fresh() -> str:
        require_fresh(manifest, allow_expired=allow_expired)
        made = f"made on {manifest.created:%Y-%m-%d}"
        return f"{made}, expires on {manifest.expires:%Y-%m-%d}" if manifest.expires else f"{made}, never expires"

    def same_answers() -> str:
        session = start(checked, device=device, threads=threads)
        cases = goldens.decode(checked.files[GOLDEN], manifest.signature, GOLDEN)
        off = require_same_answers(manifest, session, cases)
        return f"{len(cases)} golden calls, off by {off:.2g} of the outputs' range"

    checks += [_check("trusted", trusted), _check("fresh", fresh)]
    if checks[1].outcome == "failed" and manifest.code:
        checks.append(Check(name="same answers", outcome="not done", detail="it is code that is not trusted"))
    else:
        checks.append(_check("same answers", same_answers))
    return [*checks, *_claims(checked)]


def _check(name: str, ask: Callable[[], str | Check]) -> Check:
    try:
        found = ask()
    except ArtifactRefused as error:
        return Check(name=name, outcome="failed", detail=str(error))
    return found if isinstance(found, Check) else Check(name=name, outcome="passed", detail=found)


def _claims(checked: Checked) -> list[Check]:
    """Reach the verdict and the speedup again."""
    try:
        evidence = evidences.parse(checked.files[EVIDENCE])
    except ArtifactRefused as error:
        return [Check(name=name, outcome="failed", detail=str(error)) for name in ("verdict", "speedup")]
    return [
        _check("verdict", lambda: _verdict(checked.manifest.candidate, checked.manifest.result["verdict"], evidence)),
        _check("speedup", lambda: _speedup(checked.manifest.result["speedup"], evidence)),
    ]


def _verdict(candidate: Candidate, claimed: Json, evidence: Evidence) -> str | Check:
    if claimed is None:
        raise ArtifactRefused("its manifest claims no verdict")
    stated = evidences.verdict(claimed)
    if not stated.passed:
        raise ArtifactRefused("its own verdict is that it must not stand in for the original")
    try:
        found = judge_again(candidate, evidence)
    except ValueError as error:
        raise ArtifactRefused(f"its evidence can't be judged: {error}") from error
    if found is None:
        detail = "only the workload's own metric can reach it again"
        return Check(name="verdict", outcome="not done", detail=detail)
    if not found.passed:
        raise ArtifactRefused(f"its evidence says no: {found.reason}")
    if not _alike(to_json(found), to_json(stated)):
        raise ArtifactRefused(f"its evidence says otherwise than its manifest: {found.reason}")
    return found.reason


def judge_again(candidate: Candidate, evidence: Evidence) -> Verdict | None:
    """The verdict that the evidence leads to; None where a workload's `metric` would be needed.

    The rule follows from the candidate, as it did in the search.
    """
    import numpy as np

    from hotlap import gate

    if candidate.same_numbers:
        return gate.judge_equivalence(evidence.differences, TOLERANCE[candidate.precision])
    if evidence.rows is not None:
        return None
    if evidence.scores is not None and evidence.max_drop is not None:
        original = np.asarray(evidence.original_scores, np.float64)
        return gate.judge_drop(
            original,
            np.asarray(evidence.scores, np.float64),
            max_drop=evidence.max_drop,
            confidence=evidence.confidence,
            slices=evidence.slices,
            bounds=gate.score_bounds(original),
        )
    return gate.judge_agreement(
        max(evidence.differences.values(), default=0.0),
        evidence.same_class,
        evidence.compared,
        max_drop=evidence.max_drop,
        confidence=evidence.confidence,
    )


def _speedup(claimed: Json, evidence: Evidence) -> str:
    if claimed is None:
        return "it claims none"
    if len(evidence.starts) < 2:
        raise ArtifactRefused(f"it claims {claimed['estimate']:.2f}x, but its evidence holds no times")
    from hotlap.measure import statistics

    found = to_json(statistics.speedup(evidence.starts, confidence=evidence.confidence))
    over = f"over {len(evidence.starts)} starts"
    if _alike(found, claimed):
        return f"{_shown(found)} {over}"
    if _alike(to_json(statistics.speedup(evidence.starts, confidence=_CONFIDENCE_ONCE)), claimed):
        return f"{_shown(claimed)} {over}, at {_CONFIDENCE_ONCE:.0%} confidence, as earlier versions told it"
    raise ArtifactRefused(f"its evidence says {_shown(found)} {over}, its manifest {_shown(claimed)}")


def _shown(speedup: Json) -> str:
    return f"{speedup['estimate']:.2f}x ({speedup['low']:.2f} to {speedup['high']:.2f})"


def _alike(found: Json, stated: Json) -> bool:
    """Whether two JSON values are the same but for the last digits of their numbers and for reasons (prose)."""
    if isinstance(found, dict) and isinstance(stated, dict):
        names = (found.keys() | stated.keys()) - {"reason"}
        return found.keys() == stated.keys() and all(_alike(found[name], stated[name]) for name in names)
    if isinstance(found, list) and isinstance(stated, list):
        return len(found) == len(stated) and all(map(_alike, found, stated))
    if isinstance(found, float) and isinstance(stated, (int, float)) and not isinstance(stated, bool):
        return math.isclose(found, stated, rel_tol=_SAME, abs_tol=1e-12)
    return bool(found == stated)
