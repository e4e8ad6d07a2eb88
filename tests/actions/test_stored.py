"""Features of a workload, asked of its repository: what goes into an artifact, and what must not have changed since."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from features import repository

from hotlap.actions.stored import checked_features, stored_features
from hotlap.core import Signature, TensorSpec, to_json
from hotlap.errors import InputError

SIGNATURE = to_json(
    Signature(
        inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", 2)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=("batch",)),),
        input_kind="tensor",
        output_tree=0,
    )
)


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    repo = repository.write(tmp_path_factory.mktemp("repository"), rows=50)
    columns = [
        {"view": "trips", "name": "rate", "fill": None},
        {"view": "weather", "name": "rain", "fill": 0.5},
    ]
    return {"repo": str(repo), "features": {"x": columns}}


def trained(folder: Path, features: Any) -> str:
    """A target with weights whose training noted these features."""
    machine = {"cpu": "any", "cores": 1, "memory_bytes": 1}
    figures = {"name": "fp32", "median_ms": 1.0}
    result = {
        "schema": 1, "kind": "train", "workload": "w", "machine": machine, "baseline": figures, "best": figures,
        "seconds": 1.0, "features": features,
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))
    return f"w.py@{folder}"


def test_what_an_artifact_gets_is_what_training_noted(wanted: dict[str, Any], tmp_path: Path) -> None:
    noted = stored_features(wanted)
    found = checked_features(wanted, SIGNATURE, trained(tmp_path, noted))
    assert found is not None
    assert found.to_json() == noted == checked_features(wanted, SIGNATURE, "w.py").to_json()
    assert found.inputs == {"x": ("trips:rate", "weather:rain")}
    assert stored_features(None) is None
    assert checked_features(None, SIGNATURE, "w.py") is None


def test_what_changed_since_training_is_named(wanted: dict[str, Any], tmp_path: Path) -> None:
    noted = stored_features(wanted)
    noted["views"]["trips"] |= {"definition": "0" * 64, "ttl_seconds": 60.0}
    with pytest.raises(
        InputError, match=r"since it was trained, view trips .its ttl was 60 s and is 172,800 s. changed"
    ):
        checked_features(wanted, SIGNATURE, trained(tmp_path, noted))
    noted = stored_features(wanted)
    noted["inputs"]["x"].reverse()
    with pytest.raises(InputError, match=r"since it was trained, the features or their order changed; train again"):
        checked_features(wanted, SIGNATURE, trained(tmp_path, noted))
    with pytest.raises(InputError, match=r"which the workload's `features` no longer names"):
        checked_features(None, SIGNATURE, trained(tmp_path, noted))
    noted["inputs"] = {"other": ["trips:rate", "weather:rain"]}
    with pytest.raises(InputError, match=r"it was trained with other features: .*'other', which is no input"):
        checked_features(wanted, SIGNATURE, trained(tmp_path, noted))


def test_what_the_repository_lacks_is_named_before_any_work(wanted: dict[str, Any], tmp_path: Path) -> None:
    wrong = {"x": [{"view": "trips", "name": "rates", "fill": None}]}
    with pytest.raises(InputError, match="view trips has no feature 'rates'; it has rate, count"):
        stored_features({**wanted, "features": wrong})
    with pytest.raises(InputError, match=r"no feature_store\.yaml there"):
        stored_features({**wanted, "repo": str(tmp_path)})
