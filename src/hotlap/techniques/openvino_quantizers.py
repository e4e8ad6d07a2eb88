"""Quantizers of activations in an OpenVINO model: measured one by one, and taken out."""

from __future__ import annotations

from typing import Any

import numpy as np

from hotlap.core import Array
from hotlap.techniques import sensitivity


def without_worst(model: Any, rows: list[Array], *, share: float, threads: int) -> Any:
    """The openvino.Model without the `share` of its quantizers that lose the most on `rows`."""
    found = _quantizers(model)
    if not found:
        return model
    losses = sensitivity.losses(_switched(model.clone(), rows, threads), len(found))
    for index in sensitivity.worst(losses, share):
        quantizer = found[index]
        for target in list(quantizer.output(0).get_target_inputs()):
            target.replace_source_output(quantizer.input_value(0))
    model.validate_nodes_and_infer_types()
    return model


def _quantizers(model: Any) -> list[Any]:
    """FakeQuantize nodes of what is computed anew in each call, in the model's order."""
    return [
        node
        for node in model.get_ordered_ops()
        if node.get_type_name() == "FakeQuantize" and not _is_constant(node.input_value(0).get_node())
    ]


def _is_constant(node: Any) -> bool:
    if node.get_type_name() in ("Parameter", "ReadValue"):
        return False
    inputs = node.input_values()
    return all(_is_constant(value.get_node()) for value in inputs) if inputs else True


def _switched(model: Any, rows: list[Array], threads: int) -> sensitivity.Run:
    """The model with a switch among its inputs for each quantizer, compiled once."""
    import openvino
    from openvino import opset13

    switches = []
    for index, quantizer in enumerate(_quantizers(model)):
        switch = opset13.parameter([], np.bool_, name=f"switch_{index}")
        targets = list(quantizer.output(0).get_target_inputs())
        chosen = opset13.select(switch, quantizer.output(0), quantizer.input_value(0))
        for target in targets:
            target.replace_source_output(chosen.output(0))
        switches.append(switch)
    model.add_parameters(switches)
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    compiled = openvino.Core().compile_model(model, "CPU", settings)

    def run(on: Any) -> list[Array]:
        answers = compiled([*rows, *(np.array(bool(one)) for one in on)])
        return [answers[output].copy() for output in compiled.outputs]

    return run
