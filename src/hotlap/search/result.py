"""What a search found, as the JSON that other programs read (report/result.schema.json). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hotlap.core import Json
from hotlap.search import explain, strategy

_MOST_OPERATIONS = 30


def figures_of_baseline(
    study: Mapping[str, Any],
    *,
    threads: int,
    median_ms: float,
    score: float | None,
    multiply_adds: int | None,
    peak_memory_bytes: int | None,
) -> dict[str, Any]:
    """The original's figures."""
    found = {
        "name": f"eager, {study['precision']} (the original)",
        "runtime": "eager",
        "precision": study["precision"],
        "threads": threads,
        "median_ms": median_ms,
        "score": score,
        "parameters": study["parameters"],
        "multiply_adds": multiply_adds,
        "bytes": study["bytes"],
        "peak_memory_bytes": peak_memory_bytes,
    }
    return {key: value for key, value in found.items() if value is not None or key == "score"}


def figures_of_best(
    record: Json, confirmation: Json, *, study: Mapping[str, Any], limit_ms: float | None, artifact: str | None
) -> dict[str, Any]:
    """The winner's figures, as confirmed."""
    candidate, verdict = record["candidate"], confirmation["verdict"]
    drop = verdict["drop"] or confirmation.get("drop")
    found: dict[str, Any] = {
        "name": candidate["name"],
        "runtime": candidate["runtime"],
        "precision": candidate["precision"],
        "threads": candidate["threads"],
        "techniques": [step["technique"] for step in candidate["steps"]],
        "options": dict(candidate["options"]),
        "median_ms": confirmation["median_ms"],
        "score": confirmation.get("score"),
        "speedup": confirmation["speedup"],
        "speedup_over_eager": confirmation["speedup"],
        "gate": verdict["rule"],
        "gate_reason": verdict["reason"],
        "drop": drop_figures(drop),
        "bytes": record["bytes"],
        "peak_memory_bytes": record["peak_memory_bytes"],
        "parameters": study["parameters"],
        "artifact": artifact,
        "equivalence": confirmation["equivalence"],
    }
    if verdict["slices"]:
        found["slices"] = {
            name: drop_figures(item) | {"examples": item["examples"]} for name, item in verdict["slices"].items()
        }
        found["worst_slice"] = verdict["worst_slice"]
    if limit_ms:
        found["share_of_limit"] = limit_ms / confirmation["median_ms"]
    return found


def drop_figures(drop: Json | None) -> dict[str, Any]:
    """A core.Drop as the schema has it."""
    if drop is None:
        return {"estimate": None, "high": None}
    return {key: drop[key] for key in ("estimate", "high", "lost", "gained")}


def row(
    record: Json,
    *,
    status: str | None,
    reason: str | None,
    operations: Sequence[Json] | None,
    limit_ms: float | None,
) -> dict[str, Any]:
    """One line of the table of candidates."""
    candidate = record["candidate"]
    found: dict[str, Any] = {
        "name": candidate["name"],
        "status": status or ("rejected" if "distance" in record else record["status"]),
        "reason": reason or record.get("reason"),
        "key": record["key"],
        "runtime": candidate["runtime"],
        "precision": candidate["precision"],
        "threads": candidate["threads"],
        "techniques": [step["technique"] for step in candidate["steps"]],
        "options": dict(candidate["options"]),
        "bound_ms": limit_ms,
        "screened_only": status != "chosen",
    }
    for key in ("median_ms", "speedup", "score", "gate", "bytes", "peak_memory_bytes", "build_seconds", "scored_as"):
        found[key] = record.get(key)
    if record.get("drop"):
        found["drop"] = {**drop_figures(record["drop"]), "examples": record["drop"]["examples"]}
    if operations is not None:
        found["operations"] = list(operations[:_MOST_OPERATIONS])
        found["role_ms"] = explain.role_times(operations)
        found["why_not_faster"] = explain.sentences(record, operations, limit_ms=limit_ms)
    return {key: value for key, value in found.items() if value is not None}


def pareto_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the candidates that no other beats in both speed and accuracy."""
    points = [
        (row["name"], row["speedup"]["estimate"], (row.get("drop") or {}).get("estimate") or 0.0)
        for row in rows
        if row["status"] in ("chosen", "passed", "rejected") and row.get("speedup")
    ]
    return strategy.pareto(points)


def nearest_miss(records: Sequence[Json], confirmations: Sequence[Json]) -> dict[str, Any] | None:
    """The fast candidate that came closest to the gate without passing."""
    confirmed = [c for c in confirmations if not c["passed"]]
    missed = [
        {"name": c["name"], "reason": c["reason"], "distance": (c.get("verdict") or {}).get("distance")}
        for c in confirmed
    ] or [
        {"name": r["candidate"]["name"], "reason": r["reason"], "distance": r.get("distance")}
        for r in records
        if "distance" in r
    ]
    missed.sort(key=lambda item: item["distance"] if item["distance"] is not None else float("inf"))
    return missed[0] if missed else None
