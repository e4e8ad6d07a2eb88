"""Multiply-adds of ATen operators, from the shapes of what goes in and comes out.

A multiply with its add counts once. Additions alone, comparisons and functions such as exp count nothing: they take
time, but no limit is stated for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

Formula = Callable[[tuple[Any, ...], Any], int]
"""From an operator's arguments, in the order of its schema, and its result."""


def _convolution(arguments: tuple[Any, ...], result: Any) -> int:
    # weight is [out, in / groups, *kernel]: each output needs one filter's worth.
    weight = arguments[1]
    return int(result.numel() * weight.numel() // weight.shape[0])


def _transposed_convolution(arguments: tuple[Any, ...], result: Any) -> int:
    # weight is [in, out / groups, *kernel]: each input is spread by its filters.
    image, weight = arguments[:2]
    return int(image.numel() * weight.numel() // weight.shape[0])


def _any_convolution(arguments: tuple[Any, ...], result: Any) -> int:
    transposed = arguments[6]
    return (_transposed_convolution if transposed else _convolution)(arguments, result)


def _linear(arguments: tuple[Any, ...], result: Any) -> int:
    data, weight = arguments[:2]
    return int(data.numel() * weight.shape[0]) if weight.dim() == 2 else int(data.numel())


def _product(arguments: tuple[Any, ...], result: Any) -> int:
    left = arguments[0]
    return int(result.numel() * left.shape[-1])


def _added_product(arguments: tuple[Any, ...], result: Any) -> int:
    left = arguments[1]
    return int(result.numel() * left.shape[-1])


def _summed_products(arguments: tuple[Any, ...], result: Any) -> int:
    batch, _, inner = arguments[1].shape
    return int(result.numel() * batch * inner)


def _bilinear(arguments: tuple[Any, ...], result: Any) -> int:
    weight = arguments[2]
    rows = result.numel() // weight.shape[0]
    return int(rows * weight.numel())


def _attention(arguments: tuple[Any, ...], result: Any) -> int:
    query, key, value = arguments[:3]
    scores = query.numel() // query.shape[-1] * key.shape[-2]
    return int(scores * (query.shape[-1] + value.shape[-1]))


def _recurrent(arguments: tuple[Any, ...], result: Any) -> int:
    # Either (input, state, weights, ...) or packed: (input, batch_sizes, state, weights, ...).
    data, second = arguments[:2]
    packed = hasattr(second, "dtype") and not second.is_floating_point()
    steps = data.shape[0] if packed else data.numel() // data.shape[-1]
    return int(steps * _matrices(arguments[3] if packed else arguments[2]))


def _cell(arguments: tuple[Any, ...], result: Any) -> int:
    data, _, *weights = arguments
    return int(data.numel() // data.shape[-1] * _matrices(weights))


def _self_attention(arguments: tuple[Any, ...], result: Any) -> int:
    # (query, key, value, width, heads, qkv weight, qkv bias, out weight, out bias, ...)
    query = arguments[0]
    return int(_tokens(query, arguments[3]) * _matrices(arguments[5:9]) + _self_products(query, arguments[3]))


def _encoder_layer(arguments: tuple[Any, ...], result: Any) -> int:
    # (src, width, heads, qkv weight, qkv bias, out weight, out bias, ..., feed-forward weights and biases, ...)
    source, width = arguments[:2]
    return int(_tokens(source, width) * _matrices(arguments[3:]) + _self_products(source, width))


def _tokens(source: Any, width: int) -> int:
    return int(source.numel() // width)


def _self_products(source: Any, width: int) -> int:
    lengths = [int(row.shape[0]) for row in source.unbind()]
    return sum(2 * length * length * width for length in lengths)


def _matrices(weights: Any) -> int:
    """Entries of the matrices among weights: each is used once a step; biases are only added."""
    return sum(math.prod(weight.shape) for weight in weights if hasattr(weight, "dim") and weight.dim() == 2)


FORMULAS: dict[str, Formula] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed_convolution),
    **dict.fromkeys(("convolution", "_convolution", "convolution_overrideable"), _any_convolution),
    **dict.fromkeys(("mm", "bmm", "mv", "dot", "vdot", "matmul", "_int_mm", "linalg_matmul"), _product),
    **dict.fromkeys(("addmm", "baddbmm", "addmv", "_addmm_activation"), _added_product),
    **dict.fromkeys(
        (
            "scaled_dot_product_attention",
            "_scaled_dot_product_flash_attention",
            "_scaled_dot_product_flash_attention_for_cpu",
            "_scaled_dot_product_efficient_attention",
            "_scaled_dot_product_cudnn_attention",
        ),
        _attention,
    ),
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _recurrent),
    **dict.fromkeys(("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"), _cell),
    "linear": _linear,
    "addbmm": _summed_products,
    "bilinear": _bilinear,
    "_native_multi_head_attention": _self_attention,
    "_transformer_encoder_layer_fwd": _encoder_layer,
}
