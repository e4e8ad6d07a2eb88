"""The page of a check: every figure is there, nothing is loaded, and it fits wide and narrow, light and dark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from hotlap.report.features_page import html, view


def sample(bad: float = 0.03, features: int = 3) -> dict[str, Any]:
    from hotlap.features import consistency, distributions

    rng = np.random.default_rng(1)
    told = {}
    for place in range(features):
        truth = pl.Series(rng.normal(size=3000))
        wrong = rng.random(3000) < (bad if place == 0 else 0)
        events = np.full(3000, 7_000_001)
        online = pl.Series(truth.to_numpy() * np.where(wrong, 1.5, 1.0))
        shown = {"kinds": ["mismatch"], "keys": {"who": "<b>&"}, "at": "2026-03-08T12:00:00+00:00", "online": 1.25,
                 "offline": None, "online_event": None, "offline_event": "2026-03-08T11:00:00Z"}  # fmt: skip
        one = consistency.compare(online, truth, events, events).report()
        told[f"view{place}:rate"] = {**one, "examples": [shown] if wrong.any() else []}
    breaches = [
        {"feature": one.feature, "figure": one.figure, "sentence": one.sentence()}
        for one in consistency.breaches(told, consistency.Limits())
    ]
    training = {name: pl.Series(rng.normal(size=4000)) for name in told}
    serving = {name: pl.Series(rng.normal(bad * 30, size=1000)) for name in told}
    return {
        "made_at": "2026-11-26T00:10:00+00:00", "repo": "repo", "reads_of": "log", "known_only": False,
        "tolerance": 1e-6, "features": told, "breaches": breaches,
        "distributions": distributions.compare(training, serving),
    }  # fmt: skip


def test_says_what_is_wrong_and_escapes_what_it_is_told() -> None:
    page = html(sample()).decode()
    assert "1 figure above its limit" in page
    assert "view0:rate: mismatch" in page
    assert "&lt;b&gt;&amp;" in page
    assert "<b>" not in page
    assert "http:" not in page
    assert "https:" not in page
    assert "shifted far" in page


def test_says_that_all_is_well() -> None:
    page = html(sample(bad=0.0)).decode()
    assert "Serving gives what training saw" in page
    assert "or not compared" not in page
    assert "Reads that differ" not in page


def test_very_many_features_are_cut_to_under_two_megabytes() -> None:
    result = sample(features=3)
    for part in ("features", "distributions"):
        (one, *_) = result[part].values()
        result[part] = {f"view:{'long' * 10}{place}": one for place in range(3000)}
    page = html(result)
    assert len(page) < 2_000_000
    assert b"more features" in page


def test_says_what_was_not_compared() -> None:
    result = sample(bad=0.0)
    for told in result["features"].values():
        told["both"] = 0
    result["breaches"] = [{"feature": name, "figure": "both", "sentence": "..."} for name in result["features"]]
    found = view(result, 10, 10)
    assert found["title"] == "3 features not compared"
    assert [one["value"] for one in found["answers"][:2]] == ["Not compared"] * 2
    result["not_in_training"] = ["view9:rate"]
    assert b"Not in the training rows, so not compared with them: view9:rate." in html(result)


def test_without_training_rows_it_says_so() -> None:
    result = sample(bad=0.0)
    del result["distributions"]
    assert view(result, 10, 10)["answers"][2]["value"] == "Not compared"
    assert b"Serving against training" not in html(result)


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_refused_and_nothing_overflows(browser: Any, tmp_path: Path, width: int, dark: bool) -> None:
    path = tmp_path / "page.html"
    path.write_bytes(html(sample()))
    browser.open(path, width=width, dark=dark)
    assert browser.troubles() == []
    assert browser.ask("document.documentElement.scrollWidth <= window.innerWidth")
    assert browser.ask("document.querySelectorAll('details[open] rect.serving').length") > 5


@pytest.mark.slow
def test_on_a_telephone_rates_are_in_view_and_names_break_between_words(browser: Any, tmp_path: Path) -> None:
    result, path = sample(), tmp_path / "page.html"
    name = "airline_of_the_day:departure_delay"
    result["features"] = {name: next(iter(result["features"].values()))}
    path.write_bytes(html(result))
    browser.open(path, width=390, dark=False)
    table = "document.querySelector('.names table')"
    assert browser.ask(f"{table}.querySelector('thead th:nth-child(2)').textContent") == "Mismatch"
    assert browser.ask(f"{table}.querySelector('tbody td').getBoundingClientRect().right <= window.innerWidth")
    assert browser.ask("getComputedStyle(document.querySelector('.names')).overflowY") == "hidden"
    assert browser.ask(f"{table}.querySelector('tbody th').innerHTML").split("<wbr>") == [
        "airline_", "of_", "the_", "day:", "departure_", "delay",
    ]  # fmt: skip
    assert browser.ask(f"getComputedStyle({table}.querySelector('tbody th')).overflowWrap") == "break-word"
