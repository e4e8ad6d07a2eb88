"""`verify`: what an artifact claims is reached again from its evidence, and every lie is found."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_artifact import GOLDEN, make, reseal, write_onnx

from hotlap import gate
from hotlap.actions.verify import verify
from hotlap.cli.main import run
from hotlap.core import Candidate, Start, to_json
from hotlap.errors import TargetError
from hotlap.measure import statistics

NAMES = ["intact", "trusted", "fresh", "same answers", "verdict", "speedup"]
NUMBERS = np.random.default_rng(5)
ORIGINAL = (NUMBERS.random(2000) < 0.9).astype(float)
SLICES = [("even", "odd")[index % 2] for index in range(2000)]
STARTS = [
    Start(baseline_ms=tuple(2.0 * NUMBERS.normal(1, 0.01, 10)), candidate_ms=tuple(1.0 * NUMBERS.normal(1, 0.01, 10)))
    for _ in range(4)
]


def evidence(verdict, **changes) -> dict:
    speedup = to_json(statistics.speedup(STARTS))
    found = {
        "starts": [to_json(start) for start in STARTS],
        "original_scores": ORIGINAL.tolist(),
        "scores": ORIGINAL.tolist(),
        "original_rows": None,
        "rows": None,
        "slices": None,
        "differences": {"y": 1e-6},
        "same_class": 1990,
        "compared": 2000,
        "max_drop": 0.01,
        "confidence": 0.95,
        "noise_floor": 0.02,
        "verdict": to_json(verdict),
        "speedup": speedup,
    }
    return {**found, **changes}


def int8_scores() -> np.ndarray:
    scores = ORIGINAL.copy()
    scores[np.flatnonzero(scores == 1)[:3]] = 0
    return scores


def by_drop():
    """An int8 candidate that lost three examples."""
    scores = int8_scores()
    verdict = gate.judge_drop(
        ORIGINAL, scores, max_drop=0.01, confidence=0.95, slices=SLICES, bounds=gate.score_bounds(ORIGINAL)
    )
    return {"same_numbers": False, "precision": "int8"}, evidence(verdict, scores=scores.tolist(), slices=SLICES)


def by_equivalence():
    return {}, evidence(gate.judge_equivalence({"y": 1e-6}, 1e-3))


def by_agreement():
    verdict = gate.judge_agreement(1e-6, 1990, 2000, max_drop=0.05, confidence=0.95)
    return {"same_numbers": False, "precision": "int8"}, evidence(
        verdict, scores=None, original_scores=None, max_drop=0.05
    )


RULES = {"drop": by_drop, "equivalence": by_equivalence, "agreement": by_agreement}


@pytest.fixture
def artifact(tmp_path: Path, request) -> Path:
    """An artifact whose evidence is of one of the rules (`drop` unless said)."""
    write_onnx(tmp_path / "model.onnx")
    kind, found = RULES[getattr(request, "param", "drop")]()
    return make(
        tmp_path / "artifact",
        "onnxruntime",
        {"model.onnx": tmp_path / "model.onnx"},
        candidate=Candidate(**{"runtime": "onnxruntime", "threads": 1, "name": "tiny, quick", **kind}),
        golden=GOLDEN,
        evidence=found,
        result={"speedup": found["speedup"], "verdict": found["verdict"]},
    )


def outcomes(result) -> dict[str, str]:
    return {check["name"]: check["outcome"] for check in result["checks"]}


def detail(result, name: str) -> str:
    return next(check["detail"] for check in result["checks"] if check["name"] == name)


@pytest.mark.parametrize("artifact", RULES, indirect=True)
def test_an_honest_artifact_passes(artifact):
    result = verify(artifact)
    assert outcomes(result) == dict.fromkeys(NAMES, "passed"), result
    assert result["passed"]
    assert (result["kind"], result["workload"], result["candidate"]) == ("verify", "tiny", "tiny, quick")
    assert result["trust"] == "made here"
    assert detail(result, "intact").startswith("7 files, 0.")
    assert detail(result, "fresh").endswith("never expires")
    assert detail(result, "same answers").startswith("3 golden calls, off by ")
    assert detail(result, "speedup").startswith("2.0")
    assert detail(result, "speedup").endswith("over 4 starts")
    json.dumps(result)


def test_the_core_install_is_enough(artifact):
    script = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('scipy', 'torch', 'onnx', 'nncf')))\n"
        "from hotlap.actions.verify import verify\n"
        f"found = verify({str(artifact)!r})\n"
        "assert all(check['outcome'] == 'passed' for check in found['checks']), found\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def lie(artifact: Path, name: str, change) -> None:
    """Change the evidence or the result, and make all digests right again."""
    path = artifact / "evidence.json"
    found = json.loads(path.read_bytes())
    if name == "evidence":
        change(found)
        path.write_bytes(json.dumps(found).encode())
    reseal(artifact, (lambda manifest: change(manifest["result"])) if name == "result" else None)


@pytest.mark.parametrize(
    ("where", "change", "failing", "reason"),
    [
        (
            "result",
            lambda r: r["speedup"].update(estimate=3.0),
            "speedup",
            r"says 2\.\d+x .*, its manifest 3",
        ),
        ("result", lambda r: r["speedup"].update(low=1.999), "speedup", "its evidence says 2"),
        ("result", lambda r: r["verdict"]["drop"].update(high=0.0), "verdict", "says otherwise"),
        ("result", lambda r: r["verdict"]["drop"].update(lost=0), "verdict", "says otherwise"),
        ("result", lambda r: r["verdict"].update(passed=False), "verdict", "its own verdict is that it must not"),
        (
            "result",
            lambda r: r["verdict"].update(rule="equivalence"),
            "verdict",
            "says otherwise than its manifest",
        ),
        ("result", lambda r: r.update(verdict=None), "verdict", "its manifest claims no verdict"),
        (
            "evidence",
            lambda e: e["scores"].__setitem__(slice(0, 500), [0.0] * 500),
            "verdict",
            "evidence says no",
        ),
        ("evidence", lambda e: e.update(starts=e["starts"][:3]), "speedup", "its evidence says 2"),
        ("evidence", lambda e: e.update(starts=[]), "speedup", "claims 2.0.x, but its evidence holds no times"),
        ("evidence", lambda e: e.update(scores=[], original_scores=[], slices=[]), "verdict", "can't be judged: "),
        ("evidence", lambda e: e.update(slices=None), "verdict", "says otherwise"),
    ],
)
def test_every_lie_is_found(artifact, where, change, failing, reason):
    lie(artifact, where, change)
    result = verify(artifact)
    assert not result["passed"]
    assert outcomes(result) == {**dict.fromkeys(NAMES, "passed"), failing: "failed"}
    assert re.search(reason, detail(result, failing))
    assert result["trust"] == "digests only"


def test_the_interval_is_of_the_confidence_that_its_try_had_or_of_what_all_had_once(artifact):
    def claim(confidence: float) -> None:
        interval = to_json(statistics.speedup(STARTS, confidence=confidence))
        lie(artifact, "result", lambda result: result.update(speedup=interval))

    lie(artifact, "evidence", lambda found: found.update(confidence=0.99))
    earlier = detail(verify(artifact), "speedup")
    assert earlier.endswith("over 4 starts, at 95% confidence, as earlier versions told it")
    claim(0.99)
    assert detail(verify(artifact), "speedup").endswith("over 4 starts")
    claim(0.97)
    assert outcomes(verify(artifact))["speedup"] == "failed"


@pytest.mark.parametrize("confidence", [0.5, 0.9, 1.0])
def test_a_confidence_that_no_search_works_at_is_refused(artifact, confidence):
    lie(artifact, "evidence", lambda found: found.update(confidence=confidence))
    result = verify(artifact)
    assert outcomes(result) == {**dict.fromkeys(NAMES, "passed"), "verdict": "failed", "speedup": "failed"}
    assert "not a number from 0.95 to 0.9999" in detail(result, "speedup")


def test_evidence_that_cannot_be_read_fails_what_rests_on_it(artifact):
    (artifact / "evidence.json").write_bytes(b"{}")
    reseal(artifact)
    result = verify(artifact)
    assert outcomes(result) == {**dict.fromkeys(NAMES, "passed"), "verdict": "failed", "speedup": "failed"}
    assert detail(result, "verdict") == "evidence.json: there is no 'starts'"


def test_a_metric_of_the_workloads_own_is_not_claimed_to_be_checked(artifact):
    rows = [[1, 0]] * 2000
    lie(artifact, "evidence", lambda e: e.update(scores=None, original_scores=None, rows=rows, original_rows=rows))
    result = verify(artifact)
    assert outcomes(result)["verdict"] == "not done"
    assert detail(result, "verdict") == "only the workload's own metric can reach it again"
    assert result["passed"]


def test_nothing_is_asked_of_what_is_not_intact(artifact):
    (artifact / "report.html").write_bytes(b"changed")
    result = verify(artifact)
    assert outcomes(result) == {"intact": "failed", **dict.fromkeys(NAMES[1:], "not done")}
    assert "report.html is 7 bytes long, its manifest says 34" in detail(result, "intact")
    assert not result["passed"]


def test_each_failure_is_told(artifact):
    def age(manifest):
        manifest.update(created="2020-01-01T00:00:00Z", expires="2020-02-01T00:00:00Z")
        manifest["result"]["speedup"]["estimate"] = 9.0

    reseal(artifact, age)
    result = verify(artifact, trust="signed")
    assert [name for name, outcome in outcomes(result).items() if outcome == "failed"] == [
        "trusted",
        "fresh",
        "speedup",
    ]
    allowed = verify(artifact, allow_expired=True)
    assert outcomes(allowed)["fresh"] == "passed"


def test_code_that_nobody_vouches_for_is_not_run(tmp_path):
    (tmp_path / "model.pt2").write_bytes(b"PK\x03\x04")
    artifact = make(tmp_path / "artifact", "eager", {"model.pt2": tmp_path / "model.pt2"})
    reseal(artifact)
    result = verify(artifact)
    assert (outcomes(result)["trusted"], outcomes(result)["same answers"]) == ("failed", "not done")
    assert detail(result, "same answers") == "it is code that is not trusted"


def test_what_is_not_there(tmp_path):
    with pytest.raises(TargetError, match="there is no such artifact"):
        verify(tmp_path / "none")


def test_the_command_prints_each_check_and_leaves_with_its_answer(artifact, capsys):
    assert run(["verify", str(artifact)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:14].strip() for line in lines[:6]] == NAMES
    assert lines[6] == f"{artifact}: tiny as tiny, quick, made here"
    (artifact / "model.onnx").write_bytes(b"")
    assert run(["verify", str(artifact)]) == 3
    assert "artifact failed 'intact': " in capsys.readouterr().err
    assert run(["verify", str(artifact / "none")]) == 2


def test_json_is_one_document_and_the_exit_code_stays(artifact, capsys):
    assert run(["verify", str(artifact), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passed"]
    reseal(artifact)
    assert run(["verify", str(artifact), "--json", "--trust", "made here"]) == 3
    answer = json.loads(capsys.readouterr().out)
    assert not answer["passed"]
    assert run(["verify", str(artifact), "--trust", "everyone"]) == 2
    assert "--trust everyone: give one of signed, made here" in capsys.readouterr().err


def test_what_an_artifact_says_cannot_steer_the_terminal(artifact, capsys):
    lie(artifact, "evidence", lambda e: e["slices"].__setitem__(0, "\x1b[2J"))
    assert run(["verify", str(artifact)]) == 3
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err
