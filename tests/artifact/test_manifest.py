"""The manifest: read back as written, and every field that is not what it should be refused by name."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotlap.artifact import manifest
from hotlap.errors import ArtifactRefused

WRONG = (None, True, -1, 1.5, 10**30, "", "x" * 5000, "a\x1b[2Jb", "\ud800", [], ["x"], {}, {"x": 1}, [[[]]])


@pytest.fixture(scope="module")
def data(originals) -> bytes:
    return (originals["onnxruntime"] / "manifest.json").read_bytes()


def changed(data: bytes, path: str, value) -> bytes:
    parsed = json.loads(data)
    *above, last = path.split(".")
    where = parsed
    for key in above:
        where = where[int(key) if isinstance(where, list) else key]
    where[int(last) if isinstance(where, list) else last] = value
    return json.dumps(parsed).encode()


def test_read_back_as_written(data):
    assert manifest.parse(data).to_bytes() == data


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("format", 2, "it has format 2; this hotlap reads format 1, so update hotlap"),
        ("format", True, "it has format True"),
        ("extra", 1, "the manifest has 'extra', which this format does not know"),
        ("workload", {"name": "tiny"}, "workload has no 'digest'"),
        ("workload.name", "a\x1b[31m", "workload.name is 'a.x1b.31m', not at most 200 printable characters"),
        ("created", "yesterday", "created is 'yesterday', not a UTC time such as 2026-01-31T12:00:00Z"),
        ("expires", "2026-02-30T00:00:00Z", "expires is '2026-02-30T00:00:00Z', not a UTC time"),
        ("files.model\\onnx", {}, "files lists 'model..onnx', which holds a backslash"),
        ("files", {"../model.onnx": {}}, "which leads out of the folder with '..'"),
        ("files", {"a/../../b": {}}, "which leads out of the folder with '..'"),
        ("files", {"/etc/passwd": {}}, "files lists '/etc/passwd', which is an absolute path"),
        ("files", {"a/b": {}}, "files lists 'a/b', which lies in a folder; an artifact's files lie beside"),
        ("files", {"a\x00b": {}}, "which holds control characters"),
        ("files", {"a" * 129: {}}, "which is longer than 128 characters"),
        ("files", {".hidden": {}}, "which is no plain file name of letters, digits"),
        ("files", {"": {}}, "which is no plain file name"),
        ("files", {"ｍodel": {}}, "which is no plain file name"),
        ("files", {"manifest.json": {}}, "'manifest.json', which can't hold its own digest"),
        ("files", {"signature.json": {}}, "'signature.json', which can't hold its own digest"),
        ("files", {f"f{i}": {} for i in range(101)}, "files lists 101 files; at most 100 are allowed"),
        ("files", {}, "files has no digest of golden.safetensors"),
        ("files.model-onnx", {"sha256": "0" * 64}, r"files\['model-onnx'\] has no 'bytes'"),
        ("files.model-onnx", {"bytes": 1}, r"files\['model-onnx'\] has no 'sha256'"),
        ("files.model-onnx", {"sha256": "0" * 63, "bytes": 1}, "sha256 is '0+', not 64 hexadecimal digits"),
        ("files.model-onnx", {"sha256": "0" * 64, "bytes": -1}, "bytes is -1, not a whole number from 0"),
        ("files.model-onnx", {"sha256": "0" * 64, "bytes": 2**63}, "bytes is 9223372036854775808, not a whole"),
        ("seals", ["report.html"], "seals is .'report.html'.; it may hold made_here.json and signature.json"),
        ("seals", ["made_here.json"] * 2, "seals is .*; it may hold"),
        ("candidate.runtime", "os", "candidate.runtime is 'os'; it may be eager, inductor, onnxruntime, openvino"),
        ("candidate.runtime", ["onnxruntime"], "candidate.runtime is a list; it may be eager"),
        ("candidate.threads", 0, "candidate.threads is 0, not a whole number from 1 to 4096"),
        ("candidate.threads", 10**9, "candidate.threads is 1000000000, not a whole number"),
        ("candidate.precision", "fp4", "candidate.precision is 'fp4'; it may be bf16, fp16, fp32, int8"),
        ("candidate.options", [["static", {"a": {"b": {}}}]], "candidate.options.static is an object, not a plain"),
        ("candidate.options", [["static"]], r"candidate.options\[0\] is a list, not a name and its value"),
        ("candidate.steps", [{"technique": "x"}], r"candidate.steps\[0\] has no 'options'"),
        ("signature.inputs", [], "signature.inputs has 0 tensors, not 1 to 10,000"),
        ("signature.inputs.0.dtype", "object", r"signature.inputs\[0\].dtype is 'object'; it may be bool"),
        ("signature.inputs.0.shape", [-1], r"signature.inputs\[0\].shape is -1, not a whole number from 0"),
        ("signature.inputs.0.shape", [1] * 33, "has 33 axes; at most 32 are allowed"),
        ("signature.output_tree", 1, "signature.output_tree does not hold each output once"),
        ("signature.output_tree", {"tuple": [0, 0]}, "signature.output_tree does not hold each output once"),
        ("signature.output_tree", {"import": ["os"]}, "signature.output_tree holds an object, which nests nothing"),
        ("signature.ranges", {"batch": [2, 1]}, r"signature.ranges\['batch'\] is 1, not a whole number from 2"),
        ("golden.tolerance", 2, "golden.tolerance is 2, not a number from 0 to 1"),
        ("code", 1, "code is 1, not true or false"),
        ("result", {"speedup": None}, "result has no 'verdict'"),
        ("result.speedup", {"estimate": 1, "low": 1, "high": "2"}, "result.speedup.high is '2', not a number"),
        ("made_by.packages", {"torch": 2}, r"made_by.packages\['torch'\] is 2, not at most 200 printable"),
    ],
)
def test_wrong_fields_are_refused_by_name(data, path, value, reason):
    path = path.replace("model-onnx", "model-onnx")
    with pytest.raises(ArtifactRefused, match=f"manifest.json: .*{reason}"):
        manifest.parse(changed(data, path, value))


def places(value, path=""):
    """Every path into a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        if "." not in str(key):
            yield f"{path}{key}"
            yield from places(inner, f"{path}{key}.")


def test_any_field_may_hold_anything_without_a_crash(data):
    """Every field in turn takes every kind of value: it is read or refused, and what is read is written again."""
    for path in places(json.loads(data)):
        for value in WRONG:
            try:
                found = manifest.parse(changed(data, path, value))
            except ArtifactRefused as error:
                assert str(error).startswith("manifest.json")  # noqa: PT017
                assert str(error).isprintable()  # noqa: PT017
            else:
                assert manifest.parse(found.to_bytes()) == found


@settings(max_examples=300, deadline=None)
@given(where=st.integers(0, 10**6), old=st.integers(0, 8), new=st.binary(max_size=8))
def test_any_edit_of_its_bytes_is_read_or_refused(data, where, old, new):
    where %= len(data)
    edited = data[:where] + new + data[where + old :]
    try:
        found = manifest.parse(edited)
    except ArtifactRefused:
        return
    assert manifest.parse(found.to_bytes()) == found
