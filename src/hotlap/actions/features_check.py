"""`features check`: whether serving gives what training saw, and looks like what training was given."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hotlap.core import Json
from hotlap.errors import InputError, OutputError


def check(
    repo: Path | str,
    features: list[str] | str | None = None,
    *,
    log: Path | str | None = None,
    keys: Path | str | None = None,
    at: datetime | None = None,
    sample: int | None = None,
    known_only: bool | None = None,
    tolerance: float | None = None,
    seed: int = 0,
    limits: Mapping[str, float | None] | None = None,
    training: Path | str | None = None,
    max_psi: float | None = None,
    report: Path | str | None = None,
) -> Json:
    """Check a repository's online reads against its offline join, and their values against the Parquet file `training`
    where that is given; see hotlap.features.store.Store.check. `limits`: the largest `mismatch`, `missing`, `extra`,
    `stale` and `smape` that pass, where they differ from hotlap.features.consistency.Limits. `report`: write the page
    there, as HTML.

    The result has `breaches`, each with the feature, the figure and its limit; none means that all is within limits.
    What can't be compared is no pass: a feature without a read that has a value on both sides is a breach, and with
    `max_psi` so is one that `training` has not, or that has no values on one side. `not_in_training`: the features
    that were not compared with training, for want of a column.
    Raises InputError for what is not there.
    """
    from hotlap import features as package

    if max_psi is not None and training is None:
        raise InputError("--max-psi limits the shift from training rows; give them with --training FILE")
    if max_psi is not None and not 0 <= max_psi < math.inf:
        raise InputError(f"--max-psi {max_psi:g}: give a figure from 0 on; 0.25 is a large shift")
    page = None if report is None else Path(report)
    if page is not None and not page.parent.is_dir():
        raise OutputError(f"--report {page}: no folder {page.parent}; make it first")
    if page is not None and (page.is_dir() or not os.access(page.parent, os.W_OK)):
        raise OutputError(f"--report {page}: no file can be written there; name another place")
    store = package.open(repo)
    from hotlap.features import consistency, distributions

    for name, limit in (limits or {}).items():
        most = consistency.MOST_SMAPE if name == "smape" else 1.0
        if limit is not None and not 0 <= limit <= most:
            raise InputError(f"--max-{name} {limit:g}: give a figure from 0 to {most:g}; 0.01 is one in a hundred")
    rows = None if training is None else dict(_frame(training, "training").to_dict())
    found = store.check(
        features,
        log=log,
        keys=None if keys is None else _frame(keys, "keys"),
        at=at,
        sample=sample,
        known_only=known_only,
        tolerance=consistency.TOLERANCE if tolerance is None else tolerance,
        seed=seed,
    )
    allowed = consistency.Limits(**(limits or {}))
    result: dict[str, Json] = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "repo": str(repo),
        **found.report,
        "limits": {**asdict(allowed), "psi": max_psi},
        "breaches": [{**asdict(one), "sentence": one.sentence()} for one in found.breaches(allowed)],
    }
    if rows is not None:
        shifts = distributions.compare(_matched(rows, list(found.values)), found.values)
        result["training"] = str(training)
        result["distributions"] = shifts
        result["not_in_training"] = [feature for feature in found.values if feature not in shifts]
        if max_psi is not None:
            result["breaches"] += _shifted(shifts, max_psi)
            result["breaches"] += _not_compared(shifts, result["not_in_training"], str(training), max_psi)
    if page is not None:
        from hotlap.report.features_page import html
        from hotlap.search.folder import write_whole

        write_whole(page, html(result))
    return result


def _frame(path: Path | str, what: str) -> Any:
    import polars as pl

    if not Path(path).exists():
        raise InputError(f"--{what} {path}: no such file; give a Parquet file")
    try:
        return pl.read_parquet(path, glob=False)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"--{what} {path}: can't be read as Parquet: {str(error).splitlines()[0]}") from error


def _matched(columns: dict[str, Any], features: list[str]) -> dict[str, Any]:
    """Training's columns by `view:feature`; they are named `feature` there, or `view__feature`."""
    matched = {}
    for one in features:
        view, _, name = one.partition(":")
        alone = sum(other.partition(":")[2] == name for other in features) == 1
        for column in (f"{view}__{name}", *([name] if alone else [])):
            if column in columns:
                matched[one] = columns[column]
                break
    return matched or columns


def _shifted(shifts: dict[str, Json], max_psi: float) -> list[Json]:
    found = []
    for feature, told in shifts.items():
        psi = told["psi"]
        if psi is None or psi["estimate"] <= max_psi:
            continue
        doubt = "" if psi["low"] > max_psi else f" (its interval begins at {psi['low']:.4g}: more rows would settle it)"
        sentence = f"{feature}: psi {psi['estimate']:.4g}, above the limit of {max_psi:.4g}{doubt}"
        found.append({"feature": feature, "figure": "psi", **psi, "limit": max_psi, "sentence": sentence})
    return found


def _not_compared(shifts: dict[str, Json], not_in_training: list[str], training: str, max_psi: float) -> list[Json]:
    """A limit that could not be held against a feature was not kept."""
    reasons = dict.fromkeys(not_in_training, f"{training} has no column of it; give training rows that have it")
    for feature, told in shifts.items():
        if told["psi"] is None:
            side = "serving" if told["serving_missing"] == 1.0 else training
            reasons[feature] = f"{side} has no value of it; give rows that have some"
    unknown = {"estimate": None, "low": None, "high": None}
    return [
        {
            "feature": feature,
            "figure": "psi",
            **unknown,
            "limit": max_psi,
            "sentence": f"{feature}: its shift from training can't be told: {reason}, or leave it out of the check",
        }
        for feature, reason in reasons.items()
    ]
