"""`tune` as a person calls it, on a model that takes a moment a step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trainable

import hotlap
from hotlap.cli.main import run
from hotlap.cli.options import byte_count
from hotlap.errors import InputError, Refusal, WorkloadError
from hotlap.report.schema import violations

SLOW_DATA = trainable.slow_rows(0.002)
"""32 ms of waiting a step, which a loader process takes off it, whatever else the machine does."""


@pytest.mark.exhaustive
@pytest.mark.timeout(1200)
def test_what_waits_for_data_gets_loader_processes(tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows", add=SLOW_DATA)
    result = hotlap.tune(target, out=tmp_path / "out", budget=150, threads=1, device="cpu")
    assert violations(result) == []
    assert result["baseline"]["bound_by"] == "data loading"
    rows = {row["name"]: row for row in result["candidates"]}
    assert rows["channels_last"]["reason"] == "no weight has 4 axes"
    assert "batch statistics and randomness" in rows["passes of 8"]["reason"]
    assert result["confirmed"]
    assert result["settings"]["workers"] >= 1
    assert result["best"]["speedup"]["low"] > 1
    assert result["proof"] == "pending"
    assert (tmp_path / "out" / "report.html").stat().st_size > 1000
    kept = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert set(kept["snippets"]) == {"pytorch", "lightning", "accelerate"}
    trained = hotlap.train(target, out=tmp_path / "trained", settings=tmp_path / "out" / "settings.json")
    assert trained["settings"]["workers"] == result["settings"]["workers"]


@pytest.mark.exhaustive
def test_memory_that_nothing_fits(tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows")
    with pytest.raises(Refusal, match="no set-up of the same result fits the memory"):
        hotlap.tune(target, out=tmp_path / "out", budget=60, max_memory=50 * 2**20, threads=1, device="cpu")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_fields_that_tuning_needs(tmp_path: Path) -> None:
    add = "\nimport dataclasses\nworkload = dataclasses.replace(workload, loss=None)\n"
    with pytest.raises(WorkloadError, match="hotlap tune needs `loss`"):
        hotlap.tune(trainable.write(tmp_path, "rows", add=add), out=tmp_path / "out", threads=1, device="cpu")


@pytest.mark.parametrize(
    ("text", "count"), [("4G", 4 * 2**30), ("900M", 900 * 2**20), ("1.5GiB", 3 * 2**29), ("2kb", 2048), ("77", 77)]
)
def test_sizes(text: str, count: Any) -> None:
    assert byte_count(text, "--max-memory") == count


@pytest.mark.parametrize("text", ["", "4X", "-1G", "0"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(InputError, match="not a size; write it as 4G or 900M"):
        byte_count(text, "--max-memory")


@pytest.mark.exhaustive
@pytest.mark.timeout(1200)
def test_what_is_faster_is_proven_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = "\nimport dataclasses\nworkload = dataclasses.replace(workload, epochs=6)\n"
    target = trainable.write(tmp_path, "rows", add=SLOW_DATA + more)
    words = ["tune", target, "--out", str(tmp_path / "out"), "--budget", "100s", "--threads", "1", "--device", "cpu"]
    assert run([*words, "--prove", "short", "--prove-budget", "120s", "--quiet", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert violations(result) == []
    assert result["proof"] == "short"
    trial = result["proof_details"]["trials"][-1]
    assert trial["answer"] == "as good"
    assert trial["seeds"] >= 5
    assert trial["worse_by"]["high"] < trial["margin"] == 0.05
    assert "Does it train as well?" in (tmp_path / "out" / "report.html").read_text()


def test_a_proof_that_there_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tune", "none.py", "--out", str(tmp_path / "out"), "--prove", "long"]) == 2
    assert capsys.readouterr().err == "hotlap: --prove long: give one of short, full, none\n"


@pytest.mark.exhaustive
@pytest.mark.timeout(1200)
def test_what_was_found_is_kept_when_its_proof_is_interrupted(tmp_path: Path) -> None:
    def interrupt(event: Any) -> None:
        if str(event.get("phase", "")).startswith("proof of"):
            raise KeyboardInterrupt

    out, target = tmp_path / "out", trainable.write(tmp_path, "rows", add=SLOW_DATA)
    with pytest.raises(KeyboardInterrupt):
        hotlap.tune(target, out=out, budget=150, threads=1, device="cpu", prove="short", progress=interrupt)
    kept = json.loads((out / "result.json").read_text())
    assert kept["confirmed"]
    assert kept["proof"] == "pending"
    assert json.loads((out / "settings.json").read_text())["settings"] == kept["settings"]


@pytest.mark.exhaustive
@pytest.mark.timeout(1200)
def test_an_interrupted_search_confirms_what_was_best_by_then(tmp_path: Path) -> None:
    def interrupt(event: Any) -> None:
        if event["event"] == "done" and event["status"] == "passed":
            raise KeyboardInterrupt

    out, target = tmp_path / "out", trainable.write(tmp_path, "rows", add=SLOW_DATA)
    result = hotlap.tune(target, out=out, budget=150, threads=1, device="cpu", progress=interrupt)
    assert result["confirmed"]
    assert result["proof"] == "pending"
    assert [one["status"] for one in result["candidates"]].count("chosen") == 1
    assert "the tuning was interrupted" in {one.get("reason") for one in result["candidates"]}
    assert json.loads((out / "settings.json").read_text())["settings"] == result["settings"]
