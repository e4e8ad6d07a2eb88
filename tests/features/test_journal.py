"""The journal of a materialization: kept by one process at a time, taken up where a run ended early."""

from __future__ import annotations

import shutil
from datetime import UTC, timedelta
from pathlib import Path

import polars as pl
import pytest
from features.repository import END, START

from hotlap import features
from hotlap.errors import InputError, OutputError
from hotlap.features.journal import Journal, Window, journal_of

pytestmark = pytest.mark.slow


@pytest.fixture
def copy(repo: Path, tmp_path: Path) -> Path:
    """A repository that was applied and never materialized."""
    return Path(shutil.copytree(repo, tmp_path / "repo"))


def test_two_runs_of_one_view_at_a_time_are_refused(copy: Path) -> None:
    store = features.open(copy)
    with (
        journal_of(store, "trips"),
        pytest.raises(InputError, match="view trips is being materialized by another process"),
    ):
        features.open(copy).materialize(["trips"], end=END)


def test_a_journal_that_was_cut_off_is_gone_on_with(tmp_path: Path) -> None:
    """A line that was half written, by a full disk or a power failure, does not swallow the next."""
    window = Window(start=None, end=END.replace(tzinfo=UTC))
    journal = Journal(tmp_path / "journal")
    journal.begin(window, 4, "same")
    journal.passed(0)
    with journal.path.open("a") as file:
        file.write('{"sha')
    assert journal.begin(window, 4, "same") == (4, {0})
    journal.passed(1)
    assert journal.begin(window, 4, "same") == (4, {0, 1})


def test_a_run_that_did_not_end_is_done_though_its_source_changed_since(copy: Path) -> None:
    """A backfill that was killed reaches further back than the next run would; new rows don't make it forgotten."""
    store = features.open(copy)
    first, middle = START.replace(tzinfo=UTC), (START + timedelta(hours=100)).replace(tzinfo=UTC)
    with journal_of(store, "trips") as journal:
        journal.begin(Window(start=first, end=middle), 3, "of the source as it was")
        journal.passed(0)
    told = store.materialize(["trips"], end=END)["views"]["trips"]
    assert (told["start"], told["resumed_after_shares"]) == (first.isoformat(), 0)
    asked = pl.read_parquet(copy / "data/trips.parquet")["driver_id"].unique()
    got = store.online({"driver_id": asked}, ["trips:rate"], at=START)
    assert "missing" not in got.status("rate")


def test_a_journal_that_cant_be_kept_is_said(copy: Path) -> None:
    (copy / "data/.hotlap-materialize").write_text("no folder")
    with pytest.raises(OutputError, match=r"\.hotlap-materialize: can't be written"):
        features.open(copy).materialize(["trips"], end=END)
