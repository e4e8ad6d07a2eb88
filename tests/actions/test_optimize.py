"""The whole way: a workload goes in; artifact, result and report come out, whatever happens on the way."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import known_limits
import models
import numpy as np
import psutil
import pytest
import torch
import trainable
from safetensors.torch import load_file

import hotlap
import hotlap.actions.optimize as optimizing
from hotlap.cli.main import run
from hotlap.report.schema import schema
from hotlap.workload.target import load_target

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(autouse=True)
def limits_are_known(own_home: Path) -> None:
    known_limits.plant(own_home, 1)


QUICK = ["--threads", "1", "--batch", "2", "--skip", "static_int8", "--skip", "nncf_int8", "--budget", "240s"]
"""Few candidates, so that the search ends before its budget."""


def events(out: Path, kind: str = "") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    return [line for line in lines if not kind or line["event"] == kind]


def result_of(out: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((out / "result.json").read_text())
    jsonschema.validate(result, schema())
    return result


def test_from_a_workload_to_an_artifact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, out = models.write(tmp_path, "convolutions"), tmp_path / "out"
    code = run(["optimize", target, "--out", str(out), "--only", "onnxruntime", "--skip", "int8", "--json",
                "--max-drop", "0.2", *QUICK])  # fmt: skip
    printed = json.loads(capsys.readouterr().out)
    result = result_of(out)
    assert code == 0
    assert printed == result
    assert result["confirmed"]
    assert result["best"]["runtime"] == "onnxruntime"
    assert result["best"]["speedup"]["low"] > 1 + result["noise_floor"]
    assert result["examples"]["confirmation"] > result["examples"]["selection"] > 0
    assert {path.name for path in out.iterdir()} == {
        ".lock",
        "artifact",
        "journal.jsonl",
        "report.html",
        "result.json",
    }
    assert {event["event"] for event in events(out)} >= {"begin", "candidate", "finalists", "confirmation", "end"}

    loaded = hotlap.load(out / "artifact")
    images = np.random.default_rng(0).standard_normal((5, 3, 16, 16)).astype(np.float32)
    assert loaded(images).shape == (5, 10)
    assert run(["verify", str(out / "artifact")]) == 0
    assert run(["optimize", target, "--out", str(out), "--budget", "240s"]) == 2
    assert "go on with --resume, start over with --force" in capsys.readouterr().err


def test_when_nothing_may_be_lost_the_original_stays_and_the_nearest_miss_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, out = models.write(tmp_path, "convolutions"), tmp_path / "out"
    # 40 examples can't prove that as little as 0.001 was lost, however good a candidate is.
    code = run(["optimize", target, "--out", str(out), "--only", "dynamic_int8",
                "--max-drop", "0.001", *QUICK])  # fmt: skip
    result = result_of(out)
    assert code == 3
    assert not result["confirmed"]
    assert result["best"]["name"] == result["baseline"]["name"]
    assert result["best"]["artifact"] == "artifact"
    assert {candidate["status"] for candidate in result["candidates"]} <= {
        "rejected",
        "skipped",
        "dropped",
        "failed",
    }
    assert all(candidate["reason"] for candidate in result["candidates"])
    if any(candidate["status"] == "rejected" for candidate in result["candidates"]):
        assert result["nearest_miss"]["reason"]
    assert "Traceback" not in capsys.readouterr().err
    images = np.zeros((3, 3, 16, 16), np.float32)
    assert hotlap.load(out / "artifact")(images).shape == (3, 10)


def test_a_model_too_slow_for_the_budget_is_told_with_what_one_candidate_takes() -> None:
    assert optimizing._too_slow(0.001, 10.0) == []
    (told,) = optimizing._too_slow(4.0, 10.0)
    assert told.startswith("10 s of the budget were left once the original was loaded and timed")
    assert "calls of 4 s" in told
    assert "give more --budget" in told


def test_a_profile_that_takes_too_long_is_a_warning_and_the_search_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimizing, "_LEAST_PROFILE_SHARE", 0.0)
    monkeypatch.setattr(optimizing, "_PROFILE_SHARE", 0.0)
    target, out = models.write(tmp_path, "convolutions"), tmp_path / "out"
    code = run(["optimize", target, "--out", str(out), "--only", "onnxruntime", "--skip", "int8",
                "--max-drop", "0.2", *QUICK, "--budget", "30s"])  # fmt: skip
    result = result_of(out)
    assert code in (0, 3)
    assert [one for one in result["warnings"] if one.startswith("the original was not profiled: no answer within 0 s")]
    assert any(candidate.get("median_ms") for candidate in result["candidates"])
    assert (out / "report.html").exists()


def start(target: str, out: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "hotlap", "optimize", target, "--out", str(out),
               "--max-drop", "0.2", "--only", "onnxruntime", *QUICK, *more]  # fmt: skip
    # Where the tests run in the background the shell has them ignore Ctrl-C, and children inherit that.
    return subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def until_candidates(process: subprocess.Popen[bytes], out: Path, count: int) -> None:
    while process.poll() is None:
        if (out / "journal.jsonl").exists() and len(events(out, "candidate")) >= count:
            return
        os.sched_yield()
    raise AssertionError(process.communicate()[1].decode())


def test_a_killed_run_is_taken_up_and_builds_nothing_again(tmp_path: Path) -> None:
    target, out = models.write(tmp_path, "convolutions"), tmp_path / "out"
    process = start(target, out)
    until_candidates(process, out, 2)
    below = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    assert psutil.wait_procs(below, timeout=5)[1] == []
    assert not (out / "result.json").exists()
    assert not (out / "artifact").exists()
    before = [event["key"] for event in events(out, "candidate")]

    assert run(["optimize", target, "--out", str(out), "--seed", "7", "--resume"]) == 2
    again = start(target, out, "--resume")
    assert again.communicate()[1] is not None
    assert again.returncode == 0
    keys = [event["key"] for event in events(out, "candidate")]
    assert keys[: len(before)] == before
    assert len(set(keys)) == len(keys)
    assert result_of(out)["confirmed"]


def test_ctrl_c_keeps_what_was_done(tmp_path: Path) -> None:
    target, out = models.write(tmp_path, "convolutions"), tmp_path / "out"
    process = start(target, out)
    until_candidates(process, out, 1)
    second = run(["optimize", target, "--out", str(out), "--force"])
    process.send_signal(signal.SIGINT)
    error = process.communicate()[1].decode()
    assert second == 2
    assert process.returncode == 130
    assert "interrupted; what was done so far is kept" in error
    assert "Traceback" not in error
    assert events(out, "candidate")


CRASHING = models.CONVOLUTIONS.replace(
    "    return (outputs.argmax(1) == labels).float()\n",
    """
    import os

    # Whoever gives other numbers than the model itself dies of being scored.
    away = (outputs[:, None] - seeded(Net)(data(2)[0])).abs().amax(2).amin(1)
    if away.max() > 1e-5:
        os.abort()
    return (outputs.argmax(1) == labels).float()
""",
)
assert CRASHING != models.CONVOLUTIONS


def test_candidates_whose_process_dies_are_rows_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "crashing.py").write_text(CRASHING)
    out = tmp_path / "out"
    command = [
        "optimize",
        str(tmp_path / "crashing.py"),
        "--out",
        str(out),
        "--only",
        "onnxruntime",
        "--max-drop",
        "0.2",
    ]
    run(
        [
            *command,
            "--skip",
            "dynamic_int8",
            "--skip",
            "static_int8",
            "--threads",
            "1",
            "--batch",
            "2",
            "--budget",
            "240s",
        ]
    )
    result = result_of(out)
    failed = [c for c in result["candidates"] if c["status"] == "failed"]
    assert failed
    assert all("SIGABRT" in candidate["reason"] for candidate in failed)
    assert any(candidate["status"] == "chosen" for candidate in result["candidates"])


def test_agreement_where_there_is_no_evaluation(tmp_path: Path) -> None:
    out = tmp_path / "out"
    hotlap.optimize(
        models.write(tmp_path, "nested"), out=out, budget=240.0, only=["onnxruntime"], skip=["int8"], threads=1, batch=2
    )
    result = result_of(out)
    assert result["accuracy"] == "agreement"
    assert result["best"]["gate"] in ("agreement", "equivalence")
    loaded = hotlap.load(out / "artifact")
    answer = loaded(ids=np.ones((3, 7), np.int64), weights=np.ones((3, 7), np.float32))
    assert answer["scores"].shape == (3, 4)
    assert answer["rest"][1].shape == (3, 7, 32)


def test_what_was_trained_is_what_is_optimized(tmp_path: Path) -> None:
    target, trained, out = trainable.write(tmp_path, "rows"), tmp_path / "trained", tmp_path / "out"
    hotlap.train(target, out=trained, settings={"epochs": 1}, threads=1, device="cpu")
    hotlap.optimize(f"{target}@{trained}", out=out, budget=1.0, only=["onnxruntime"], skip=["int8"], threads=1, batch=2)
    rows = torch.randn(5, 6, generator=torch.Generator().manual_seed(4))
    model = load_target(target).workload.model()
    fresh = model(rows).detach().numpy()
    model.load_state_dict(load_file(trained / "model.safetensors"))
    answers = hotlap.load(out / "artifact")(rows.numpy())
    np.testing.assert_allclose(answers, model(rows).detach().numpy(), atol=1e-4)
    assert np.abs(answers - fresh).max() > 0.05


DYING = models.CONVOLUTIONS.replace(
    "    def forward(self, image):",
    """    def forward(self, image):
        if die.exists() and any(frame.filename.endswith("timing.py") for frame in traceback.extract_stack()):
            die.unlink()
            os.abort()""",
).replace(
    "class Net",
    """
import os, traceback
from pathlib import Path
die = Path(__file__).with_suffix(".die")

class Net""",
)
"""Where a file says so its process dies while it is timed."""


def test_an_original_that_dies_while_it_is_timed_costs_one_candidate_its_turn(tmp_path: Path) -> None:
    (tmp_path / "dying.py").write_text(DYING)
    out = tmp_path / "out"
    process = start(str(tmp_path / "dying.py"), out)
    until_candidates(process, out, 1)
    (tmp_path / "dying.die").touch()
    assert process.communicate()[1] is not None
    assert process.returncode == 0
    result = result_of(out)
    told = "the original's process ended while this was timed against it, so that it tells nothing; --resume tries it"
    (lost,) = [one for one in result["candidates"] if told in one.get("reason", "")]
    assert lost["status"] == "skipped"
    assert "SIGABRT" in lost["reason"]
    assert lost["name"] not in [event["candidate"]["name"] for event in events(out, "candidate")]
    assert result["confirmed"]


@pytest.mark.parametrize(
    ("metric", "options", "message"),
    [
        ("lambda rows: 'high'", [], "the workload's `metric` must give one number; it gave a str"),
        ("lambda rows: 1 / 0", [], "ZeroDivisionError"),
        ("lambda rows: 500.0", [], "--max-drop is needed"),
        ("lambda rows: 0.5", ["--max-drop", "nan"], "--max-drop nan"),
    ],
)
def test_what_judges_is_tried_on_the_original_first_and_a_refused_run_leaves_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], metric: str, options: list[str], message: str
) -> None:
    """The allowed drop is one of the metric's own unit, for which 0.01 means nothing where it reads 500."""
    target, out = models.write(tmp_path, "convolutions"), tmp_path / "out"
    with Path(target).open("a") as file:
        file.write(f"\nimport dataclasses\nworkload = dataclasses.replace(workload, metric={metric})\n")
    assert run(["optimize", target, "--out", str(out), *options, *QUICK]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_candidates_that_had_no_turn_are_told_where_the_original_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    hotlap.optimize(
        models.write(tmp_path, "convolutions"), out=out, budget=1.0, only=["onnxruntime"], threads=1, batch=2
    )
    result = result_of(out)
    assert not result["confirmed"]
    untried = sum("before its turn" in candidate.get("reason", "") for candidate in result["candidates"])
    assert untried > 0
    assert any(warning.startswith(f"{untried} of ") for warning in result["warnings"])
