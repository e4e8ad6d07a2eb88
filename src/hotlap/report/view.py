"""A result, arranged for the page: rows, bars and sentences, in the order in which they are read. Pure."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from hotlap.core import Json
from hotlap.report import wording
from hotlap.report.curves_plot import curves_plot
from hotlap.report.headline import changed, headline
from hotlap.report.roofline_plot import roofline_plot
from hotlap.report.scales import Scale
from hotlap.report.speed_plot import lowest_and_highest, speed_plot
from hotlap.report.wording import at, number

STATUSES = ("chosen", "passed", "dropped", "rejected", "failed", "skipped")
ROLES = (
    ("compute", "compute"),
    ("quantize", "quantize and dequantize"),
    ("layout", "layout changes"),
    ("other", "other"),
)
_MOST_SLICES = 40
_BAR = 120.0  # px of the small bars in tables


def view(result: Json, full: Json) -> dict[str, Any]:
    """What the template needs. `result` may be cut short; `full` is the whole of it, for counts."""
    candidates = result["candidates"]
    return {
        "result": result,
        "headline": headline(result),
        "changed": changed(result),
        "facts": facts(result),
        "load": loading(result),
        "training_with": training_with(result),
        "plots_drawn": _both(speed_plot, result, 470.0, 430.0),
        "rows": rows(result),
        "statuses": Counter(candidate["status"] for candidate in candidates),
        "left_out": len(full.get("candidates") or []) - len(candidates),
        "explained": explained(candidates),
        "roles": ROLES,
        "roofs": _both(roofline_plot, result, 420.0, 340.0),
        "profile": result.get("profile") or {},
        "layers": _with_bars(at(result, "profile", "layers") or []),
        "kinds": _with_bars(at(result, "profile", "kinds") or []),
        "slices": slices(result),
        "confirmations": [_confirmation(one, result) for one in result.get("confirmations") or []],
        "accuracy": accuracy(result),
        "proof": proof(result),
        "curves": _both(curves_plot, result, 380.0, 340.0),
        "created": wording.moment(result.get("created")),
        "settings": settings(result),
        "one_start": any(one.get("screened_only") for one in candidates),
    }


def _both(plot: Callable[..., Any], result: Json, wide: float, narrow: float) -> list[Any]:
    """The plot for wide and for narrow screens, at those heights; empty where there is nothing to draw."""
    drawn = plot(result, width=960.0, height=wide)
    return [drawn, plot(result, width=350.0, height=narrow)] if drawn else []


def in_order(candidates: Iterable[Json]) -> list[Json]:
    """Candidates as they are listed: the chosen, those that passed, and so on; within each the fastest first."""

    def place(candidate: Json) -> tuple[int, float]:
        return STATUSES.index(candidate["status"]), -(number(at(candidate, "speedup", "estimate")) or 0.0)

    return sorted(candidates, key=place)


def facts(result: Json) -> list[tuple[str, str, str]]:
    """Before and after: (what, baseline, best), where either is known; the best is empty where nothing changed."""
    baseline, best = result["baseline"], result["best"]
    training = result["kind"] in ("tune", "train")
    call, each = ("a training step", "Steps") if training else ("one call", "Calls")
    written = (
        (f"Time of {call} (median)", "median_ms", wording.milliseconds),
        (f"{each} a second (1 / median)", "median_ms", _per_second),
        ("Size of the files", "bytes", wording.byte_size),
        ("Memory at its peak", "peak_memory_bytes", wording.byte_size),
        ("Score", "score", lambda value: wording.significant(value, 4)),
        ("Share of the machine's limit", "share_of_limit", wording.percent),
        ("Parameters", "parameters", wording.count),
        ("Multiply-adds of a call", "multiply_adds", wording.multiply_adds),
    )
    found = [(what, write(baseline.get(name)), write(best.get(name))) for what, name, write in written]
    return [(what, before, after) for what, before, after in found if before or after]


def _per_second(median_ms: Json) -> str:
    figure = number(median_ms)
    return wording.significant(1000 / figure) if figure else ""


def loading(result: Json) -> dict[str, str] | None:
    """The code that loads the artifact and the commands that check it, or None where there is none."""
    artifact = result["best"].get("artifact")
    if not artifact:
        return None
    code = f"import hotlap\n\nmodel = hotlap.load({json.dumps(artifact)})\noutputs = model(x)"
    if at(result, "best", "options", "streams"):
        code += "\nfor outputs in model.map(batches):  # several calls at once\n    ..."
    return {"code": code, "verify": f"hotlap verify {shlex.quote(artifact)}", "folder": str(artifact)}


def training_with(result: Json) -> str | None:
    """The command that trains with what tuning found, or None where that is today's set-up."""
    if result["kind"] != "tune" or not changed(result):
        return None
    return "hotlap train WORKLOAD.py --out runs/trained \\\n  --settings settings.json"


def rows(result: Json) -> list[dict[str, Any]]:
    """One row a candidate, with the baseline first."""
    low, high = lowest_and_highest(result)
    scale = Scale(low=low, high=high, start=2.0, end=_BAR - 2.0, log=True)
    pareto, max_drop = set(result.get("pareto") or []), result.get("max_drop")
    baseline = {**result["baseline"], "status": "baseline"}
    candidates = in_order(result["candidates"])
    return [_row(figures, scale, figures["name"] in pareto, max_drop) for figures in (baseline, *candidates)]


def _row(figures: Json, scale: Scale, pareto: bool, max_drop: Json) -> dict[str, Any]:
    ratio = wording.ratio(figures.get("speedup"))
    return {
        "name": figures["name"],
        "made_of": made_of(figures),
        "status": figures["status"],
        "order": STATUSES.index(figures["status"]) if figures["status"] in STATUSES else -1,
        "pareto": pareto,
        "median_ms": number(figures.get("median_ms")),
        "speed": number(at(figures, "speedup", "estimate")) if ratio else None,
        "ratio": ratio,
        "bar": _interval_bar(figures, scale),
        "drop": number(at(figures, "drop", "estimate")),
        "loss": wording.loss(figures.get("drop"), max_drop),
        "same_numbers": figures.get("gate") == "equivalence",
        "bytes": number(figures.get("bytes")),
        "peak": number(figures.get("peak_memory_bytes")),
        "build_seconds": number(figures.get("build_seconds")),
        "reason": figures.get("reason") or "",
    }


def made_of(figures: Json) -> str:
    """Runtime, precision, techniques, threads and options, where known."""
    options = figures.get("options") or {}
    threads = figures.get("threads")
    parts = (
        figures.get("runtime"),
        figures.get("precision"),
        " + ".join(map(str, figures.get("techniques") or [])),
        f"{threads} thread{'' if threads == 1 else 's'}" if threads is not None else "",
        ", ".join(f"{name} {_plain(value)}" for name, value in options.items()) if isinstance(options, dict) else "",
    )
    return " · ".join(str(part) for part in parts if part)


def _plain(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _interval_bar(figures: Json, scale: Scale) -> dict[str, float] | None:
    estimate = number(at(figures, "speedup", "estimate"))
    if estimate is None or estimate <= 0:
        return None
    low, high = (number(at(figures, "speedup", end)) for end in ("low", "high"))
    return {
        "x": scale(estimate),
        "left": scale.within(low if low and low > 0 else estimate),
        "right": scale.within(high if high and high > 0 else estimate),
        "one": scale(1.0),
    }


def explained(candidates: Sequence[Json]) -> list[dict[str, Any]]:
    """Where each candidate's time goes, by role, and why it is not faster; those that have either."""
    found = []
    for candidate in in_order(candidates):
        shares = role_shares(candidate.get("role_ms"))
        sentences = candidate.get("why_not_faster") or []
        if shares or sentences:
            found.append(
                {
                    "name": candidate["name"],
                    "status": candidate["status"],
                    "median_ms": candidate.get("median_ms"),
                    "ratio": wording.ratio(candidate.get("speedup")),
                    "bound_ms": number(candidate.get("bound_ms")),
                    "segments": _segments(shares),
                    "shares": shares,
                    "sentences": sentences,
                    "operations": candidate.get("operations") or [],
                }
            )
    return found


def role_shares(role_ms: Json) -> list[tuple[str, str, float, float]]:
    """(role, its name, ms, share of the sum) for each role that took time."""
    times = {role: number(at(role_ms, role)) or 0.0 for role, _ in ROLES}
    total = sum(times.values())
    return [(role, name, times[role], times[role] / total) for role, name in ROLES if times[role] > 0 and total > 0]


def _segments(shares: Sequence[tuple[str, str, float, float]]) -> list[dict[str, Any]]:
    """The parts of a bar from 0 to 100 (per cent)."""
    segments, start = [], 0.0
    for role, _, _, share in shares:
        segments.append({"role": role, "start": round(start, 2), "width": round(100 * share, 2)})
        start += 100 * share
    return segments


def _with_bars(items: Sequence[Json]) -> list[dict[str, Any]]:
    """Layers or kinds, longest first, each with its bar's length in px."""
    largest = max((number(item.get("share")) or 0.0 for item in items), default=0.0) or 1.0
    ordered = sorted(items, key=lambda item: -(number(item.get("ms")) or 0.0))
    return [{**item, "bar": round(_BAR * (number(item.get("share")) or 0.0) / largest, 1)} for item in ordered]


def accuracy(result: Json) -> list[tuple[str, str]]:
    """How the winner's accuracy was judged, and on how much: (what, value); an empty value is not known."""
    best, examples = result["best"], result.get("examples") or {}
    before = wording.significant(at(result, "baseline", "score"), 4)
    used = [
        ("Calibration examples", wording.count(examples.get("calibration"))),
        ("Selection examples", wording.count(examples.get("selection"))),
        ("Confirmation examples", wording.count(examples.get("confirmation"))),
    ]
    if not changed(result):
        return [("Score", before), *used]
    loss = wording.loss(best.get("drop"), result.get("max_drop"))
    held = best.get("equivalence")
    difference = wording.significant(at(held, "largest_relative_difference"), 2)
    tolerance = wording.significant(at(held, "tolerance"), 2)
    rules = {"drop": "score lost", "equivalence": "numerical equivalence", "agreement": "agreement of outputs"}
    return [
        ("Judged by", rules.get(best.get("gate"), "")),
        ("Score before", before),
        ("Score after", wording.significant(best.get("score"), 4)),
        ("Score lost", loss.estimate),
        ("At most (95%)", loss.high),
        ("Allowed", _allowed(result)),
        ("Went wrong", wording.count(at(best, "drop", "lost"))),
        ("Came right", wording.count(at(best, "drop", "gained"))),
        ("Largest relative difference", difference),
        ("Its tolerance", tolerance if best.get("gate") == "equivalence" else ""),
        *used,
    ]


def proof(result: Json) -> dict[str, Any] | None:
    """The set-ups whose training was judged, in turn, as texts; None where none was."""
    found = result.get("proof_details")
    if not found:
        return None
    write = _two_digits if found["compared"] == "score" else wording.percent
    rows = [
        {
            **{name: trial.get(name) for name in ("name", "answer", "seeds", "reason")},
            "estimate": write(at(trial, "worse_by", "estimate")),
            "high": write(at(trial, "worse_by", "high")),
            "margin": write(trial.get("margin")),
            "detectable": write(trial.get("detectable_margin")),
        }
        for trial in found["trials"]
    ]
    return {"kind": found["kind"], "compared": found["compared"], "rows": rows}


def _two_digits(value: Json) -> str:
    return wording.significant(value, 2)


def _allowed(result: Json) -> str:
    """The allowed drop, which means nothing where no score was measured."""
    return "" if result.get("accuracy") == "agreement" else wording.allowed(result.get("max_drop"))


def slices(result: Json) -> list[dict[str, Any]]:
    """The winner's slices, the one that lost most first."""
    best = result["best"]
    found = [
        {
            "label": label,
            "worst": label == best.get("worst_slice"),
            "examples": drop.get("examples"),
            "loss": wording.loss({**drop, "examples": None}, result.get("max_drop")),
            "estimate": number(drop.get("estimate")) or 0.0,
        }
        for label, drop in (best.get("slices") or {}).items()
    ]
    return sorted(found, key=lambda one: (not one["worst"], -one["estimate"]))[:_MOST_SLICES]


def _confirmation(one: Json, result: Json) -> dict[str, Any]:
    return {
        "name": one.get("name", ""),
        "passed": bool(one.get("passed")),
        "reason": one.get("reason") or "",
        "loss": wording.loss(one.get("drop"), result.get("max_drop")),
        "ratio": wording.ratio(one.get("speedup")),
    }


def settings(result: Json) -> list[tuple[str, list[tuple[str, str]]]]:
    """Groups of (what, value) that say where and how this was run; what is not known is left out."""
    machine, limits, best = result["machine"], result.get("limits") or {}, result["best"]
    options = ", ".join(f"{name}: {_plain(value)}" for name, value in (best.get("options") or {}).items())
    groups: list[tuple[str, list[tuple[str, Json]]]] = [
        (
            "Machine",
            [
                ("Processor", machine.get("cpu")),
                ("Cores that are ours", machine.get("cores")),
                ("Memory", wording.byte_size(machine.get("memory_bytes"))),
                ("Instruction sets", _listed(machine.get("instruction_sets"))),
                ("GPUs", _listed(machine.get("gpus"))),
                ("System", machine.get("os")),
                ("Python", machine.get("python")),
            ],
        ),
        (
            "Measured limits",
            [
                *(
                    (name, wording.rate(limits.get(f"{name}_multiply_adds_per_second"), "multiply-adds"))
                    for name in ("fp32", "bf16", "fp16", "int8")
                ),
                ("Memory bandwidth", wording.rate(limits.get("bytes_per_second"), "B")),
                ("Noise floor", wording.percent(result.get("noise_floor"))),
            ],
        ),
        (
            "The set-up that was kept" if result["kind"] in ("tune", "train") else "The form that was kept",
            [
                ("Runtime", best.get("runtime")),
                ("Precision", best.get("precision")),
                ("Threads", best.get("threads")),
                ("Techniques", _listed(best.get("techniques"))),
                ("Options", options),
                ("Bound by", best.get("bound_by")),
                ("Waiting for data", wording.percent(best.get("loading_share"))),
            ],
        ),
        (
            "The run",
            [
                ("Command", result.get("command")),
                ("Objective", result.get("objective")),
                ("Batch", result.get("batch")),
                ("Device", result.get("device")),
                ("Allowed drop", _allowed(result)),
                ("Seed", result.get("seed")),
                ("Budget", wording.duration(result.get("budget_seconds"))),
                ("Took", wording.duration(result["seconds"])),
                ("Measuring, over the candidates' own run time", wording.percent(result.get("measuring_overhead"))),
                ("Made", wording.moment(result.get("created"))),
                ("hotlap", result.get("hotlap_version")),
            ],
        ),
        ("Versions", sorted((machine.get("versions") or {}).items())),
    ]
    kept = [
        (title, [(what, str(value)) for what, value in pairs if value not in (None, "")]) for title, pairs in groups
    ]
    return [(title, pairs) for title, pairs in kept if pairs]


def _listed(values: Json) -> str:
    if not isinstance(values, list):
        return str(values or "")
    return ", ".join(str(value.get("name", value)) if isinstance(value, dict) else str(value) for value in values)
