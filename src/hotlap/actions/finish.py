"""The end of an optimization: explain the candidates, write the artifact, the result and the report."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from hotlap import __version__, gate
from hotlap.artifact.golden import Case
from hotlap.artifact.write import write_artifact
from hotlap.core import TOLERANCE, Candidate, Json, to_json
from hotlap.errors import CandidateFailed
from hotlap.machine.facts import Machine
from hotlap.machine.limits import Limits
from hotlap.report.page import html
from hotlap.report.schema import write_result
from hotlap.search import result as results
from hotlap.search.confirm import accuracy
from hotlap.search.folder import write_whole
from hotlap.search.run import UNTRIED, Outcome
from hotlap.search.setting import LOAD_SECONDS, Setting
from hotlap.search.space import Space

_WORK = "hotlap.search.work"
_EXPLAINED = 6
_EXPLAINING_CALLS = 20


def finish(
    setting: Setting,
    outcome: Outcome,
    space: Space,
    *,
    folder: Path,
    machine: Machine,
    limits: Limits,
    began: float,
    budget: float,
    sign: Path | None,
    expires: timedelta | None,
) -> Json:
    """Write `artifact/`, `report.html` and, last, `result.json`; give the result."""
    setting.progress({"event": "phase", "phase": "writing the artifact and the report"})
    explained = _operations(setting, outcome)
    rows = [_row(setting, record, outcome, explained) for record in outcome.records]
    rows += [{"name": name, "status": "skipped", "reason": reason} for name, reason in space.left_out]
    warnings = list(setting.study["warnings"])
    common = _common(setting, rows, outcome, machine, limits, budget)
    winner = outcome.winner or _the_original(setting, warnings)
    if outcome.winner is not None:
        record = next(r for r in outcome.records if r["key"] == outcome.winner["key"])
        if outcome.winner.get("spread_warning"):
            warnings.append(outcome.winner["spread_warning"])
        best = results.figures_of_best(
            record, _with_score(outcome.winner), study=setting.study,
            limit_ms=setting.bounds_ms.get(record["candidate"]["precision"]), artifact="artifact",
        )  # fmt: skip
    else:
        untried = sum(record.get("reason") == UNTRIED for record in outcome.records)
        if untried:
            warnings.append(f"{untried} of {len(outcome.records)} candidates had no turn before the budget ended; more "
                            "--budget tries them")  # fmt: skip
        best = _baseline_as_best(setting, common["baseline"], "artifact" if winner else None)
    result = {**common, "best": best, "warnings": warnings, "confirmed": outcome.winner is not None}
    result["seconds"] = time.monotonic() - began
    page = html(result)
    if winner is not None:
        _write_artifact(setting, winner, page, folder / "artifact", machine, sign, expires)
    write_whole(folder / "report.html", page)
    write_result(folder / "result.json", result)
    return result


def _common(
    setting: Setting, rows: list[Json], outcome: Outcome, machine: Machine, limits: Limits, budget: float
) -> dict[str, Any]:
    study, profile = setting.study, setting.study["profile"]
    confirmed = outcome.winner
    return {
        "schema": 1,
        "kind": "optimize",
        "workload": study["name"],
        "objective": setting.objective,
        "batch": setting.batch,
        "device": setting.device,
        "max_drop": setting.max_drop if setting.max_drop is not None else 0.0,
        "machine": machine.to_json(),
        "limits": limits.to_json(),
        "noise_floor": setting.noise_floor,
        "accuracy": "measured" if study["evaluation"] else "agreement",
        "examples": {key: study[key] for key in ("calibration", "selection", "confirmation")},
        "baseline": results.figures_of_baseline(
            study,
            threads=setting.threads,
            median_ms=confirmed["baseline_ms"] if confirmed else study["baseline_ms"],
            score=_mean(confirmed["evidence"]["original_scores"] if confirmed else study["selection_scores"])
            if study["selection_metric"] is None
            else study["selection_metric"],
            multiply_adds=profile.get("multiply_adds"),
            peak_memory_bytes=study["peak_memory_bytes"],
        ),
        "pareto": results.pareto_names(rows),
        "candidates": rows,
        "nearest_miss": None if confirmed else results.nearest_miss(outcome.records, outcome.confirmations),
        "confirmations": [
            {key: c.get(key) for key in ("name", "passed", "reason", "speedup")} for c in outcome.confirmations
        ],
        "profile": profile,
        "measuring_overhead": _overhead(outcome),
        "budget_seconds": budget,
        "seed": setting.seed,
        "hotlap_version": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _operations(setting: Setting, outcome: Outcome) -> dict[str, list[Json]]:
    """Times by operation of the fastest candidates and the winner, from their own runtimes."""
    timed = [record for record in outcome.records if record.get("median_ms")]
    timed.sort(key=lambda record: record["median_ms"])
    winner = outcome.winner["key"] if outcome.winner else None
    chosen = [r for r in timed if r["key"] == winner] + [r for r in timed if r["key"] != winner]
    found: dict[str, list[Json]] = {}
    seen: set[tuple[str, str]] = set()
    for record in chosen:
        kind = (record["candidate"]["runtime"], record["candidate"]["precision"])
        if kind in seen or len(found) >= _EXPLAINED:
            continue
        seen.add(kind)
        try:
            with setting.worker(record["candidate"]["threads"]) as worker:
                found[record["key"]] = worker.call(
                    f"{_WORK}.holding:operations",
                    candidate=record["candidate"],
                    built=record["built"],
                    signature=setting.signature_json,
                    arrays=setting.arrays,
                    calls=_EXPLAINING_CALLS,
                    timeout=LOAD_SECONDS,
                )
        except CandidateFailed:
            continue
    return found


def _row(setting: Setting, record: Json, outcome: Outcome, explained: Mapping[str, list[Json]]) -> Json:
    confirmation = next((c for c in outcome.confirmations if c["key"] == record["key"]), None)
    status = reason = None
    if confirmation:
        status = "chosen" if confirmation["passed"] else "dropped"
        reason = None if confirmation["passed"] else f"failed its confirmation: {confirmation['reason']}"
    return results.row(
        record,
        status=status,
        reason=reason,
        operations=explained.get(record["key"]),
        limit_ms=setting.bounds_ms.get(record["candidate"]["precision"]),
    )


def _the_original(setting: Setting, warnings: list[str]) -> Json | None:
    """The original as an artifact, for when nothing beat it: an exported program, or None and a warning."""
    candidate = Candidate(runtime="eager", device=setting.device, threads=setting.threads, name="eager, fp32")
    try:
        with setting.worker() as worker:
            built = worker.call(
                f"{_WORK}.building:build",
                target=setting.target,
                candidate=to_json(candidate),
                work=str(setting.work),
                seed=setting.seed,
                threads=setting.threads,
                timeout=LOAD_SECONDS,
            )
        evidence = accuracy(setting, candidate, built["folder"], 0.95)
    except CandidateFailed as error:
        warnings.append(f"no artifact: {error}")
        return None
    verdict = gate.judge_equivalence(evidence["differences"], TOLERANCE["fp32"])
    if not verdict.passed:
        warnings.append(
            f"no artifact: exported, the original gives other numbers: {verdict.reason}; see that `model` gives the "
            "same weights each time it is called"
        )
        return None
    return {
        "candidate": to_json(candidate),
        "built": built["folder"],
        "evidence": evidence,
        "verdict": to_json(verdict),
        "starts": [],
        "speedup": None,
    }


def _baseline_as_best(setting: Setting, baseline: Json, artifact: str | None) -> Json:
    same = {"estimate": 1.0, "low": 1.0, "high": 1.0}
    nothing = {"estimate": 0.0, "high": 0.0, "lost": 0, "gained": 0}
    best = {**baseline, "speedup": same, "drop": nothing, "gate": "equivalence", "artifact": artifact}
    bound = setting.bounds_ms.get("fp32")
    return best if bound is None else {**best, "share_of_limit": bound / baseline["median_ms"]}


def _with_score(confirmation: Json) -> Json:
    evidence = confirmation["evidence"]
    drop = None
    if evidence["scores"] is not None:
        original = np.asarray(evidence["original_scores"])
        drop = to_json(
            gate.drop_interval(
                original, np.asarray(evidence["scores"]), confidence=0.95, bounds=gate.score_bounds(original)
            )
        )
    return {
        **confirmation,
        "score": _mean(evidence["scores"]),
        "drop": drop,
        "equivalence": {
            "largest_relative_difference": max(evidence["differences"].values(), default=0.0),
            "tolerance": TOLERANCE[confirmation["candidate"]["precision"]],
        },
    }


def _write_artifact(
    setting: Setting,
    winner: Json,
    page: bytes,
    folder: Path,
    machine: Machine,
    sign: Path | None,
    expires: timedelta | None,
) -> None:
    candidate, evidence = Candidate.from_json(winner["candidate"]), winner["evidence"]
    built = Path(winner["built"])
    files = {path.name: path for path in built.iterdir() if path.name != "built.json"}
    write_artifact(
        folder,
        candidate=candidate,
        signature=setting.signature,
        runtime_files=files,
        golden=[Case(inputs=case["inputs"], outputs=case["outputs"]) for case in evidence["golden"]],
        evidence={
            "starts": winner["starts"],
            "original_scores": _listed(evidence["original_scores"]),
            "scores": _listed(evidence["scores"]),
            "original_rows": evidence["original_rows"],
            "rows": evidence["rows"],
            "slices": evidence["slices"],
            "differences": evidence["differences"],
            "same_class": evidence["same_class"],
            "compared": evidence["compared"],
            "max_drop": setting.max_drop,
            "confidence": winner.get("confidence", 0.95),
            "noise_floor": setting.noise_floor,
            "verdict": winner["verdict"],
            "speedup": winner["speedup"],
        },
        report_html=page,
        workload=setting.study["name"],
        workload_digest=setting.study["digest"],
        machine=machine.to_json(),
        result={"speedup": winner["speedup"], "verdict": winner["verdict"]},
        features=setting.study["stored"],
        expires=expires,
        sign_key=sign,
    )


def _overhead(outcome: Outcome) -> float | None:
    """The share of the timing that went into anything but timed calls."""
    found = [record["overhead"] for record in outcome.records if "overhead" in record]
    return float(np.median(found)) if found else None


def _mean(scores: Any) -> float | None:
    return None if scores is None else float(np.mean(scores))


def _listed(scores: Any) -> list[float] | None:
    return None if scores is None else np.asarray(scores).tolist()
