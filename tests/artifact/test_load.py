"""Loading: what an artifact gives when it is called, and what it says when it is called wrongly."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_artifact import INPUTS, SIGNATURE, WEIGHT, make, reseal

import hotlap
from hotlap.artifact.load import bind, load
from hotlap.core import Signature, TensorSpec
from hotlap.errors import ArtifactRefused, InputError

X = np.random.default_rng(9).standard_normal((5, 4)).astype(np.float32)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_it_gives_what_the_model_gives(originals, runtime):
    model = hotlap.load(originals[runtime])
    for rows in (5, 1, 3):
        np.testing.assert_allclose(model(X[:rows]), X[:rows] @ WEIGHT, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(model(x=X), model(X))
    assert model.trust.level == "made here"
    assert repr(model) == f"<tiny as {runtime}, fp32, made here; inputs x: float32['batch', 4]>"
    np.testing.assert_array_equal(model.golden[0].inputs[0], INPUTS[0])
    np.testing.assert_array_equal(model.call_flat([X])[0], model(X))


def test_outputs_nest_as_the_models_do(built, tmp_path):
    signature = dataclasses.replace(SIGNATURE, output_tree={"dict": {"scores": {"tuple": [0, None]}}})
    artifact = make(tmp_path / "artifact", "onnxruntime", built["onnxruntime"], signature=signature)
    outputs = load(artifact)(X)
    assert list(outputs) == ["scores"]
    assert outputs["scores"][0].shape == (5, 3)
    assert outputs["scores"][1] is None


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_loading_imports_neither_torch_nor_what_making_needs(originals, runtime):
    code = (
        "import sys, numpy, hotlap\n"
        "model = hotlap.load(sys.argv[1])\n"
        "assert model(numpy.zeros((2, 4), numpy.float32)).shape == (2, 3)\n"
        "print([n for n in ('torch', 'onnx', 'scipy', 'nncf', 'cryptography', 'pydantic') if n in sys.modules])\n"
    )
    command = [sys.executable, "-c", code, str(originals[runtime])]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


@pytest.mark.slow
def test_an_original_as_a_torch_program_is_loaded_where_it_was_made(tmp_path):
    import torch

    layer = torch.nn.Linear(4, 3, bias=False).eval()
    layer.weight.data = torch.from_numpy(WEIGHT.T.copy())
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(layer, (torch.from_numpy(X),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "model.pt2")
    artifact = make(tmp_path / "artifact", "eager", {"model.pt2": tmp_path / "model.pt2"})
    np.testing.assert_allclose(load(artifact)(X), X @ WEIGHT, rtol=1e-5, atol=1e-5)
    reseal(artifact)
    with pytest.raises(ArtifactRefused, match="its eager files are code"):
        load(artifact)


def test_threads_are_no_more_than_the_cores_that_are_ours(built, originals, monkeypatch):
    from hotlap.runtimes import onnxruntime

    seen = []
    real = onnxruntime.load
    monkeypatch.setattr(onnxruntime, "load", lambda *a, **k: seen.append(k["threads"]) or real(*a, **k))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})
    load(originals["onnxruntime"])
    load(originals["onnxruntime"], threads=2)
    assert seen == [1, 2]


def test_a_device_that_is_not_there(originals):
    with pytest.raises(InputError, match="can't run on cuda here: OpenVINO has no CUDA device; use --device cpu"):
        load(originals["openvino"], device="cuda")


def test_files_that_the_runtime_cannot_load_are_refused(artifact):
    (artifact / "model.onnx").write_bytes(b"\x08\x08")
    reseal(artifact)
    with pytest.raises(ArtifactRefused, match="artifact is refused: onnxruntime can't load it: Unsupported: ONNX"):
        load(artifact)
    reseal(artifact, lambda m: m["files"].update({"other.onnx": m["files"].pop("model.onnx")}))
    (artifact / "model.onnx").rename(artifact / "other.onnx")
    with pytest.raises(ArtifactRefused, match=r"onnxruntime can't load it: KeyError: 'model.onnx'"):
        load(artifact)


@pytest.mark.parametrize(
    "options", [[["static", True], ["fixed_axes", "batch"]], [["static", True], ["fixed_axes", 3]]]
)
def test_options_that_the_runtime_cannot_take_are_refused(artifact, options):
    reseal(artifact, lambda manifest: manifest["candidate"].update(options=options))
    with pytest.raises(ArtifactRefused, match=r"onnxruntime can't load it: (ValueError|TypeError)"):
        load(artifact)


def test_a_signature_that_is_not_the_files_is_refused(artifact):
    def wider(manifest):
        manifest["signature"]["inputs"][0]["shape"] = ["batch", 5]

    reseal(artifact, wider)
    with pytest.raises(ArtifactRefused, match=r"golden.safetensors does not fit its signature: input 'x' must have"):
        load(artifact)
    reseal(artifact, lambda m: m["signature"].update(inputs=SPECS["x"], outputs=SPECS["int64 y"]))
    with pytest.raises(ArtifactRefused, match="its outputs are float32 with 2 axes, which is not what its signature"):
        load(artifact)
    reseal(artifact, lambda m: m["signature"].update(inputs=SPECS["z"], outputs=SPECS["y"]))
    with pytest.raises(ArtifactRefused, match="onnxruntime can't run it: "):
        load(artifact)


SPECS = {
    "x": [{"name": "x", "dtype": "float32", "shape": ["batch", 4]}],
    "z": [{"name": "z", "dtype": "float32", "shape": ["batch", 4]}],
    "y": [{"name": "y", "dtype": "float32", "shape": ["batch", 3]}],
    "int64 y": [{"name": "y", "dtype": "int64", "shape": ["batch", 3]}],
}


def test_answers_that_changed_are_refused_with_what_it_was_proven_on(artifact, built, tmp_path):
    wrong = [([x], [x @ WEIGHT + 0.5]) for x in INPUTS]
    other = make(tmp_path / "other", "onnxruntime", built["onnxruntime"], golden=wrong)
    with pytest.raises(
        ArtifactRefused,
        match=r"off by \d+\.\d\d% of the outputs' range, and 0.10% is allowed; it was proven with onnxruntime "
        r"1\.\d+.* on (x86_64|aarch64)",
    ):
        load(other)


TWO = Signature(
    inputs=(
        TensorSpec(name="ids", dtype="int64", shape=("batch", "length")),
        TensorSpec(name="weights", dtype="float32", shape=("batch", "length", 2)),
    ),
    outputs=(TensorSpec(name="y", dtype="float32", shape=("batch",)),),
    input_kind="dict",
    output_tree=0,
    ranges={"batch": (1, None), "length": (2, 8)},
)
IDS, WEIGHTS = np.zeros((3, 5), np.int64), np.zeros((3, 5, 2), np.float32)


def test_arrays_are_bound_as_python_binds():
    for args, kwargs in (
        ((IDS, WEIGHTS), {}),
        ((IDS,), {"weights": WEIGHTS}),
        ((), {"weights": WEIGHTS, "ids": IDS}),
    ):
        found = bind(TWO, args, kwargs)
        assert found[0] is IDS
        assert found[1] is WEIGHTS


@pytest.mark.parametrize(
    ("args", "kwargs", "reason"),
    [
        ((IDS,), {}, "the model takes 'ids', 'weights'; 'weights' is missing"),
        ((), {}, "the model takes 'ids', 'weights'; 'ids', 'weights' is missing"),
        ((IDS, WEIGHTS, IDS), {}, "the model takes 'ids', 'weights', but 3 arrays were given"),
        ((IDS,), {"mask": WEIGHTS}, "the model has no input 'mask'; it takes 'ids', 'weights'"),
        ((IDS,), {"ids": IDS, "weights": WEIGHTS}, "input 'ids' is given twice, by place and by name"),
        (([[1, 2]], WEIGHTS), {}, "input 'ids' must be a NumPy array of int64, not list"),
        (
            (IDS.astype(np.float64), WEIGHTS),
            {},
            r"input 'ids' must be int64, not float64; .* \.astype\(np\.int64\)",
        ),
        ((IDS.astype(np.uint8), WEIGHTS), {}, "input 'ids' must be int64, not uint8"),
        ((IDS, WEIGHTS.astype(np.float64)), {}, "input 'weights' must be float32, not float64"),
        ((IDS, WEIGHTS.astype(np.int8)), {}, "input 'weights' must be float32, not int8"),
        ((IDS[0], WEIGHTS), {}, r"input 'ids' must have shape \['batch', 'length'\], not \[5\]"),
        ((IDS, WEIGHTS[..., :1]), {}, r"input 'weights' must have shape \['batch', 'length', 2\], not \[3, 5, 1\]"),
        ((IDS[:2], WEIGHTS), {}, r"not \[3, 5, 2\]: 'batch' is 2 in input 'ids'"),
        ((IDS[:, :1], WEIGHTS[:, :1]), {}, r"not \[3, 1\]: 'length' must be from 2 to 8"),
        ((IDS[:0], WEIGHTS[:0]), {}, r"not \[0, 5\]: 'batch' must be at least 1"),
    ],
)
def test_wrong_calls_say_what_is_wrong(args, kwargs, reason):
    with pytest.raises(InputError, match=reason):
        bind(TWO, args, kwargs)


def test_scalars_and_odd_memory_are_taken_as_they_are():
    one = Signature(
        inputs=(TensorSpec(name="t", dtype="float32", shape=()),), outputs=(), input_kind="tensor", output_tree=None
    )
    assert bind(one, (np.array(2.5, np.float32),), {})[0].shape == ()
    turned = bind(TWO, (np.asfortranarray(IDS + np.arange(5)), WEIGHTS[::-1].astype(">f4")), {})
    assert all(array.flags.c_contiguous and array.dtype.isnative for array in turned)
    np.testing.assert_array_equal(turned[0], IDS + np.arange(5))


NUMBERS = [np.dtype(code) for code in "?bhilBHILefd"]


@settings(deadline=None)
@given(st.sampled_from(NUMBERS), st.sampled_from(NUMBERS), st.data())
def test_only_casts_that_keep_every_value_are_made(given, wanted, data):
    """The law behind the rule: whatever passes has the values it had, and is the type that the model takes."""
    from hypothesis.extra import numpy as hnp

    array = data.draw(hnp.arrays(given, 4))
    spec = TensorSpec(name="x", dtype=wanted.name, shape=(4,))
    signature = Signature(inputs=(spec,), outputs=(), input_kind="tensor", output_tree=None)
    try:
        (found,) = bind(signature, (array,), {})
    except InputError:
        assert given != wanted
        return
    assert found.dtype == wanted
    np.testing.assert_array_equal(found, array)
    np.testing.assert_array_equal(found.astype(given), array)
