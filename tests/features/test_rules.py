"""A row that breaks a rule is written nowhere, and the message says which, how many and where."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest
from feast import FeatureStore
from features import repository

from hotlap import features
from hotlap.cli.main import run
from hotlap.errors import InputError
from hotlap.features import rules

pytestmark = pytest.mark.slow

RULES = """
import pandera.polars as pa
import polars as pl

class Both(pa.DataFrameModel):
    rate: float = pa.Field(ge=-100, nullable=True)
    rain: float = pa.Field(lt=0.5, nullable=True)

rules = {
    "trips": pa.DataFrameSchema(
        {
            "rate": pa.Column(pl.Float64, pa.Check.in_range(-1, 1)),
            "count": pa.Column(pl.Int64, pa.Check.ge(0), nullable=True),
        },
        unique=["driver_id", "at"],
    ),
    "both": Both,
}
"""


@pytest.fixture
def own(repo: Path, tmp_path: Path) -> Path:
    copied = Path(shutil.copytree(repo, tmp_path / "repo"))
    (copied / "rules.py").write_text(RULES)
    return copied


def rows(rate: list[float | None], **more: list[object]) -> pl.DataFrame:
    at = [repository.START] * len(rate)
    frame = {"driver_id": list(range(len(rate))), "at": at, "made": at, "rate": rate, "count": [1] * len(rate), **more}
    return pl.DataFrame(frame, schema_overrides={"rate": pl.Float64})


def test_the_message_names_column_rule_count_and_first_rows(own: Path) -> None:
    schema = rules.of(own)["trips"]
    rules.held(schema, rows([0.5, 1.0]), "push")
    with pytest.raises(InputError) as caught:
        rules.held(schema, rows([0.5, 7.0, None, -9.0, 8.0, 9.0]), "push clicks: view trips", first_row=100)
    assert str(caught.value) == (
        "push clicks: view trips breaks the rules of rules.py: "
        "rate breaks not_nullable in 1 of 6 rows: row 102 (null); "
        "rate breaks in_range(-1, 1) in 4 of 6 rows: row 101 (7.0), row 103 (-9.0), row 104 (8.0), ...; "
        "nothing was written"
    )
    with pytest.raises(InputError, match=r"the rows breaks multiple_fields_uniqueness in 2 of 2 rows: row 0 \("):
        rules.held(schema, rows([0.5, 0.5], driver_id=[3, 3]), "push")
    with pytest.raises(InputError, match=r"count dtype\('Int64'\), got String"):
        rules.held(schema, rows([0.5], count=["1"]), "push")
    with pytest.raises(InputError, match="no column rate"):
        rules.held(schema, rows([0.5]).drop("rate"), "push")


def test_rows_that_break_a_rule_are_not_appended_by_feast_either(own: Path) -> None:
    trips = own / "data/trips.parquet"
    before = pl.read_parquet(trips)
    store = FeatureStore(str(own))
    bad = rows([0.5, 3.0]).rename({"count": "n"}).select(before.columns)
    with pytest.raises(InputError, match=r"write to view trips breaks .* rate breaks in_range\(-1, 1\) in 1 of 2 rows"):
        store.write_to_offline_store("trips", bad.to_pandas())
    assert pl.read_parquet(trips).equals(before)
    store.write_to_offline_store("trips", bad.head(1).to_pandas())
    assert len(pl.read_parquet(trips)) == len(before) + 1


def test_training_rows_of_a_service_are_held_to_its_rules(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = repository.asked(200)
    asked.write_parquet(tmp_path / "rows.parquet")
    words = ["--repo", str(own), "--entities", str(tmp_path / "rows.parquet"), "--out", str(tmp_path / "out.parquet")]
    assert run(["features", "train", *words, "--service", "both"]) == 2
    assert "training rows of both breaks the rules of rules.py: rain breaks less_than(0.5)" in capsys.readouterr().err
    assert not (tmp_path / "out.parquet").exists()
    store = features.open(own)
    rain = store.training(asked, ["trips:rate", "weather:rain"]).read()["rain"]  # no service, no rules
    wet = [value is not None and value >= 0.5 for value in rain.to_pylist()]
    assert any(wet)
    dry = asked.filter(~pl.Series(wet))
    assert store.training(dry, "both").read().num_rows == len(dry)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "no dict `rules` there"),
        ("rules = {'trips': 3}\n", r"rules\['trips'\] is a int; give a schema of pandera.polars"),
        ("import nowhere_at_all\n", "rules.py: importing it raised ModuleNotFoundError"),
    ],
)
def test_a_file_that_holds_no_rules_says_so(tmp_path: Path, text: str, message: str) -> None:
    assert rules.of(tmp_path) == {}
    (tmp_path / "rules.py").write_text(text)
    with pytest.raises(InputError, match=message):
        rules.of(tmp_path)


def test_feast_applies_a_repository_that_has_rules(tmp_path: Path) -> None:
    (tmp_path / "rules.py").write_text(RULES)
    repository.write(tmp_path, rows=50)
    assert sorted(rules.of(tmp_path)) == ["both", "trips"]


def test_rows_that_break_a_rule_are_not_materialized(own: Path) -> None:
    store = features.open(own)
    with pytest.raises(
        InputError, match=r"materialize view trips breaks .* rate breaks in_range\(-1, 1\) in \d+ of 40 rows"
    ):
        store.materialize(["trips"], end=repository.END)
    assert store.online({"driver_id": [1]}, ["trips:rate"], at=repository.END).status("rate") == ["missing"]
    store.materialize(["weather"], end=repository.END)
