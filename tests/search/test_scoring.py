"""Of a slow model fewer examples choose, and of a very slow one fewer confirm."""

from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest

from hotlap.core import Candidate, to_json
from hotlap.search.work import building, scoring


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = Path(models.write(tmp_path_factory.mktemp("many"), "convolutions"))
    file.write_text(file.read_text().replace("torch.randn(64,", "torch.randn(1280,"))
    return str(file)


def test_a_slow_original_ends_early_and_candidates_see_what_it_saw(target: str, tmp_path: Path) -> None:
    candidate = to_json(Candidate(runtime="onnxruntime", threads=1, name="onnxruntime"))
    process: dict[str, Any] = {}
    shared = {"target": target, "work": str(tmp_path), "seed": 0, "threads": 1}
    found = scoring.score_original(process, role="selection", seconds=0.0, **shared)
    whole = scoring.score_original(process, role="selection", seconds=1e9, **shared)
    assert 300 <= found["examples"] == len(found["scores"]) < whole["examples"] < 500
    assert found["batches"] < whole["batches"]

    built = building.build(process, candidate=candidate, **shared)["folder"]
    told = {"candidate": candidate, "built": built, **shared}
    part = scoring.score(process, role="selection", batches=found["batches"], **told)
    assert part["compared"] == len(part["scores"]) == found["examples"]
    np.testing.assert_array_equal(part["scores"], whole["scores"][: found["examples"]])

    roles = ["selection", "confirmation"]
    confirmed = scoring.confirm(process, roles=roles, max_drop=0.01, confidence=0.95, **told)
    assert confirmed["compared"] == 1280


def test_outputs_that_are_kept_are_not_computed_again(target: str, tmp_path: Path, monkeypatch: Any) -> None:
    process: dict[str, Any] = {}
    shared = {"target": target, "work": str(tmp_path), "role": "selection", "seed": 0, "threads": 1}
    first = scoring.score_original(process, seconds=1e9, **shared)
    monkeypatch.setattr("hotlap.search.work.originals.original_outputs", None)
    again = scoring.score_original(process, seconds=1e9, **shared)
    np.testing.assert_array_equal(first["scores"], again["scores"])


def test_a_very_slow_original_ends_before_it_can_tell_candidates_apart(target: str, tmp_path: Path) -> None:
    process: dict[str, Any] = {}
    shared = {"target": target, "work": str(tmp_path), "seed": 0, "threads": 1}
    one = scoring.score_original(process, role="selection", seconds=0.0, most_seconds=0.0, **shared)
    assert one["batches"] == 1
    assert 0 < one["examples"] < 16
    again = scoring.score_original(process, role="selection", seconds=1e9, batches=3, **shared)
    assert again["batches"] == 3

    candidate = to_json(Candidate(runtime="onnxruntime", threads=1, name="onnxruntime"))
    built = building.build(process, candidate=candidate, **shared)["folder"]
    told = {"candidate": candidate, "built": built, "max_drop": 0.01, "confidence": 0.95, **shared}
    examples = {"selection": one["examples"], "confirmation": 40}
    part = scoring.confirm(process, roles=["confirmation"], examples=examples, **told)
    assert 40 <= part["compared"] == len(part["scores"]) == len(part["original_scores"]) < 56
    both = scoring.confirm(process, roles=["selection", "confirmation"], examples=examples, **told)
    assert both["compared"] == one["examples"] + part["compared"]
