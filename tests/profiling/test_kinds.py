from __future__ import annotations

import pytest

from hotlap.profiling import kinds
from hotlap.profiling.kinds import base_name, kind_of


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("aten::conv2d", "convolution"),
        ("aten::mkldnn_convolution", "convolution"),
        ("aten::linear", "matrix product"),
        ("aten::addmm", "matrix product"),
        ("aten::scaled_dot_product_attention", "attention"),
        ("aten::lstm", "recurrent"),
        ("aten::layer_norm", "normalization"),
        ("aten::relu_", "activation"),
        ("aten::_softmax", "activation"),
        ("aten::add_", "elementwise"),
        ("aten::erfinv", "elementwise"),
        ("aten::mean", "reduction"),
        ("aten::embedding", "embedding"),
        ("aten::max_pool2d", "pooling"),
        ("aten::upsample_nearest2d", "resampling"),
        ("aten::contiguous", "layout"),
        ("aten::view", "layout"),
        ("aten::zeros", "filling"),
        ("aten::_transformer_encoder_layer_fwd", None),
        ("aten::no_such_operator", None),
        ("mine::add", None),
    ],
)
def test_kinds(operator: str, kind: str | None) -> None:
    assert kind_of(operator) == kind


def test_no_operator_is_of_two_kinds() -> None:
    names = [name for names in kinds._OF_KIND.values() for name in names.split()]
    assert len(names) == len(set(names))


def test_copies_are_of_the_kind_layout() -> None:
    assert {kind_of(f"aten::{name}") for name in kinds.COPIES} == {kinds.LAYOUT}


def test_base_names() -> None:
    assert base_name("aten::relu_") == "relu"
    assert base_name("aten::_softmax") == "_softmax"
    assert base_name("aten::__and__") == "__and__"
