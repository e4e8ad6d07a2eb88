"""Which kind of operation an ATen operator is."""

from __future__ import annotations

from functools import cache
from typing import Any

LAUNCH = "launch"
LAYOUT = "layout"
OTHER = "other"
WAITING = "waiting"

_OF_KIND = {
    "convolution": (
        "conv1d conv2d conv3d convolution _convolution conv_transpose1d conv_transpose2d conv_transpose3d "
        "conv_tbc mkldnn_convolution cudnn_convolution thnn_conv2d slow_conv3d convolution_overrideable"
    ),
    "matrix product": (
        "linear matmul mm addmm bmm baddbmm addbmm mv addmv dot vdot inner outer einsum bilinear tensordot "
        "chain_matmul _int_mm _scaled_mm mkldnn_linear _addmm_activation linalg_matmul linalg_multi_dot "
        "multi_dot"
    ),
    "attention": (
        "scaled_dot_product_attention _scaled_dot_product_flash_attention "
        "_scaled_dot_product_efficient_attention _scaled_dot_product_flash_attention_for_cpu "
        "_scaled_dot_product_attention_math _scaled_dot_product_cudnn_attention"
    ),
    "recurrent": "lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell mkldnn_rnn_layer",
    "normalization": (
        "batch_norm native_batch_norm cudnn_batch_norm layer_norm native_layer_norm group_norm "
        "native_group_norm instance_norm rms_norm _fused_rms_norm local_response_norm"
    ),
    "activation": (
        "relu relu6 gelu silu mish elu selu celu leaky_relu prelu rrelu hardtanh hardswish hardsigmoid "
        "softplus sigmoid tanh glu softmax _softmax log_softmax _log_softmax softmin logsigmoid log_sigmoid "
        "softsign threshold clamp_min"
    ),
    "pooling": (
        "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool1d_with_indices avg_pool1d "
        "avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
        "_adaptive_avg_pool2d adaptive_max_pool1d adaptive_max_pool2d mkldnn_max_pool2d fractional_max_pool2d"
    ),
    "resampling": (
        "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_bilinear2d upsample_bicubic2d "
        "upsample_linear1d upsample_trilinear3d _upsample_nearest_exact2d _upsample_bilinear2d_aa "
        "grid_sampler grid_sampler_2d grid_sampler_3d pixel_shuffle pixel_unshuffle interpolate "
        "affine_grid_generator"
    ),
    "reduction": (
        "sum mean amax amin max min argmax argmin prod norm linalg_vector_norm linalg_norm var std var_mean "
        "std_mean all any cumsum cumprod logsumexp topk sort argsort median nansum count_nonzero unique "
        "_unique2 cosine_similarity pairwise_distance cdist _cdist_forward bincount histc searchsorted "
        "nonzero"
    ),
    "embedding": (
        "embedding embedding_bag _embedding_bag _embedding_bag_forward_only index index_select gather take "
        "take_along_dim one_hot scatter scatter_add index_add index_put index_copy index_fill masked_select "
        "scatter_reduce"
    ),
    LAYOUT: (
        "contiguous clone copy to _to_copy cat concat concatenate stack hstack vstack pad constant_pad_nd "
        "reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d roll flip repeat "
        "repeat_interleave tile view reshape _reshape_alias flatten unflatten permute transpose t movedim "
        "moveaxis expand expand_as squeeze unsqueeze split chunk split_with_sizes unbind select slice narrow "
        "as_strided unfold im2col col2im fold view_as swapaxes swapdims tensor_split ravel channel_shuffle "
        "rot90 numpy_T mT to_mkldnn to_dense float half bfloat16 double type_as broadcast_to meshgrid tril "
        "triu alias detach"
    ),
    "filling": (
        "zeros ones full empty zeros_like ones_like full_like empty_like arange linspace zero fill "
        "scalar_tensor new_zeros new_ones new_full new_empty eye lift_fresh tensor"
    ),
}
_KIND = {name: kind for kind, names in _OF_KIND.items() for name in names.split()}
# Operators of the kind `layout` that move bytes; the others only describe the same bytes anew.
COPIES = frozenset(
    (
        "contiguous", "clone", "copy", "to", "_to_copy", "cat", "stack", "pad", "constant_pad_nd",
        "reflection_pad2d", "roll", "flip", "repeat",
    )
)  # fmt: skip


@cache
def kind_of(operator: str) -> str | None:
    """The kind of an operator such as `aten::add_`; None where only its parts can tell.

    Operators that no list names are told by torch's own tags: pointwise or reduction.
    """
    name = base_name(operator)
    if name in _KIND:
        return _KIND[name]
    tags = _tags(operator, name)
    if "pointwise" in tags:
        return "elementwise"
    return "reduction" if "reduction" in tags else None


def base_name(operator: str) -> str:
    """`aten::relu_` -> `relu`."""
    name = operator.rpartition("::")[2]
    return name if name.startswith("_") and name.endswith("__") else name.rstrip("_")


def _tags(operator: str, name: str) -> set[str]:
    import torch

    packet: Any = getattr(getattr(torch.ops, operator.partition("::")[0], None), name, None)
    if packet is None:
        return set()
    return {tag.name for overload in packet.overloads() for tag in getattr(packet, overload).tags}
