"""Static int8 by NNCF, for OpenVINO and, as QDQ, for ONNX Runtime; ranges and biases from calibration data."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hotlap.core import Array, Context, Form, Json, Model
from hotlap.errors import Unsupported
from hotlap.techniques import ModelFacts, onnx_quantizers, openvino_quantizers, sensitivity

CHANGES: Mapping[Form, Form] = {"openvino": "openvino", "onnx": "onnx"}
PRECISION = "int8"


def supports(facts: ModelFacts) -> str | None:
    """Models that have something to multiply, and calibration data."""
    if facts.device == "cuda":
        return "NNCF's int8 is for the CPU runtimes"
    if not facts.has_calibration:
        return facts.calibration_missing
    if facts.has("Conv", "Linear", "Attention", "LSTM", "GRU"):
        return None
    return "the model has no convolution or linear layer"


def variants(facts: ModelFacts) -> list[tuple[str, dict[str, Json]]]:
    """Symmetric activations are faster, asymmetric ones ("mixed") often more exact; a mode for transformers.

    Last, the first of them without the quantizers that lose the most (sensitivity.py).
    """
    found: list[tuple[str, dict[str, Json]]] = [("", {"preset": "performance"}), ("mixed", {"preset": "mixed"})]
    if facts.has("Attention", "LayerNorm", "RMSNorm"):
        transformer = {"preset": "mixed", "model_type": "transformer"}
        found = [("transformer", transformer), ("transformer, smooth 0.5", {**transformer, "smooth_quant_alpha": 0.5})]
    found += sensitivity.variants(*found[0])
    return [(label, {**options, "reduce_range": facts.int8_overflows}) for label, options in found]


def apply(model: Model, options: Mapping[str, Json], context: Context) -> Model:
    """A new model of the same form in the context's folder."""
    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)
    assert context.calibration is not None
    batches = list(context.calibration())
    names = [spec.name for spec in model.signature.inputs]
    source = _read(model)
    is_onnx = model.form == "onnx"
    dataset = nncf.Dataset(batches, lambda batch: dict(zip(names, batch, strict=True)))
    settings: dict[str, Any] = {"preset": nncf.QuantizationPreset(options["preset"])}
    if options.get("model_type") == "transformer":
        settings["model_type"] = nncf.ModelType.TRANSFORMER
    advanced: dict[str, Any] = {}
    if options["reduce_range"]:
        # Weights in half their range in every layer; as it comes, NNCF guards the first one alone.
        advanced["overflow_fix"] = nncf.OverflowFix.ENABLE
    if "smooth_quant_alpha" in options:
        alpha = float(options["smooth_quant_alpha"])
        advanced["smooth_quant_alphas"] = nncf.AdvancedSmoothQuantParameters(matmul=alpha, convolution=-1)
    settings["advanced_parameters"] = nncf.AdvancedQuantizationParameters(**advanced)
    try:
        quantized = nncf.quantize(source, dataset, subset_size=len(batches), **settings)
    except Exception as error:
        # NNCF raises its own classes, the backend's, and NetworkX's.
        raise Unsupported(f"NNCF can't quantize the model: {type(error).__name__}: {error}") from error
    share = options.get(sensitivity.OPTION)
    if share:
        rows = sensitivity.few_rows(batches[0], model.signature.inputs)
        quantized = _without_worst(quantized, dict(zip(names, rows, strict=True)), float(share), context, is_onnx)
    return Model(form=model.form, value=_write(quantized, context.folder, is_onnx), signature=model.signature)


def _without_worst(quantized: Any, rows: dict[str, Array], share: float, context: Context, is_onnx: bool) -> Any:
    if is_onnx:
        return onnx_quantizers.without_worst(quantized, rows, share=share, threads=context.threads)
    return openvino_quantizers.without_worst(quantized, list(rows.values()), share=share, threads=context.threads)


def _read(model: Model) -> Any:
    if model.form == "onnx":
        import onnx

        return onnx.load(model.value)
    import openvino

    return openvino.Core().read_model(str(model.value))


def _write(quantized: Any, folder: Path, is_onnx: bool) -> Path:
    if is_onnx:
        import onnx

        path = folder / "nncf_int8.onnx"
        onnx.save(quantized, path)
        return path
    import openvino

    path = folder / "nncf_int8.xml"
    openvino.save_model(quantized, str(path), compress_to_fp16=False)
    return path
