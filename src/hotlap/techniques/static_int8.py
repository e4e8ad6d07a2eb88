"""Static int8 for ONNX Runtime: quantize/dequantize pairs around operators, ranges from calibration data.

ONNX Runtime's own quantizer; weights signed and per channel, activations unsigned (what VNNI multiplies fastest).
Without VNNI, sums of products overflow 16 bits, so weights keep to 7 bits there (`reduce_range`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hotlap.core import Array, Context, Form, Json, Model
from hotlap.errors import Unsupported
from hotlap.techniques import ModelFacts, onnx_quantizers, sensitivity

CHANGES: Mapping[Form, Form] = {"onnx": "onnx"}
PRECISION = "int8"

_OPERATORS = (
    "Conv",
    "MatMul",
    "Gemm",
    "Add",
    "Mul",
    "Relu",
    "Clip",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "Concat",
    "Resize",
    "ConvTranspose",
    "LeakyRelu",
    "Sigmoid",
    "Softmax",
    "Split",
    "Transpose",
    "Reshape",
    "Pad",
    "Gather",
    "Squeeze",
    "Unsqueeze",
)
_COMPUTE = ("Conv", "MatMul", "Gemm")
_METHODS = {"minmax": "MinMax", "percentile": "Percentile", "entropy": "Entropy"}


def supports(facts: ModelFacts) -> str | None:
    """Models that have something to multiply, and calibration data."""
    if facts.device == "cuda":
        return "ONNX Runtime's CUDA provider runs quantize/dequantize pairs in fp32"
    if not facts.has_calibration:
        return facts.calibration_missing
    return None if facts.has("Conv", "Linear", "Attention") else "the model has no convolution or linear layer"


def variants(facts: ModelFacts) -> list[tuple[str, dict[str, Json]]]:
    """Ranges by three methods; everything quantized, or only what multiplies.

    Last, the first of them without the quantizers that lose the most (sensitivity.py).
    """
    found: list[tuple[str, dict[str, Json]]] = [
        ("minmax", {"calibration": "minmax", "operators": "all"}),
        ("percentile", {"calibration": "percentile", "operators": "all"}),
        ("minmax, multiplies only", {"calibration": "minmax", "operators": "multiplies"}),
        ("entropy", {"calibration": "entropy", "operators": "all"}),
    ]
    found = found if facts.has("Conv") else [found[2], found[0], found[1]]
    found += sensitivity.variants(*found[0])
    return [(label, {**options, "reduce_range": facts.int8_overflows}) for label, options in found]


class _Reader:
    """Feeds calibration batches to ONNX Runtime's calibrater."""

    def __init__(self, context: Context, names: list[str]) -> None:
        assert context.calibration is not None
        self._names = names
        self._batches: Iterator[list[Array]] = iter(context.calibration())

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


def apply(model: Model, options: Mapping[str, Json], context: Context) -> Model:
    """A new .onnx in the context's folder, with QuantizeLinear/DequantizeLinear pairs."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    logging.getLogger().setLevel(logging.ERROR)
    prepared, path = context.folder / "prepared.onnx", context.folder / "static_int8.onnx"
    try:
        quant_pre_process(str(model.value), str(prepared), skip_symbolic_shape=True)
    except Exception as error:
        # Its optimizer raises ONNX Runtime's classes, which share no base but Exception.
        raise Unsupported(f"ONNX Runtime can't prepare the model for quantization: {error}") from error
    operators = _COMPUTE if options["operators"] == "multiplies" else _OPERATORS
    quantization.quantize_static(
        str(prepared),
        str(path),
        _Reader(context, [spec.name for spec in model.signature.inputs]),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=list(operators),
        per_channel=True,
        reduce_range=bool(options["reduce_range"]),
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        calibrate_method=getattr(quantization.CalibrationMethod, _METHODS[options["calibration"]]),
        extra_options=_extra(options),
    )
    share = options.get(sensitivity.OPTION)
    if share:
        _take_out_worst(path, float(share), model, context)
    return Model(form="onnx", value=path, signature=model.signature)


def _take_out_worst(path: Path, share: float, model: Model, context: Context) -> None:
    import onnx

    assert context.calibration is not None
    specs = model.signature.inputs
    rows = sensitivity.few_rows(next(iter(context.calibration())), specs)
    given = dict(zip([spec.name for spec in specs], rows, strict=True))
    onnx.save(onnx_quantizers.without_worst(onnx.load(path), given, share=share, threads=context.threads), path)


def _extra(options: Mapping[str, Json]) -> dict[str, Any]:
    extra: dict[str, Any] = {"WeightSymmetric": True, "ActivationSymmetric": False}
    if options["calibration"] == "percentile":
        extra["CalibPercentile"] = float(np.clip(options.get("percentile", 99.99), 90, 100))
    return extra
