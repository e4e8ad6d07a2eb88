"""Dynamic int8 for ONNX Runtime: weights in int8, activations quantized anew in each call. Needs no data."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from hotlap.core import Context, Form, Json, Model
from hotlap.techniques import ModelFacts

CHANGES: Mapping[Form, Form] = {"onnx": "onnx"}
PRECISION = "int8"

# Convolutions are left out: quantized dynamically they are several times slower in ONNX Runtime (ResNet-18: 0.27x).
_OPERATORS = ["MatMul", "Gemm", "Attention", "LSTM", "Gather"]


def supports(facts: ModelFacts) -> str | None:
    """Models of linear layers, attention or LSTMs."""
    if facts.device == "cuda":
        return "ONNX Runtime's CUDA provider has no dynamic int8"
    if facts.has("Linear", "Attention", "LSTM"):
        return None
    return "the model has no linear layer or LSTM; convolutions are slower with dynamic int8"


def variants(facts: ModelFacts) -> list[tuple[str, dict[str, Json]]]:
    """Weights scaled by channel, or by tensor; in 7 bits where sums of 8-bit products would overflow."""
    shared = {"reduce_range": facts.int8_overflows}
    return [("per channel", {"per_channel": True, **shared}), ("per tensor", {"per_channel": False, **shared})]


def apply(model: Model, options: Mapping[str, Json], context: Context) -> Model:
    """A new .onnx in the context's folder, with MatMulInteger and DynamicQuantizeLSTM."""
    from onnxruntime import quantization

    logging.getLogger().setLevel(logging.ERROR)
    path = context.folder / "dynamic_int8.onnx"
    quantization.quantize_dynamic(
        str(model.value),
        str(path),
        op_types_to_quantize=_OPERATORS,
        per_channel=bool(options["per_channel"]),
        reduce_range=bool(options["reduce_range"]),
        weight_type=quantization.QuantType.QInt8,
        extra_options={"MatMulConstBOnly": True},
    )
    return Model(form="onnx", value=path, signature=model.signature)
