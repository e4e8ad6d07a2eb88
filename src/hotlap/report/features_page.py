"""What a check of features found, as one HTML page that needs nothing else; see hotlap.report.page.

Made of the result of `hotlap features check --json`: how online reads compare with the offline join, and serving's
distributions with training's.
"""

from __future__ import annotations

from typing import Any

from hotlap.core import Json
from hotlap.report import page, wording
from hotlap.report.scales import Scale

_RATES = ("mismatch", "missing", "extra", "stale")
_BAR = 150.0  # px of the small bars in tables
_MODERATE, _LARGE = 0.1, 0.25
_CUTS = ((1_000, 300), (300, 60), (100, 20), (20, 5))
"""Tried in turn until the page is small enough: how many features, and how many of them with their bars."""
VERDICTS = {
    "large": ("shifted far", "no"),
    "moderate": ("shifted", "unproven"),
    "unsettled": ("takes more rows to say", "quiet"),
    "alike": ("alike", "yes"),
    "empty": ("no values to compare", "quiet"),
}


def html(result: Json) -> bytes:
    """The page, in UTF-8, under 2 MB. Raises MissingExtra without jinja2."""
    for features, drawn in _CUTS:
        made = page.rendered("features.html", view(result, features, drawn), "page.css", "features.css")
        if len(made) < page.MOST_BYTES:
            return made
    raise ValueError(f"the page has {len(made):,} bytes even when cut to {features} features")


def view(result: Json, features: int, drawn: int) -> dict[str, Any]:
    """What the template needs, of so many features and bars of so many. Pure."""
    shifts = result.get("distributions") or {}
    not_in_training = result.get("not_in_training") or []
    over = {(one["feature"], one["figure"]) for one in result["breaches"]}
    rows = [_row(name, told, over) for name, told in result["features"].items()]
    rows.sort(key=lambda row: (-row["worst"], row["name"]))
    return {
        "result": result,
        "title": _title(result),
        "lead": _lead(result),
        "answers": [_values(result, over), _freshness(result, over), _distributions(shifts, not_in_training)],
        "rates": _RATES,
        "rows": rows[:features],
        "left_out": max(0, len(rows) - features),
        "examples": [
            {"feature": name, **shown} for name, told in result["features"].items() for shown in told["examples"][:2]
        ][:60],
        "not_in_training": not_in_training,
        "shifts": _shifts(shifts, over)[:features],
        "drawn": [_bars(name, told) for name, told in list(shifts.items())[:drawn] if told["bars"]],
        "created": wording.moment(result["made_at"]),
    }


def _title(result: Json) -> str:
    unknown = {one["feature"] for one in result["breaches"] if _is_unknown(one)}
    above = sum(not _is_unknown(one) for one in result["breaches"])
    said = [f"{above} figure{'' if above == 1 else 's'} above {'its limit' if above == 1 else 'their limits'}"]
    if unknown:
        said = [*said[:above], f"{len(unknown)} feature{'' if len(unknown) == 1 else 's'} not compared"]
    if above or unknown:
        return ", ".join(said)
    return "Serving gives what training saw" if not _shifted(result) else "Serving gives what training saw, shifted"


def _is_unknown(breach: Json) -> bool:
    """No figure above its limit, but one that could not be found."""
    return breach["figure"] == "both" or breach.get("estimate", 0.0) is None


def _shifted(result: Json) -> bool:
    return any(one["verdict"] in ("moderate", "large") for one in (result.get("distributions") or {}).values())


def _lead(result: Json) -> str:
    reads = max((one["reads"] for one in result["features"].values()), default=0)
    source = "logged reads" if result["reads_of"] == "log" else "reads made for this check"
    return (
        f"{wording.count(reads)} {source} of {len(result['features'])} features, each held against the offline join "
        "for the same key at the same instant."
    )


def _most(result: Json, rates: tuple[str, ...]) -> tuple[str, str, float, float]:
    """(feature, rate, estimate, high) of the largest of these rates."""
    every = [
        (name, rate, told[rate]["estimate"], told[rate]["high"])
        for name, told in result["features"].items()
        for rate in rates
    ]
    return max(every, key=lambda one: (one[2], one[3]))


def _answer(title: str, rates: tuple[str, ...], result: Json, over: set[tuple[str, str]]) -> dict[str, str]:
    nothing = [feature for feature, told in result["features"].items() if not told["both"]]
    name, rate, estimate, high = _most(result, rates)
    bad = any(figure in rates for _, figure in over)
    value = "Not within limits" if bad else "Yes" if not estimate else "Within limits"
    if estimate:
        about = f"At worst {_share(estimate)} of reads: {name}, {rate}."
    else:
        about = f"None differed. With 95% confidence fewer than {_share(high)} of all reads do."
    if nothing and not bad:
        value = "Not compared" if len(nothing) == len(result["features"]) else "Not all compared"
        about = f"{len(nothing)} of {len(result['features'])} features have no read with a value on both sides."
        return {"title": title, "value": value, "look": "no", "about": about}
    return {"title": title, "value": value, "look": "no" if bad else "yes", "about": about}


def _values(result: Json, over: set[tuple[str, str]]) -> dict[str, str]:
    return _answer("Are the values the same?", ("mismatch", "missing", "extra"), result, over)


def _freshness(result: Json, over: set[tuple[str, str]]) -> dict[str, str]:
    return _answer("Are they as fresh?", ("stale",), result, over)


def _distributions(shifts: Json, not_in_training: list[str]) -> dict[str, str]:
    title = "Is serving like training?"
    if not shifts:
        return {"title": title, "value": "Not compared", "look": "quiet", "about": "No training rows were given."}
    found = [one["verdict"] for one in shifts.values()]
    shifted = sum(one in ("moderate", "large") for one in found)
    if shifted:
        furthest = next(iter(shifts))
        about = f"{shifted} of {len(found)} features shifted for sure (PSI above 0.1); the furthest is {furthest}."
        return {"title": title, "value": f"{shifted} shifted", "look": "no", "about": about}
    if "unsettled" in found:
        about = f"No shift is sure, but {found.count('unsettled')} of {len(found)} features have too few rows to say."
        return {"title": title, "value": "Not settled", "look": "unproven", "about": about}
    left_out = found.count("empty") + len(not_in_training)
    if left_out:
        about = f"{left_out} of {len(found) + len(not_in_training)} features have no values on one side to compare."
        return {"title": title, "value": "Not all compared", "look": "unproven", "about": about}
    return {"title": title, "value": "Yes", "look": "yes", "about": f"All {len(found)} features within a PSI of 0.1."}


def _row(name: str, told: Json, over: set[tuple[str, str]]) -> dict[str, Any]:
    def cell(figure: str, value: Json) -> dict[str, Any]:
        shown = wording.significant if figure == "smape" else _share
        return {
            "estimate": shown(value["estimate"]),
            "interval": f"{shown(value['low'])} to {shown(value['high'])}",
            "over": (name, figure) in over,
        }

    return {
        "name": name,
        "reads": told["reads"],
        "both": told["both"],
        "worst": max(told[rate]["estimate"] for rate in _RATES) if told["both"] else 1.0,
        "cells": [cell(rate, told[rate]) for rate in _RATES],
        "smape": cell("smape", told["smape"]) if told["smape"] else None,
    }


def _shifts(shifts: Json, over: set[tuple[str, str]]) -> list[dict[str, Any]]:
    ends = [one["psi"]["high"] for one in shifts.values() if one["psi"]]
    scale = Scale(low=0.0, high=max(0.3, min(max(ends, default=0.3), 2.0)), start=3.0, end=_BAR - 3.0)
    return [_shift(name, told, scale, (name, "psi") in over) for name, told in shifts.items()]


def _shift(name: str, told: Json, scale: Scale, over: bool) -> dict[str, Any]:
    psi, distance = told["psi"], told["ks"] or told["cramers_v"]
    words, look = VERDICTS[told["verdict"]]
    bar = None
    if psi:
        ends = {"x": psi["estimate"], "left": psi["low"], "right": psi["high"], "moderate": _MODERATE, "large": _LARGE}
        bar = {end: scale.within(value) for end, value in ends.items()}
    return {
        "name": name,
        "verdict": words,
        "look": look,
        "over": over,
        "psi": _interval(psi),
        "bar": bar,
        "distance": _interval(distance),
        "test": "KS" if told["ks"] else "V" if told["cramers_v"] else "",
        "p": _p_value(told["p_adjusted"]),
        "missing": wording.percent(told["serving_missing"]),
        "training_missing": wording.percent(told["training_missing"]),
        "more_missing": _points(told["more_missing"]),
    }


def _share(value: float) -> str:
    """As a percentage, with two digits where it is small: a bound of 0.018% is not 0.0%."""
    return f"{100 * value:.2g}%" if 0 < value < 0.001 else wording.percent(value)


def _interval(value: Json) -> tuple[str, str] | None:
    if not value:
        return None
    return wording.significant(value["estimate"], 2), (
        f"{wording.significant(value['low'], 2)} to {wording.significant(value['high'], 2)}"
    )


def _points(value: Json) -> str:
    return " to ".join(f"{round(100 * value[end], 1) + 0.0:+.1f}" for end in ("low", "high"))


def _p_value(value: Json) -> str:
    figure = wording.number(value)
    return "" if figure is None else "< 0.0001" if figure < 1e-4 else f"{figure:.4f}"


def _bars(name: str, told: Json) -> dict[str, Any]:
    most = max(max(p, q) for _, p, q in told["bars"]) or 1.0
    rows = [
        {"name": bin_name, "training": wording.percent(p), "serving": wording.percent(q),
         "p": round(100 * p / most, 1), "q": round(100 * q / most, 1)}
        for bin_name, p, q in told["bars"]
    ]  # fmt: skip
    words, look = VERDICTS[told["verdict"]]
    return {
        "name": name,
        "rows": rows,
        "verdict": words,
        "look": look,
        "open": told["verdict"] in ("moderate", "large"),
    }
