"""ONNX Runtime: runs a .onnx file on CPU or CUDA."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from hotlap.core import Array, Device, Json, Model, Operation, Session, Signature
from hotlap.errors import Unsupported
from hotlap.runtimes.fixed_shapes import fixed_axes, fixed_shapes
from hotlap.runtimes.micro_batches import micro_batches
from hotlap.runtimes.streams import streams, threads_each
from hotlap.workload.examples import BATCH

TAKES = "onnx"
PACKAGES = ("onnxruntime",)
CODE = False
BUILD_OPTIONS: tuple[str, ...] = ()
MICRO_BATCHES = True
STREAMS = True

_FILE = "model.onnx"
_EXTERNAL = "model.onnx.data"
_PROTOBUF_LIMIT = 2**31 - 1

_QUANTIZE = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConcat"}
_LAYOUT = {
    "Transpose",
    "ReorderInput",
    "ReorderOutput",
    "Reshape",
    "Cast",
    "Concat",
    "Slice",
    "Squeeze",
    "Unsqueeze",
}


def unavailable(device: Device) -> str | None:
    """Why ONNX Runtime can't run here on that device, or None."""
    try:
        import onnxruntime
    except ImportError as error:
        return f"onnxruntime is not installed ({error}); pip install onnxruntime"
    if device == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "this onnxruntime has no CUDA provider; pip install onnxruntime-gpu in place of onnxruntime"
    return None


def variants(device: Device, precision: str) -> list[tuple[str, dict[str, Json]]]:
    """As it is, and with the shapes of the measured batch fixed."""
    return [("", {}), ("static shapes", {"static": True})]


def build(model: Model, folder: Path, options: Mapping[str, Json], example: list[Array]) -> list[str]:
    """Write `model.onnx`, with its weights beside it where they pass protobuf's 2 GB."""
    import onnx

    proto = onnx.load(model.value)
    if proto.ByteSize() > _PROTOBUF_LIMIT:
        onnx.save(proto, folder / _FILE, save_as_external_data=True, location=_EXTERNAL, size_threshold=1024)
        return [_FILE, _EXTERNAL]
    onnx.save(proto, folder / _FILE)
    return [_FILE]


class _OnnxSession:
    """One session for every shape, and one more for the measured shapes where `static` asks for it."""

    def __init__(
        self,
        files: Mapping[str, bytes],
        signature: Signature,
        *,
        device: Device,
        threads: int,
        options: Mapping[str, Json],
        profile: str | None = None,
    ) -> None:
        self._streams = streams(options)
        self._files, self._device, self._threads, self._profile = files, device, threads_each(options, threads), profile
        self._signature = signature
        fixed = fixed_axes(options)
        self._shapes = fixed_shapes(signature, fixed)
        self._micro = micro_batches(signature, options)
        self._pool = ThreadPoolExecutor(threads) if self._micro else None
        self._special = self._specialized(fixed) if fixed else None
        self._general = None if self._special else self._run({})

    def _specialized(self, fixed: Mapping[str, int]) -> _Run:
        if self._micro is None:
            return self._run(fixed)
        return self._run({**fixed, BATCH: self._micro.rows}, threads=1)

    def _run(self, fixed: Mapping[str, int], threads: int | None = None) -> _Run:
        session = _session(self._files, self._device, threads or self._threads, fixed, self._profile)
        return _Run(session, self._signature)

    def __call__(self, arrays: list[Array]) -> list[Array]:
        run = self.pick(arrays)
        if self._micro is None or self._pool is None or run is not self._special:
            return run(arrays)
        return self._micro.join(list(self._pool.map(run, self._micro.cut(arrays))))

    def pick(self, arrays: list[Array]) -> _Run:
        """What runs arrays of these shapes."""
        if self._special is not None and [array.shape for array in arrays] == self._shapes:
            return self._special
        if self._general is None:
            self._general = self._run({})
        return self._general

    @property
    def side_by_side(self) -> int:
        """How many parts of a batch, or calls, run at the same time."""
        return min(self._threads, self._micro.count) if self._micro else self._streams


class _Run:
    """One session's call. What can be found out once is: a small model takes no longer than the checks of a call."""

    def __init__(self, session: Any, signature: Signature) -> None:
        self.session = session
        # The session's own `run` asks for names and checks them anew in each call, a tenth of a tiny model's time.
        self._run = session._sess.run
        self._inputs = [spec.name for spec in signature.inputs]
        self._outputs = [output.name for output in session.get_outputs()]
        self._has_scalars = any(not spec.shape for spec in signature.outputs)

    def __call__(self, arrays: list[Array]) -> list[Array]:
        outputs: list[Array] = self._run(self._outputs, dict(zip(self._inputs, arrays, strict=True)), None)
        return [np.asarray(output) for output in outputs] if self._has_scalars else outputs


def _session(
    files: Mapping[str, bytes], device: Device, threads: int, fixed: Mapping[str, int], profile: str | None
) -> Any:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    settings.log_severity_level = 3
    for name, size in fixed.items():
        settings.add_free_dimension_override_by_name(name, size)
    if profile:
        settings.enable_profiling = True
        settings.profile_file_prefix = profile
    if _EXTERNAL in files:
        data = files[_EXTERNAL]
        settings.add_external_initializers_from_files_in_memory([_EXTERNAL], [data], [len(data)])
    providers = ["CUDAExecutionProvider"] if device == "cuda" else []
    try:
        return onnxruntime.InferenceSession(files[_FILE], settings, providers=[*providers, "CPUExecutionProvider"])
    except Exception as error:
        # onnxruntime's own exceptions share no base class but Exception.
        if type(error).__module__.startswith("onnxruntime"):
            raise Unsupported(f"ONNX Runtime can't load the model: {error}") from error
        raise


def load(
    files: Mapping[str, bytes], signature: Signature, *, device: Device, threads: int, options: Mapping[str, Json]
) -> Session:
    """Make a session of the bytes of `model.onnx`."""
    return _OnnxSession(files, signature, device=device, threads=threads, options=options)


def operations(
    files: Mapping[str, bytes],
    signature: Signature,
    *,
    device: Device,
    threads: int,
    options: Mapping[str, Json],
    arrays: list[Array],
    calls: int,
) -> list[Operation]:
    """Time by node from ONNX Runtime's own profiler, longest first, in ms a call."""
    with tempfile.TemporaryDirectory() as folder:
        session = _OnnxSession(
            files, signature, device=device, threads=threads, options=options, profile=f"{folder}/profile"
        )
        for _ in range(calls):
            session(arrays)
        side_by_side = session.side_by_side
        events = json.loads(Path(session.pick(arrays).session.end_profiling()).read_text())
    times: dict[tuple[str, str, str | None], float] = defaultdict(float)
    for event in events:
        details = event.get("args", {})
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            kind = details.get("op_name", "?")
            name = event["name"].removesuffix("_kernel_time")
            times[name, kind, _precision(kind, details)] += event["dur"] / 1000 / calls / side_by_side
    return sorted(
        (
            Operation(name=name, kind=kind, ms=ms, role=_role(kind), precision=precision)
            for (name, kind, precision), ms in times.items()
        ),
        key=lambda operation: -operation.ms,
    )


def _role(kind: str) -> Any:
    return "quantize" if kind in _QUANTIZE else "layout" if kind in _LAYOUT else "compute"


def _precision(kind: str, details: Mapping[str, Any]) -> str | None:
    types = [next(iter(item)) for item in details.get("input_type_shape", []) if item]
    if kind in _QUANTIZE or not types:
        return None
    return {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "uint8": "int8", "int8": "int8"}.get(types[0])
