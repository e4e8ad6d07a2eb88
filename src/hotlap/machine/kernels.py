"""The kernels that a machine's limits are measured with: products of known size that keep every core busy.

Several libraries are asked for each number format because no one of them is fastest everywhere: on a Zen 5 CPU
MKL's fp32 product reached 100e9 multiply-adds a second, oneDNN's convolution 225e9.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from hotlap.core import Device

# The sides of the square products. Small ones fit the nearest caches, large ones keep many cores busy.
_SIDES = (512, 1024, 2048)
_CUDA_SIDES = (2048, 4096, 8192)
# (channels, side of the image) of 3 x 3 convolutions like those in the middle of common networks.
_IMAGES = ((128, 56), (256, 28), (512, 28))


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One product: calling `call` makes `multiply_adds` of them in number format `precision`."""

    precision: str
    name: str
    multiply_adds: int
    call: Callable[[], Any]


def torch_kernels(device: Device) -> Iterator[Kernel]:
    """Matrix products and convolutions of torch, smallest first."""
    import torch

    formats = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if device == "cuda":
        # cuDNN's convolutions use TF32 for fp32 unless told otherwise, so that is what an fp32 model can reach.
        torch.backends.cuda.matmul.allow_tf32 = True
    for side in _CUDA_SIDES if device == "cuda" else _SIDES:
        for precision, dtype in formats.items():
            yield Kernel(
                precision=precision,
                name=f"torch.mm {side} x {side}",
                multiply_adds=side**3,
                call=_torch_product(side, dtype, device),
            )
        if (call := _torch_int8_product(side, device)) is not None:
            yield Kernel(precision="int8", name=f"torch._int_mm {side} x {side}", multiply_adds=side**3, call=call)
    for channels, side in _IMAGES:
        for precision, dtype in formats.items():
            yield Kernel(
                precision=precision,
                name=f"torch.conv2d 3 x 3, {channels} channels, {side} x {side}",
                multiply_adds=9 * channels**2 * side**2,
                call=_torch_convolution(channels, side, dtype, device),
            )


def _torch_product(side: int, dtype: Any, device: Device) -> Callable[[], Any]:
    import torch

    left = torch.randn(side, side, device=device, dtype=dtype)
    out = torch.empty_like(left)
    return lambda: torch.mm(left, left, out=out)


def _torch_int8_product(side: int, device: Device) -> Callable[[], Any] | None:
    import torch

    left = torch.randint(-127, 127, (side, side), dtype=torch.int8, device=device)
    # cuBLAS takes int8 only with the right-hand side in column order.
    right = left.t().contiguous().t()
    try:
        torch._int_mm(left[:32], right)
    except (RuntimeError, AttributeError):
        return None
    return lambda: torch._int_mm(left, right)


def _torch_convolution(channels: int, side: int, dtype: Any, device: Device) -> Callable[[], Any]:
    import torch

    image = torch.randn(1, channels, side, side, device=device, dtype=dtype)
    weight = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
    image, weight = (tensor.to(memory_format=torch.channels_last) for tensor in (image, weight))
    return lambda: torch.conv2d(image, weight, padding=1)


def openvino_kernels(threads: int) -> Iterator[Kernel]:
    """Two matrix products with a ReLU after each, as OpenVINO compiles them, in every format that it knows."""
    import numpy as np
    import openvino

    core = openvino.Core()
    # Compiling takes longer than running, so one side has to do.
    side = 768
    values = np.random.default_rng(0).standard_normal((side, side), np.float32)
    for precision in ("fp32", "bf16", "int8"):
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
        }
        compiled = core.compile_model(_openvino_products(values, precision == "int8"), "CPU", settings)
        request = compiled.create_infer_request()
        yield Kernel(
            precision=precision,
            name=f"OpenVINO MatMul {side} x {side}",
            multiply_adds=2 * side**3,
            call=partial(request.infer, {0: values}, share_inputs=True),
        )


def _openvino_products(values: Any, int8: bool) -> Any:
    import numpy as np
    import openvino
    from openvino import opset13 as operations

    def quantized(tensor: Any, levels: int) -> Any:
        low, high = np.float32(-4), np.float32(4)
        return operations.fake_quantize(tensor, low, high, low, high, levels) if int8 else tensor

    parameter = operations.parameter(list(values.shape), np.float32)
    tensor = parameter
    for _ in range(2):
        weight = quantized(operations.constant(values), 255)
        tensor = operations.relu(operations.matmul(quantized(tensor, 256), weight, False, False))
    return openvino.Model([operations.reduce_sum(tensor, np.array([1]))], [parameter])


def passes_over_memory(size: int, device: Device) -> Iterator[tuple[str, int, Callable[[], Any]]]:
    """Ways to go once through `size` bytes: (name, bytes moved, call)."""
    try:
        import torch
    except ImportError:
        yield from _numpy_passes(size)
        return
    values = torch.ones(size // 4, device=device)
    half = values.numel() // 2
    source, target = values[:half], values[half : 2 * half]
    yield "torch sum", size, lambda: values.sum()
    yield "torch copy_", 8 * half, lambda: target.copy_(source)
    yield "torch relu_", 2 * size, lambda: torch.relu_(values)


def _numpy_passes(size: int) -> Iterator[tuple[str, int, Callable[[], Any]]]:
    """Without torch: one thread's copy, which is less than all cores can move."""
    import numpy as np

    values = np.ones(size // 4, np.float32)
    half = len(values) // 2
    yield "numpy copyto", 8 * half, lambda: np.copyto(values[half : 2 * half], values[:half])


def empty_calls(device: Device) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Calls of eager torch with next to no work in them, by kind of operation."""
    import torch
    import torch.nn.functional as functional

    one = torch.zeros(1, device=device)
    image = torch.zeros(1, 1, 1, 1, device=device)
    matrix = torch.zeros(1, 1, device=device)
    yield "elementwise", lambda: torch.relu(one)
    yield "matrix product", lambda: functional.linear(matrix, matrix, one)
    yield "convolution", lambda: torch.conv2d(image, image, one)
    yield "normalization", lambda: functional.layer_norm(one, (1,))
    yield "view", lambda: one.view(1)


def empty_sessions(threads: int) -> Iterator[tuple[str, Callable[[], Callable[[], Any]]]]:
    """What makes a call of each runtime's session of a model with next to no work in it (it may lack a package)."""
    yield "onnxruntime", lambda: _empty_onnxruntime(threads)
    yield "openvino", lambda: _empty_openvino(threads)


def _empty_onnxruntime(threads: int) -> Callable[[], Any]:
    import numpy as np
    import onnxruntime
    from onnx import TensorProto, helper

    shape = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "empty", shape[:1], shape[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    feed = {"x": np.zeros((1, 1), np.float32)}
    return lambda: session.run(None, feed)


def _empty_openvino(threads: int) -> Callable[[], Any]:
    import numpy as np
    import openvino
    from openvino import opset13 as operations

    parameter = operations.parameter([1, 1], np.float32)
    model = openvino.Model([operations.relu(parameter)], [parameter])
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    values = np.zeros((1, 1), np.float32)
    return lambda: request.infer({0: values}, share_inputs=True)
