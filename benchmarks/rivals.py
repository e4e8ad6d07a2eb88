"""What people use today, at its defaults, and hotlap's artifact beside it. Runs in a worker, like any candidate.

Each of them is used as its own documentation begins: `torch.compile(model)`; `torch.onnx.export` with an open batch
and `InferenceSession(path)`; `quantize_static` and `quantize_dynamic`, both after `quant_pre_process`;
`openvino.convert_model` and `compile_model(model, "CPU")`; `nncf.quantize(model, dataset)`. What needs calibration
gets the very examples that hotlap calibrates with.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hotlap.core import Array, Context, Json, Model, to_json
from hotlap.workload import roles
from hotlap.workload.inputs import call, flatten_inputs, flatten_outputs, restore_inputs, restore_outputs, to_arrays
from hotlap.workload.opened import Opened, open_workload
from hotlap.workload.scoring import score_batch, slices_batch
from hotlap.workload.target import load_target

Run = Callable[[list[Array]], list[Array]]
ONNX, XML, PORTS = "model.onnx", "model.xml", "ports.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """One way of running a model. `same_numbers`: it keeps the original's weights and number format."""

    label: str
    same_numbers: bool
    transformers_only: bool = False


RIVALS = {
    "torch.compile": Rival(label="torch.compile", same_numbers=True),
    "onnxruntime": Rival(label="ONNX Runtime fp32", same_numbers=True),
    "onnxruntime-static": Rival(label="ONNX Runtime, its static int8", same_numbers=False),
    "onnxruntime-dynamic": Rival(label="ONNX Runtime, its dynamic int8", same_numbers=False),
    "openvino-fp32": Rival(label="OpenVINO fp32", same_numbers=True),
    "openvino": Rival(label="OpenVINO as it comes (bf16 where the CPU has it)", same_numbers=False),
    "nncf": Rival(label="NNCF int8 with OpenVINO", same_numbers=False),
    "nncf-transformer": Rival(
        label="NNCF int8 with OpenVINO, transformer mode", same_numbers=False, transformers_only=True
    ),
}
HOTLAP = "hotlap"


def about(state: dict[str, Any], *, target: str, batch: int) -> Json:
    """The inputs of the timed call, the signature, and whether the model normalizes layers, as transformers do."""
    opened = _open(state, target)
    transformer = any("LayerNorm" in type(module).__name__ for module in opened.model.modules())
    return {
        "arrays": opened.example_arrays(batch), "signature": to_json(opened.signature), "transformer": transformer
    }  # fmt: skip


def build(state: dict[str, Any], *, rival: str, target: str, folder: str, seed: int) -> Json:
    """Write the rival's files into `folder`; how long it took and how large they are."""
    began, place = time.perf_counter(), Path(folder)
    opened = _open(state, target)
    calibration, _, _ = roles.calibration_arrays(opened, seed=seed)
    context = Context(
        folder=place, example=opened.example_arrays(2), calibration=calibration, seed=seed, threads=_threads()
    )
    if rival.startswith("onnxruntime"):
        _onnx(opened, context, rival)
    elif rival != "torch.compile":
        _openvino(opened, context, rival)
    kept = [file for file in place.iterdir() if file.is_file()]
    return {"seconds": time.perf_counter() - began, "bytes": sum(file.stat().st_size for file in kept)}


def hold(state: dict[str, Any], *, rival: str, target: str, folder: str, arrays: list[Array], batch: int) -> None:
    """Hold the rival's callable with its inputs, ready to be timed; tensors for torch, arrays for the others."""
    if rival == "torch.compile":
        import torch

        opened = _open(state, target)
        compiled, inputs = torch.compile(opened.model), opened.example(batch)

        def once() -> None:
            with torch.inference_mode():
                call(compiled, inputs)

        state["call"] = once
    else:
        run = _runner(state, rival, target, Path(folder))
        copies = [array.copy() for array in arrays]
        state["call"] = lambda: run(copies)
    state["call"]()


def score(
    state: dict[str, Any], *, rival: str, target: str, folder: str, originals: str, seed: int, role: str
) -> dict[str, Any]:
    """Score rival and original side by side: scores, slices, and how far outputs differ at most.

    `originals`: a folder that keeps what the original gives, so that it is asked but once.
    `differences`: by output, the largest difference as a share of the largest magnitude of the original's.
    """
    opened = _open(state, target)
    run = _runner(state, rival, target, Path(folder))
    names = [spec.name for spec in opened.signature.inputs]
    gaps = np.zeros(len(opened.signature.outputs))
    scales = np.zeros_like(gaps)
    before: list[Array] = []
    after: list[Array] = []
    slices: list[str] = []
    for number, batch in enumerate(roles.evaluation_rows(opened, role, seed=seed)):
        arrays = to_arrays(flatten_inputs(batch.inputs, names))
        original, outputs = _original(opened, arrays, Path(originals) / f"{number}.npz"), run(arrays)
        for index, (want, got) in enumerate(zip(original, outputs, strict=True)):
            gaps[index] = max(gaps[index], np.abs(got.astype(np.float64) - want).max())
            scales[index] = max(scales[index], np.abs(want).max())
        for kept, given in ((before, original), (after, outputs)):
            kept.append(np.asarray(score_batch(opened, restore_outputs(given, opened.treespec), batch.targets)))
        if opened.workload.slices is not None:
            slices += slices_batch(opened, batch.inputs, batch.targets)
    shares = (gaps / np.where(scales > 0, scales, 1.0)).tolist()
    return {
        "original_scores": np.concatenate(before),
        "scores": np.concatenate(after),
        "slices": slices or None,
        "differences": {spec.name: share for spec, share in zip(opened.signature.outputs, shares, strict=True)},
    }


def _open(state: dict[str, Any], target: str) -> Opened:
    if "opened" not in state:
        state["opened"] = open_workload(load_target(target))
    opened: Opened = state["opened"]
    return opened


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _original(opened: Opened, arrays: list[Array], kept: Path) -> list[Array]:
    if not kept.is_file():
        kept.parent.mkdir(exist_ok=True)
        np.savez(kept, *_torch_run(opened, opened.model)(arrays))
    with np.load(kept) as stored:
        return [stored[name] for name in stored.files]


def _onnx(opened: Opened, context: Context, rival: str) -> None:
    import torch
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from hotlap import forms

    exported = forms.lower(Model(form="module", value=opened.model, signature=opened.signature), "exported", context)
    names = [spec.name for spec in opened.signature.inputs]
    program = torch.onnx.export(exported.value, dynamo=True, input_names=names, verbose=False)
    assert program is not None
    plain = context.folder / ONNX
    program.save(str(plain), external_data=False)
    if rival == "onnxruntime":
        return
    source, prepared = plain.rename(context.folder / "exported.onnx"), context.folder / "prepared.onnx"
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    if rival == "onnxruntime-static":
        quantization.quantize_static(str(prepared), str(plain), _Reader(opened, context))
    else:
        import onnx

        # Its default, signed weights, makes convolutions that its own CPU kernels refuse (onnxruntime #15888).
        convolves = any(node.op_type == "Conv" for node in onnx.load(source).graph.node)
        kind = quantization.QuantType.QUInt8 if convolves else quantization.QuantType.QInt8
        quantization.quantize_dynamic(str(prepared), str(plain), weight_type=kind)
    prepared.unlink()
    source.unlink()


class _Reader:
    """Feeds ONNX Runtime's calibrater."""

    def __init__(self, opened: Opened, context: Context) -> None:
        assert context.calibration is not None
        self._names = [spec.name for spec in opened.signature.inputs]
        self._batches = iter(context.calibration())

    def get_next(self) -> dict[str, Array] | None:
        batch = next(self._batches, None)
        return None if batch is None else dict(zip(self._names, batch, strict=True))

    def __iter__(self) -> _Reader:
        return self

    def __next__(self) -> dict[str, Array]:
        batch = self.get_next()
        if batch is None:
            raise StopIteration
        return batch


def _openvino(opened: Opened, context: Context, rival: str) -> None:
    import openvino

    example = opened.example(2)
    model = openvino.convert_model(opened.model, example_input=example)
    ports = _ports(opened, model)
    if rival.startswith("nncf"):
        import nncf

        assert context.calibration is not None
        batches = list(context.calibration())
        dataset = nncf.Dataset(batches, lambda batch: [batch[port] for port in ports])
        chosen = {"model_type": nncf.ModelType.TRANSFORMER} if rival == "nncf-transformer" else {}
        model = nncf.quantize(model, dataset, **chosen)
    openvino.save_model(model, str(context.folder / XML), compress_to_fp16=False)
    # Kept, so that the process that is timed need not open the workload.
    (context.folder / PORTS).write_text(" ".join(map(str, ports)))


def _ports(opened: Opened, model: Any) -> list[int]:
    """For each of OpenVINO's inputs its place in the signature; tracing may order the inputs of a dict anew."""
    names = [spec.name for spec in opened.signature.inputs]
    found = [names.index(name) for port in model.inputs for name in port.get_names() if name in names]
    return found if len(found) == len(names) else list(range(len(names)))


def _runner(state: dict[str, Any], rival: str, target: str, folder: Path) -> Run:
    if rival == HOTLAP:
        from hotlap.artifact.load import load

        return load(folder).call_flat
    if rival == "torch.compile":
        import torch

        opened = _open(state, target)
        return _torch_run(opened, torch.compile(opened.model))
    return _onnx_run(folder) if rival.startswith("onnxruntime") else _openvino_run(rival, folder)


def _torch_run(opened: Opened, model: Any) -> Run:
    import torch

    def run(arrays: list[Array]) -> list[Array]:
        with torch.inference_mode():
            inputs = restore_inputs([torch.from_numpy(array.copy()) for array in arrays], opened.signature)
            return to_arrays(flatten_outputs(call(model, inputs)))

    return run


def _onnx_run(folder: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / ONNX))
    names = [given.name for given in session.get_inputs()]

    def run(arrays: list[Array]) -> list[Array]:
        return session.run(None, dict(zip(names, arrays, strict=True)))

    return run


def _openvino_run(rival: str, folder: Path) -> Run:
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32"} if rival == "openvino-fp32" else {}
    try:
        compiled = openvino.Core().compile_model(str(folder / XML), "CPU", settings)
    except RuntimeError:
        # Some int8 models have no kernels beside bf16, which is its default here; people turn it off then.
        compiled = openvino.Core().compile_model(str(folder / XML), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    ports = [int(port) for port in (folder / PORTS).read_text().split()]

    def run(arrays: list[Array]) -> list[Array]:
        found = compiled([arrays[port] for port in ports])
        return [found[output] for output in compiled.outputs]

    return run
