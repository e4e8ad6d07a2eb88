"""A tiny model as a real artifact, and what an attacker does to one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hotlap.artifact.write import write_artifact
from hotlap.core import Candidate, Signature, TensorSpec
from hotlap.machine.facts import facts

SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", 4)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=("batch", 3)),),
    input_kind="tensor",
    output_tree=0,
    ranges={"batch": (1, None)},
)
WEIGHT = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
INPUTS = [np.random.default_rng(seed).standard_normal((1, 4)).astype(np.float32) for seed in range(3)]
GOLDEN = [([x], [x @ WEIGHT]) for x in INPUTS]


def write_onnx(path: Path, *, external: bool = False) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = {"save_as_external_data": True, "location": f"{path.name}.data", "size_threshold": 0}
    onnx.save(model, path, **(options if external else {}))


def write_openvino(path: Path) -> None:
    import openvino

    onnx_path = path.with_suffix(".onnx")
    write_onnx(onnx_path)
    openvino.save_model(openvino.convert_model(onnx_path), path, compress_to_fp16=False)
    onnx_path.unlink()


def make(folder: Path, runtime: str, files: dict[str, Path], **changes) -> Path:
    """Write an artifact with what is the same in every test."""
    given = {
        "candidate": Candidate(runtime=runtime, threads=1, name=f"{runtime}, fp32"),
        "signature": SIGNATURE,
        "runtime_files": files,
        "golden": GOLDEN,
        "evidence": {"starts": []},
        "result": {"speedup": None, "verdict": None},
        "workload": "tiny",
        "workload_digest": "0" * 64,
        "machine": facts().to_json(),
        "report_html": b"<!doctype html><title>tiny</title>",
    }
    return write_artifact(folder, **{**given, **changes})


def reseal(artifact: Path, change: Callable[[dict], None] | None = None, *, files: bool = True) -> None:
    """Do what a deliberate attacker does: change the manifest, and make every digest right again.

    The seals are removed, since the attacker has no key.
    """
    path = artifact / "manifest.json"
    manifest = json.loads(path.read_bytes())
    for name, entry in manifest["files"].items():
        if files and (artifact / name).is_file():
            data = (artifact / name).read_bytes()
            entry |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    for seal in manifest["seals"]:
        (artifact / seal).unlink(missing_ok=True)
    manifest["seals"] = []
    if change:
        change(manifest)
    write_manifest(artifact, json.dumps(manifest).encode())


def write_manifest(artifact: Path, data: bytes) -> None:
    """A manifest of any bytes, with its right digest."""
    (artifact / "manifest.json").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    (artifact / "manifest.sha256").write_bytes(f"{digest}  manifest.json\n".encode())
