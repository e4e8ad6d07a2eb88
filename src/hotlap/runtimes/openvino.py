"""OpenVINO: runs an .xml/.bin pair on the CPU."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import Any

from hotlap.core import Array, Device, Json, Model, Operation, Session, Signature
from hotlap.errors import Unsupported
from hotlap.runtimes.fixed_shapes import fixed_axes, fixed_shapes
from hotlap.runtimes.micro_batches import MicroBatches, micro_batches
from hotlap.runtimes.streams import streams
from hotlap.workload.examples import BATCH

TAKES = "openvino"
PACKAGES = ("openvino",)
CODE = False
BUILD_OPTIONS: tuple[str, ...] = ()
MICRO_BATCHES = True
STREAMS = True

_XML, _BIN = "model.xml", "model.bin"
_QUANTIZE = {"FakeQuantize", "Quantize", "Dequantize"}
_LAYOUT = {
    "Reorder",
    "Transpose",
    "Reshape",
    "Convert",
    "Permute",
    "Squeeze",
    "Unsqueeze",
    "Concatenation",
    "Split",
}


def unavailable(device: Device) -> str | None:
    """Why OpenVINO can't run here on that device, or None."""
    if device != "cpu":
        return "OpenVINO has no CUDA device; use --device cpu for it"
    try:
        _core()
    except ImportError as error:
        return f"openvino is not installed ({error}); pip install openvino"
    return None


def variants(device: Device, precision: str) -> list[tuple[str, dict[str, Json]]]:
    """Exact fp32 or the machine's bf16 for what is not int8; shapes left open or fixed."""
    formats: list[tuple[str, dict[str, Json]]] = []
    if precision != "bf16":
        formats.append(("", {"precision": "fp32"} if precision == "fp32" else {"inference": "f32"}))
    if _has_bf16():
        formats.append(("bf16" if precision == "int8" else "", {"inference": "bf16", "precision": "bf16"}))
    return [
        (" ".join(filter(None, (label, shapes))), {**options, **static})
        for label, options in formats
        for shapes, static in (("", {}), ("static shapes", {"static": True}))
    ]


def build(model: Model, folder: Path, options: Mapping[str, Json], example: list[Array]) -> list[str]:
    """Copy the .xml and .bin pair."""
    source = Path(model.value)
    shutil.copyfile(source, folder / _XML)
    shutil.copyfile(source.with_suffix(".bin"), folder / _BIN)
    return [_XML, _BIN]


class _Whole:
    """A compiled model that takes the whole batch at once."""

    side_by_side = 1
    _COPIED_BYTES = 2**18
    """Handing arrays over takes some 40 microseconds, as long as a tiny model's call or copying this much."""

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()
        self._shapes: list[tuple[int, ...]] | None = None
        self._buffers: list[Array] | None = None

    def __call__(self, arrays: list[Array]) -> list[Array]:
        if [array.shape for array in arrays] != self._shapes:
            self._fit(arrays)
        if self._buffers is None:
            self._request.infer(dict(enumerate(arrays)), share_inputs=True)
        else:
            for buffer, array in zip(self._buffers, arrays, strict=True):
                buffer[...] = array
            return list(self._request.infer(None, share_inputs=True).to_tuple())
        return [output.data.copy() for output in self._request.output_tensors]

    def _fit(self, arrays: list[Array]) -> None:
        """Give the request memory of its own for small inputs of these shapes."""
        import openvino

        self._shapes, self._buffers = [array.shape for array in arrays], None
        if sum(array.nbytes for array in arrays) <= self._COPIED_BYTES:
            tensors = [openvino.Tensor(array.copy()) for array in arrays]
            for port, tensor in enumerate(tensors):
                self._request.set_input_tensor(port, tensor)
            self._buffers = [tensor.data for tensor in tensors]

    def profiling(self) -> Any:
        return self._request.get_profiling_info()


class _Parted:
    """A compiled model that takes a batch in parts, on streams of one thread each."""

    _REQUESTS_A_STREAM = 2
    """One that runs and one that waits, so that no stream stands still."""

    def __init__(self, compiled: Any, micro: MicroBatches, threads: int) -> None:
        self._micro = micro
        self.side_by_side = min(threads, micro.count)
        count = min(micro.count, self._REQUESTS_A_STREAM * threads)
        self._requests = [compiled.create_infer_request() for _ in range(count)]

    def __call__(self, arrays: list[Array]) -> list[Array]:
        parts, answers = self._micro.cut(arrays), []
        ring = len(self._requests)
        for index in range(len(parts) + ring):
            request = self._requests[index % ring]
            if index >= ring:
                request.wait()
                answers.append([output.data.copy() for output in request.output_tensors])
            if index < len(parts):
                request.start_async(dict(enumerate(parts[index])), share_inputs=True)
        return self._micro.join(answers)

    def profiling(self) -> Any:
        return [node for request in self._requests for node in request.get_profiling_info()]


class _Streams:
    """A compiled model that several threads may call at once, each taking a request that is free."""

    def __init__(self, compiled: Any, count: int) -> None:
        self.side_by_side = count
        self._free: SimpleQueue[_Whole] = SimpleQueue()
        for _ in range(count):
            self._last = _Whole(compiled)
            self._free.put(self._last)

    def __call__(self, arrays: list[Array]) -> list[Array]:
        one = self._free.get()
        try:
            return one(arrays)
        finally:
            self._last = one
            self._free.put(one)

    def profiling(self) -> Any:
        return self._last.profiling()


class _OpenVinoSession:
    """One compiled model for every shape, and one more for the measured shapes where `static` asks for it."""

    def __init__(
        self,
        files: Mapping[str, bytes],
        signature: Signature,
        *,
        threads: int,
        options: Mapping[str, Json],
        profile: bool = False,
    ) -> None:
        self._files, self._options, self._threads, self._profile = files, options, threads, profile
        self._signature, self._fixed = signature, fixed_axes(options)
        self._shapes = fixed_shapes(signature, self._fixed)
        self._streams, self._compiling = streams(options), Lock()
        self._special = self._specialized(micro_batches(signature, options)) if self._fixed else None
        self._general = None if self._special else self._whole({})

    def _whole(self, fixed: Mapping[str, int]) -> _Whole | _Streams:
        compiled = self._compile(fixed, self._streams)
        return _Whole(compiled) if self._streams == 1 else _Streams(compiled, self._streams)

    def _specialized(self, micro: MicroBatches | None) -> _Whole | _Streams | _Parted:
        if micro is None:
            return self._whole(self._fixed)
        return _Parted(self._compile({**self._fixed, BATCH: micro.rows}, streams=self._threads), micro, self._threads)

    def _compile(self, fixed: Mapping[str, int], streams: int = 1) -> Any:
        model = _read(self._files)
        if fixed:
            model.reshape({port: list(shape) for port, shape in enumerate(fixed_shapes(self._signature, fixed))})
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": self._options.get("inference", "f32"),
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": streams,
            "PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT",
            "PERF_COUNT": self._profile,
        }
        try:
            return _core().compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise Unsupported(f"OpenVINO can't compile the model: {error}") from error

    def pick(self, arrays: list[Array]) -> _Whole | _Streams | _Parted:
        """What runs arrays of these shapes."""
        if self._special is not None and [array.shape for array in arrays] == self._shapes:
            return self._special
        with self._compiling:
            if self._general is None:
                self._general = self._whole({})
        return self._general

    def __call__(self, arrays: list[Array]) -> list[Array]:
        return self.pick(arrays)(arrays)


@cache
def _core() -> Any:
    import openvino

    return openvino.Core()


@cache
def _has_bf16() -> bool:
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _read(files: Mapping[str, bytes]) -> Any:
    try:
        return _core().read_model(model=files[_XML], weights=files[_BIN])
    except RuntimeError as error:
        raise Unsupported(f"OpenVINO can't read the model: {error}") from error


def load(
    files: Mapping[str, bytes], signature: Signature, *, device: Device, threads: int, options: Mapping[str, Json]
) -> Session:
    """Compile the bytes of the .xml and .bin pair."""
    return _OpenVinoSession(files, signature, threads=threads, options=options)


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
    """Time by node from OpenVINO's performance counters, longest first, in ms a call."""
    session = _OpenVinoSession(files, signature, threads=threads, options=options, profile=True)
    times: dict[tuple[str, str, str], float] = {}
    chosen = session.pick(arrays)
    for _ in range(calls):
        chosen(arrays)
        for node in chosen.profiling():
            key = (node.node_name, node.node_type, node.exec_type)
            ms = node.real_time.total_seconds() * 1000 / calls / chosen.side_by_side
            times[key] = times.get(key, 0.0) + ms
    found = (
        Operation(name=name, kind=kind, ms=ms, role=_role(kind), precision=_precision(implementation))
        for (name, kind, implementation), ms in times.items()
        if ms > 0
    )
    return sorted(found, key=lambda operation: -operation.ms)


def _role(kind: str) -> Any:
    return "quantize" if kind in _QUANTIZE else "layout" if kind in _LAYOUT else "compute"


def _precision(implementation: str) -> str | None:
    """The format at the end of an implementation's name, such as `brgconv_avx512_core_vnni_I8`."""
    suffix = implementation.lower().rsplit("_", 1)[-1]
    return {"f32": "fp32", "fp32": "fp32", "bf16": "bf16", "f16": "fp16", "i8": "int8", "u8": "int8"}.get(suffix)
