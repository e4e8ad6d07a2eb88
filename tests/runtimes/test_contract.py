"""One suite for every runtime and technique in the tables, against eager fp32."""

import json
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest

from hotlap import forms, runtimes, techniques
from hotlap.core import TOLERANCE, Candidate, to_json
from hotlap.machine import facts as machine
from hotlap.search.space import build_space
from hotlap.search.work import building, checking, holding, opening, scoring
from hotlap.techniques import ModelFacts

# NNCF and ONNX Runtime's quantizer warn of their own dependencies' coming changes.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]


def first_of_each_chain() -> list[Candidate]:
    """The plainest candidate of every runtime and chain of techniques, so that a new file is found by itself."""
    facts = ModelFacts(
        layers={"Conv2d": 2, "Linear": 1, "LSTM": 1}, input_ranks=(4,), has_calibration=True,
        int8_overflows=machine.facts().int8_overflows,
    )  # fmt: skip
    space = build_space(facts, threads=1, fixed_axes={"batch": 2}, unavailable={})
    found: dict[Any, Candidate] = {}
    for candidate in space.candidates:
        chain = candidate.runtime, tuple(step.technique for step in candidate.steps)
        options = dict(candidate.options)
        found.setdefault((*chain, options.get("static"), options.get("micro_batch")), candidate)
    return list(found.values())


CANDIDATES = first_of_each_chain()


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("contract")
    return {"target": models.write(folder, "convolutions"), "work": str(folder / "work")}


def test_the_suite_sees_every_runtime_and_every_cpu_technique() -> None:
    assert {candidate.runtime for candidate in CANDIDATES} == set(runtimes.RUNTIMES)
    used = {step.technique for candidate in CANDIDATES for step in candidate.steps}
    assert used == set(techniques.TECHNIQUES) - {"fp16"}


@pytest.mark.parametrize("candidate", CANDIDATES, ids=lambda candidate: candidate.name)
def test_builds_loads_and_gives_the_models_numbers(candidate: Candidate, state: dict[str, Any]) -> None:
    shared = {"target": state["target"], "threads": 1}
    process: dict[str, Any] = {}
    built = building.build(process, candidate=to_json(candidate), work=state["work"], seed=0, **shared)
    check = checking.check(process, candidate=to_json(candidate), built=built["folder"], batch=2, **shared)
    assert check["row_dependence"] <= TOLERANCE[candidate.precision]
    found = scoring.confirm(
        process, candidate=to_json(candidate), built=built["folder"], work=state["work"], seed=0,
        roles=["selection", "confirmation"], max_drop=None, confidence=0.95, **shared,
    )  # fmt: skip
    assert max(found["differences"].values()) <= TOLERANCE[candidate.precision]
    assert found["compared"] == 64
    assert len(found["scores"]) == 64
    assert built["bytes"] == sum((Path(built["folder"]) / name).stat().st_size for name in built["files"])


@pytest.mark.parametrize("name", sorted(runtimes.RUNTIMES))
def test_says_where_the_time_goes(name: str, state: dict[str, Any]) -> None:
    candidate = next(c for c in CANDIDATES if c.runtime == name and not c.steps)
    process: dict[str, Any] = {}
    built = building.build(
        process, target=state["target"], candidate=to_json(candidate), work=state["work"], seed=0, threads=1
    )
    opened = process.get("opened") or opening.opened_workload(process, state["target"], 1)
    operations = holding.operations(
        process, candidate=to_json(candidate), built=built["folder"], signature=to_json(opened.signature),
        arrays=opened.example_arrays(2), calls=3,
    )  # fmt: skip
    assert sum(operation["ms"] for operation in operations) > 0
    assert [operation["ms"] for operation in operations] == sorted((o["ms"] for o in operations), reverse=True)


def test_a_built_candidate_is_not_built_again(state: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    candidate = next(c for c in CANDIDATES if c.runtime == "onnxruntime" and not c.steps)
    arguments = {"target": state["target"], "candidate": to_json(candidate), "work": state["work"], "seed": 0}
    first = building.build({}, **arguments, threads=1)
    monkeypatch.setattr(forms, "lower", None)
    assert building.build({}, **arguments, threads=1) == first


@pytest.mark.parametrize("model", ["nested", "lstm"])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("technique", ["", "dynamic_int8", "nncf_int8"])
def test_other_models_and_lengths(model: str, runtime: str, technique: str, tmp_path: Path) -> None:
    facts = ModelFacts(
        layers={"Linear": 1, "LSTM": 1}, input_ranks=(3,), has_calibration=True,
        int8_overflows=machine.facts().int8_overflows,
    )  # fmt: skip
    space = build_space(facts, threads=1, fixed_axes={"batch": 2}, unavailable={})
    chosen = [
        c for c in space.candidates
        if c.runtime == runtime and [step.technique for step in c.steps] == list(filter(None, [technique]))
    ]  # fmt: skip
    if not chosen:
        assert (runtime, technique) == ("openvino", "dynamic_int8")
        return
    candidate, process = chosen[0], {}
    target = models.write(tmp_path, model)
    built = building.build(process, target=target, candidate=to_json(candidate), work=str(tmp_path), seed=0, threads=1)
    opened = process["opened"]
    session = holding.loaded_session(process, candidate, Path(built["folder"]), opened.signature)
    for batch, axes in ((1, {}), (3, {"length": 20} if model == "nested" else {})):
        arrays = opened.example_arrays(batch, **axes)
        for got, want in zip(session(arrays), opening.original_outputs(opened, arrays), strict=True):
            assert got.shape == want.shape
            assert got.dtype == want.dtype
            assert np.abs(got - want).max() <= 2 * TOLERANCE[candidate.precision] * np.abs(want).max()


@pytest.mark.parametrize("runtime", sorted(runtimes.RUNTIMES))
def test_odd_shapes_and_outputs(runtime: str, tmp_path: Path) -> None:
    process: dict[str, Any] = {}
    candidate = next(c for c in CANDIDATES if c.runtime == runtime and not c.steps)
    shared = {"target": models.write(tmp_path, "odd"), "candidate": to_json(candidate), "threads": 1}
    built = building.build(process, work=str(tmp_path), seed=0, **shared)["folder"]
    assert checking.check(process, built=built, batch=2, **shared)["row_dependence"] <= TOLERANCE["fp32"]
    found = scoring.confirm(
        process,
        built=built,
        work=str(tmp_path),
        seed=0,
        roles=["selection", "confirmation"],
        max_drop=None,
        confidence=0.95,
        **shared,
    )
    assert max(found["differences"].values()) <= TOLERANCE["fp32"]
    assert [a.shape for a in found["golden"][0]["inputs"]] == [(5, 1, 8), (3, 3)]
    assert [a.shape for a in found["golden"][0]["outputs"]] == [(1, 3), (5, 1, 3), (1, 3), (3,), ()]


@pytest.mark.parametrize("model", ["nested", "odd"])
def test_sixteen_bits_take_several_inputs(model: str, tmp_path: Path) -> None:
    facts = ModelFacts(layers={"Linear": 1}, input_ranks=(3,))
    space = build_space(facts, threads=1, fixed_axes={"batch": 2}, unavailable={}, only=["eager"])
    candidate = next(c for c in space.candidates if [step.technique for step in c.steps] == ["bf16"])
    process: dict[str, Any] = {}
    shared = {"target": models.write(tmp_path, model), "candidate": to_json(candidate), "threads": 1}
    built = building.build(process, work=str(tmp_path), seed=0, **shared)
    check = checking.check(process, built=built["folder"], batch=2, **shared)
    assert check["row_dependence"] <= TOLERANCE["bf16"]


def test_a_light_runtime_loads_without_torch(state: dict[str, Any], tmp_path: Path) -> None:
    import subprocess
    import sys

    for name in ("onnxruntime", "openvino"):
        candidate = next(c for c in CANDIDATES if c.runtime == name and not c.steps)
        process: dict[str, Any] = {}
        built = building.build(
            process, target=state["target"], candidate=to_json(candidate), work=state["work"], seed=0, threads=1
        )
        opened = process.get("opened") or opening.opened_workload(process, state["target"], 1)
        given = {
            "candidate": to_json(candidate), "built": built["folder"], "signature": to_json(opened.signature),
            "arrays": [array.tolist() for array in opened.example_arrays(2)],
        }  # fmt: skip
        (tmp_path / "given.json").write_text(json.dumps(given))
        code = (
            "import json, sys, numpy as np; from hotlap.search.work import holding;"
            "given = json.load(open(sys.argv[1]));"
            "given['arrays'] = [np.asarray(a, np.float32) for a in given['arrays']]; holding.load({}, **given);"
            "assert 'torch' not in sys.modules, 'torch was imported'"
        )
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "given.json")], check=True)


def test_dynamic_int8_reaches_the_weights_of_an_lstm(tmp_path: Path) -> None:
    import onnx

    facts = ModelFacts(layers={"LSTM": 1}, input_ranks=(3,), int8_overflows=machine.facts().int8_overflows)
    space = build_space(facts, threads=1, fixed_axes={"batch": 2}, unavailable={}, only=["dynamic_int8"])
    built = building.build(
        {}, target=models.write(tmp_path, "lstm"), candidate=to_json(space.candidates[0]), work=str(tmp_path), seed=0,
        threads=1,
    )  # fmt: skip
    kinds = [node.op_type for node in onnx.load(Path(built["folder"]) / "model.onnx").graph.node]
    assert "DynamicQuantizeLSTM" in kinds
    assert "LSTM" not in kinds


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_calls_of_changing_shapes_and_sizes_share_nothing(runtime: str, state: dict[str, Any]) -> None:
    candidate = next(c for c in CANDIDATES if c.runtime == runtime and dict(c.options).get("static"))
    process: dict[str, Any] = {}
    shared = {"target": state["target"], "candidate": to_json(candidate), "threads": 1}
    built = building.build(process, work=state["work"], seed=0, **shared)
    opened = opening.opened_workload(process, state["target"], 1)
    session = holding.loaded_session(process, candidate, Path(built["folder"]), opened.signature)
    # 3 KB to 600 KB: small inputs are copied into the runtime's memory, large ones are handed over.
    given = [opened.example_arrays(batch) for batch in (2, 1, 200, 2, 2)]
    given.append([array + 1 for array in given[0]])
    kept = [array.copy() for arrays in given for array in arrays]
    answers = [(arrays, session(arrays)) for arrays in given]
    for arrays, outputs in answers:
        for got, want in zip(outputs, opening.original_outputs(opened, arrays), strict=True):
            np.testing.assert_allclose(got, want, atol=TOLERANCE["fp32"] * np.abs(want).max())
    for before, array in zip(kept, [array for arrays in given for array in arrays], strict=True):
        np.testing.assert_array_equal(before, array)
