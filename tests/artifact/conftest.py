"""Real artifacts, made once: a tiny model run by ONNX Runtime, and the same by OpenVINO."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_artifact import make, write_onnx, write_openvino

from hotlap import runtimes


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    """The runtimes' files, by runtime and name."""
    folder = tmp_path_factory.mktemp("built")
    write_onnx(folder / "model.onnx")
    (folder / "openvino").mkdir()
    write_openvino(folder / "openvino" / "model.xml")
    found = {"onnxruntime": ["model.onnx"], "openvino": ["openvino/model.xml", "openvino/model.bin"]}
    assert set(found) <= set(runtimes.RUNTIMES)
    return {runtime: {Path(name).name: folder / name for name in names} for runtime, names in found.items()}


@pytest.fixture(scope="session")
def originals(built, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An artifact a runtime; tests change copies only."""
    folder = tmp_path_factory.mktemp("artifacts")
    return {runtime: make(folder / runtime, runtime, files) for runtime, files in built.items()}


@pytest.fixture
def artifact(originals, tmp_path: Path) -> Path:
    """A copy of the ONNX Runtime artifact, to be damaged."""
    return Path(shutil.copytree(originals["onnxruntime"], tmp_path / "artifact"))
