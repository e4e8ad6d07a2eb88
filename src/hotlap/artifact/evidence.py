"""The evidence in an artifact: what was measured, enough to reach its verdict and its speedup again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hotlap.artifact import fields, strict_json
from hotlap.artifact.manifest import EVIDENCE
from hotlap.core import Drop, Json, Start, Verdict
from hotlap.errors import ArtifactRefused

MOST_BYTES = 2**30
"""A million examples take some 40 MB."""
_MOST_DEPTH = 64
_MOST_MS = 1e9
_CONFIDENCES = (0.95, 0.9999)
"""A search confirms at 95% at the least; less would make a verdict and an interval look surer than one of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was measured when the artifact was confirmed.

    starts: times of the original and the candidate, in turn. original_scores, scores: one number an example; None
    where there is no evaluation, or a `metric` makes one number of `original_rows` and `rows`. slices: one label an
    example. differences: by output, the largest difference from the original's, relative to its magnitude.
    same_class: examples whose largest output stayed the same, of `compared`. max_drop: what was allowed.
    confidence: of the one-sided interval.
    """

    starts: tuple[Start, ...]
    original_scores: list[float] | None
    scores: list[float] | None
    original_rows: list[Json] | None
    rows: list[Json] | None
    slices: list[str] | None
    differences: Mapping[str, float]
    same_class: int | None
    compared: int
    max_drop: float | None
    confidence: float


def parse(data: bytes) -> Evidence:
    """Read evidence.json. Raises ArtifactRefused, naming the field, where it is not what hotlap writes."""
    parsed = strict_json.parse(data, EVIDENCE, most_bytes=MOST_BYTES, most_depth=_MOST_DEPTH)
    try:
        return _evidence(parsed)
    except ArtifactRefused as error:
        raise ArtifactRefused(f"{EVIDENCE}: {error}") from None


def _evidence(parsed: Json) -> Evidence:
    given = fields.mapping(parsed, "the evidence")
    missing = [name for name in Evidence.__dataclass_fields__ if name not in given]
    if missing:
        raise ArtifactRefused(f"there is no {missing[0]!r}")
    scores, original = (_numbers(given[name], name) for name in ("scores", "original_scores"))
    rows, original_rows = (_list(given[name], name) for name in ("rows", "original_rows"))
    slices = _list(given["slices"], "slices")
    for ours, theirs, names in ((scores, original, "scores"), (rows, original_rows, "rows")):
        if (ours is None) != (theirs is None) or len(ours or ()) != len(theirs or ()):
            raise ArtifactRefused(f"original_{names} and {names} are not of the same examples")
    examples = scores if scores is not None else rows
    if slices is not None and (examples is None or len(slices) != len(examples)):
        raise ArtifactRefused("slices and scores are not of the same examples")
    compared = fields.whole(given["compared"], "compared", 0, 10**12)
    differences = fields.mapping(given["differences"], "differences")
    return Evidence(
        starts=tuple(_start(item, f"starts[{i}]") for i, item in enumerate(fields.items(given["starts"], "starts"))),
        original_scores=original,
        scores=scores,
        original_rows=original_rows,
        rows=rows,
        slices=None if slices is None else [_label(item) for item in slices],
        differences={name: fields.number(item, "differences", 0.0, 1e300) for name, item in differences.items()},
        same_class=None
        if given["same_class"] is None
        else fields.whole(given["same_class"], "same_class", 0, compared),
        compared=compared,
        max_drop=None if given["max_drop"] is None else fields.number(given["max_drop"], "max_drop", 0.0, 1e300),
        confidence=fields.number(given["confidence"], "confidence", *_CONFIDENCES),
    )


def verdict(value: Json) -> Verdict:
    """A core.Verdict of its JSON."""
    names = tuple(Verdict.__dataclass_fields__)
    found = fields.record(value, "verdict", *names)
    fields.flag(found["passed"], "verdict.passed")
    for name, item in fields.mapping(found["slices"], "verdict.slices").items():
        _drop(item, f"verdict.slices[{name!r:.80}]")
    if found["drop"] is not None:
        _drop(found["drop"], "verdict.drop")
    return Verdict.from_json(found)


def _drop(value: Json, where: str) -> None:
    found = fields.record(value, where, *Drop.__dataclass_fields__)
    for name, item in found.items():
        fields.number(item, f"{where}.{name}", -1e300, 1e300)


def _start(value: Json, where: str) -> Start:
    sides = fields.record(value, where, "baseline_ms", "candidate_ms")
    times = {name: fields.items(item, f"{where}.{name}") for name, item in sides.items()}
    if not times["baseline_ms"] or len(times["baseline_ms"]) != len(times["candidate_ms"]):
        raise ArtifactRefused(f"{where} has no pairs of times")
    for name, items in times.items():
        for item in items:
            fields.number(item, f"{where}.{name}", 1e-9, _MOST_MS)
    return Start.from_json(times)


def _numbers(value: Json, where: str) -> list[float] | None:
    given = _list(value, where)
    return None if given is None else [fields.number(item, where, -1e300, 1e300) for item in given]


def _list(value: Json, where: str) -> list[Json] | None:
    return None if value is None else fields.items(value, where)


def _label(value: Json) -> str:
    if not isinstance(value, str):
        raise ArtifactRefused("slices holds what is no label")
    return value
