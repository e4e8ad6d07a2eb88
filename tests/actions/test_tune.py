"""`tune` as a person calls it, on a model that takes a moment a step."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trainable

import hotlap
from hotlap.actions import tune
from hotlap.actions.train import describe
from hotlap.cli.main import run
from hotlap.cli.options import byte_count
from hotlap.core import Start
from hotlap.errors import InputError, Refusal, WorkloadError
from hotlap.machine.facts import facts
from hotlap.report.schema import violations
from hotlap.training.bench import Bench
from hotlap.training.confirming import Found
from hotlap.training.proof_trial import Kind, Plan
from hotlap.training.settings import Settings

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
        if event["event"] == "done" and event["name"] == "2 loader processes":
            raise KeyboardInterrupt

    out, target = tmp_path / "out", trainable.write(tmp_path, "rows", add=SLOW_DATA)
    result = hotlap.tune(target, out=out, budget=150, threads=1, device="cpu", progress=interrupt)
    assert result["confirmed"]
    assert result["proof"] == "pending"
    assert [one["status"] for one in result["candidates"]].count("chosen") == 1
    assert "the tuning was interrupted" in {one.get("reason") for one in result["candidates"]}
    assert json.loads((out / "settings.json").read_text())["settings"] == result["settings"]


def test_what_tune_chooses_is_not_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tune", trainable.write(tmp_path, "rows"), "--out", str(tmp_path / "out")]
    assert run([*words, "--set", "precision=bf16"]) == 2
    said = capsys.readouterr().err
    assert "settings: precision is tune's to choose, or for hotlap train; tune takes what is learnt: batch_size" in said
    assert run([*words, "--set", "seed=1"]) == 2
    assert "settings: seed has an option of its own; give --seed" in capsys.readouterr().err
    assert run([*words, "--set", "momentum=1"]) == 2
    assert "settings: there is no 'momentum'; there are batch_size, epochs" in capsys.readouterr().err
    assert run([*words, "--set", "clip=-1"]) == 2
    assert "settings: clip is -1; give a norm above 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.exhaustive
@pytest.mark.timeout(1200)
def test_what_is_learnt_is_timed_and_handed_over(tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows", add=SLOW_DATA)
    wanted = {"clip": 0.5, "ema": 0.9, "schedule": "cosine", "warmup": 2, "batch_size": 8}
    result = hotlap.tune(target, out=tmp_path / "out", settings=wanted, budget=100, threads=1, device="cpu")
    assert result["confirmed"]
    assert result["batch"] == 8
    trained = hotlap.train(target, out=tmp_path / "trained", settings=tmp_path / "out" / "settings.json")
    assert wanted.items() <= trained["settings"].items()


@pytest.mark.parametrize("given", [{"prove_margin": 0.0}, {"prove_budget": 0}, {"prove_margin": float("nan")}])
def test_proofs_of_nothing_are_refused(given: Any, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"prove_(margin|budget) is (0|0\.0|nan); give a number above 0, or leave it out"
    ):
        hotlap.tune("none.py", out=tmp_path / "out", prove="short", **given)


def test_a_proof_that_is_none_is_refused_before_the_search(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="prove is 'medium'; give one of short, full, none"):
        hotlap.tune("none.py", out=tmp_path / "out", prove="medium")  # type: ignore[arg-type]


OWN = Settings(threads=1)
STUDY: dict[str, Any] = {
    "name": "rows", "locked": ["batch_size"], "trim": None, "at_once": None, "kernels": None, "length_buckets": None,
    "optimizer": "AdamW", "parameters": 10,
    "warnings": [],
}  # fmt: skip


def found(best: Settings, *, rows: float = 64, loading_share: float = 0.1) -> Found:
    held = {"loading_share": loading_share, "peak_memory_bytes": 2**20, "rows_a_step": rows}
    start = Start(baseline_ms=(100.0,) * 4, candidate_ms=(90.0,) * 4)
    return Found(
        baseline=OWN, best=best, rows=[], noise_floor=0.01, starts=(start,), speedup=None, baseline_ms=100.0,
        baseline_held=held, best_held=held,
    )  # fmt: skip


def bench(folder: Path, target: str = "none.py") -> Bench:
    return Bench(
        target=target, study=STUDY, memory_limit=None, work=folder, deadline=time.monotonic(), compiler=False,
        other_batch_sizes=False, tell=lambda event: None,
    )  # fmt: skip


def planned(folder: Path, kind: Kind, seconds: float, tell: Any = lambda event: None) -> Plan:
    return Plan(
        kind=kind, seconds=seconds, margin=None, seed=0, all_examples=800, memory_limit=None, work=folder, tell=tell
    )


def test_a_proof_is_planned_by_the_batches_that_a_loader_gives(tmp_path: Path) -> None:
    # 5 seeds of 100 steps of 8 on both sides; of 64 they would fit.
    best = found(replace(OWN, fused=True), rows=8)
    left, proven = tune._proven(bench(tmp_path), best, planned(tmp_path, "full", 60), lambda found, proven: None)
    assert left.best == OWN
    assert "5 seeds on both sides take about 95 s, and 60 s were given" in proven["trials"][0]["reason"]
    result = tune._result(best, STUDY, facts(), time.monotonic(), None)
    assert result["batch"] == 8
    assert tune._result(best, {**STUDY, "locked": []}, facts(), time.monotonic(), None)["batch"] == 64


@pytest.mark.parametrize(("steps", "examples"), [(20, 20 * 50 * 3), (None, None)])
def test_a_training_is_as_long_as_its_sampler_says(steps: int | None, examples: int | None) -> None:
    own = found(replace(OWN, epochs=3), rows=50)
    study = {**STUDY, "examples": 100_000, "steps": steps}
    long = replace(own, baseline=replace(OWN, epochs=3))
    assert tune._all_examples(long, study, "full") == tune._all_examples(long, study, "short") == examples
    early = replace(own, baseline=replace(OWN, epochs=3, early_stop=1))
    assert tune._all_examples(early, study, "full") is None
    assert tune._all_examples(early, study, "short") == examples


def test_another_batch_size_alone_is_a_change(tmp_path: Path) -> None:
    result = tune._result(found(replace(OWN, batch_size=128)), STUDY, facts(), time.monotonic(), None)
    assert result["baseline"]["name"] == "fp32"
    assert result["best"]["name"] == "fp32, batches of 128"
    assert describe(replace(OWN, pin=True), beside=OWN) == "fp32, pinned memory"


@pytest.mark.parametrize(("share", "bound_by"), [(0.1, "compute"), (0.6, "data loading")])
def test_what_bounds_a_step_is_what_takes_most_of_it(share: float, bound_by: str) -> None:
    result = tune._result(found(replace(OWN, fused=True), loading_share=share), STUDY, facts(), time.monotonic(), None)
    assert (result["baseline"]["bound_by"], result["best"]["bound_by"]) == (bound_by, bound_by)


NO_HALF = """
_whole = Net.forward
def _fail(gradient):
    raise ValueError("no bf16 here " * 100)
def _no_half(self, rows):
    outputs = _whole(self, rows)
    if torch.is_autocast_enabled("cpu"):
        outputs.register_hook(_fail)
    return outputs
Net.forward = _no_half
"""
"""An error out of the backward pass, with much to say."""


@pytest.mark.slow
def test_what_a_trial_did_not_show_is_given_up_before_the_next(tmp_path: Path) -> None:
    kept: list[tuple[Found, Any]] = []

    def interrupt(event: Any) -> None:
        if event["phase"].startswith("proof of fp32"):
            raise KeyboardInterrupt

    target = trainable.write(tmp_path, "rows", add=NO_HALF)
    best, plan = found(replace(OWN, precision="bf16", fused=True)), planned(tmp_path, "short", 300, interrupt)
    with pytest.raises(KeyboardInterrupt):
        tune._proven(bench(tmp_path, target), best, plan, lambda found, proven: kept.append((found, proven)))
    ((given_up, proven),) = kept
    assert given_up.best == OWN
    (trial,) = proven["trials"]
    assert "failed at seed 0: the workload's `loss` raised ValueError: no bf16 here" in trial["reason"]
    assert len(trial["reason"]) < 400
    assert given_up.dropped_because == f"bf16, fused: {trial['reason']}"
