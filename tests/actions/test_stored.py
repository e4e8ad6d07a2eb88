"""Features of a workload, asked of its repository: what goes into an artifact, and what must not have changed since."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from features import repository

from hotlap.actions.stored import checked_features, require_as_trained, stored_features
from hotlap.artifact.stored import parse
from hotlap.core import Signature, TensorSpec, to_json
from hotlap.errors import InputError

pytestmark = pytest.mark.slow

SIGNATURE = to_json(
    Signature(
        inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", 2)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=("batch",)),),
        input_kind="tensor",
        output_tree=0,
    )
)


REFERENCES = {"x": ("trips:rate", "weather:rain")}


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    repo = repository.write(tmp_path_factory.mktemp("repository"), rows=50)
    columns = [
        {"view": "trips", "name": "rate", "fill": None},
        {"view": "weather", "name": "rain", "fill": 0.5},
    ]
    return {"repo": str(repo), "features": {"x": columns}}


@pytest.fixture(scope="module")
def noted(wanted: dict[str, Any]) -> dict[str, Any]:
    return stored_features(wanted)


def test_what_an_artifact_gets_is_what_training_noted(wanted: Any, noted: Any, tmp_path: Path) -> None:
    figures = {"name": "fp32", "median_ms": 1.0}
    result = {
        "schema": 1, "kind": "train", "workload": "w", "baseline": figures, "best": figures, "seconds": 1.0,
        "machine": {"cpu": "any", "cores": 1, "memory_bytes": 1}, "features": noted,
    }  # fmt: skip
    (tmp_path / "result.json").write_text(json.dumps(result))
    found = checked_features(wanted, SIGNATURE, f"w.py@{tmp_path}")
    assert found is not None
    assert found.to_json() == noted
    assert found.inputs == REFERENCES
    with pytest.raises(InputError, match=r"the workload's `features` names none now"):
        checked_features(None, SIGNATURE, f"w.py@{tmp_path}")
    assert stored_features(None) is None
    assert checked_features(None, SIGNATURE, "w.py") is None


def changed(noted: Any, **changes: Any) -> Any:
    return json.loads(json.dumps({**noted, **changes}))


def test_what_changed_since_training_is_named(noted: Any) -> None:
    now = parse(noted, Signature.from_json(SIGNATURE))
    require_as_trained(noted, now, SIGNATURE, "w.py@f")
    require_as_trained(None, now, SIGNATURE, "w.py@f")
    shorter = changed(noted)
    shorter["views"]["trips"] |= {"definition": "0" * 64, "ttl_seconds": 60.0}
    with pytest.raises(InputError, match=r"since it was trained, view trips .its ttl was 60 s and is 172,800 s. chang"):
        require_as_trained(shorter, now, SIGNATURE, "w.py@f")
    with pytest.raises(InputError, match=r"w.py@f: since it was trained, the features or their order changed; train"):
        require_as_trained(changed(noted, inputs={"x": REFERENCES["x"][::-1]}), now, SIGNATURE, "w.py@f")
    with pytest.raises(InputError, match=r"it was trained with other features: .*'other', which is no input"):
        require_as_trained(changed(noted, inputs={"other": REFERENCES["x"]}), now, SIGNATURE, "w.py@f")


def test_what_the_repository_lacks_is_named_before_any_work(wanted: dict[str, Any]) -> None:
    wrong = {"x": [{"view": "trips", "name": "rates", "fill": None}]}
    with pytest.raises(InputError, match="view trips has no feature 'rates'; it has rate, count"):
        stored_features({**wanted, "features": wrong})
