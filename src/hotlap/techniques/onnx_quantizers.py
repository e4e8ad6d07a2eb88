"""Quantizers of activations in an ONNX graph of QDQ pairs: measured one by one, and taken out."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from hotlap.core import Array
from hotlap.techniques import sensitivity


def without_worst(proto: Any, rows: Mapping[str, Array], *, share: float, threads: int) -> Any:
    """The onnx.ModelProto without the `share` of its quantizers that lose the most on `rows` (by input)."""
    pairs = _pairs(proto)
    if not pairs:
        return proto
    run = _switched(copy.deepcopy(proto), rows, threads)
    worst = sensitivity.worst(sensitivity.losses(run, len(pairs)), share)
    sources = list(pairs)
    taken = {output: sources[index] for index in worst for output in pairs[sources[index]]}
    for node in proto.graph.node:
        for place, name in enumerate(node.input):
            if name in taken:
                node.input[place] = taken[name]
    _fold_weights(proto)
    _prune(proto)
    return proto


def _pairs(proto: Any) -> dict[str, list[str]]:
    """What is quantized in each call, by name, and the names under which it comes out dequantized."""
    stored = {tensor.name for tensor in proto.graph.initializer}
    given = {value.name for value in proto.graph.output}
    quantized = {
        node.output[0]: node.input[0]
        for node in proto.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] not in stored
    }
    found: dict[str, list[str]] = defaultdict(list)
    for node in proto.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in quantized and node.output[0] not in given:
            found[quantized[node.input[0]]].append(node.output[0])
    return dict(found)


def _switched(proto: Any, rows: Mapping[str, Array], threads: int) -> sensitivity.Run:
    """The graph with a switch among its inputs for each quantizer, loaded once."""
    import onnx
    import onnxruntime

    replaced, added = {}, []
    for index, (source, outputs) in enumerate(_pairs(proto).items()):
        switch = onnx.helper.make_tensor_value_info(f"switch_{index}", onnx.TensorProto.BOOL, [])
        proto.graph.input.append(switch)
        for output in outputs:
            replaced[output] = f"{output}_or_wide"
            added.append(onnx.helper.make_node("Where", [switch.name, output, source], [replaced[output]]))
    for node in proto.graph.node:
        for place, name in enumerate(node.input):
            if name in replaced:
                node.input[place] = replaced[name]
    proto.graph.node.extend(added)
    _sort(proto)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = threads, 3
    # Only what shapes need: fusions would merge a quantizer with what its switch takes it from.
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = onnxruntime.InferenceSession(proto.SerializeToString(), settings, providers=["CPUExecutionProvider"])

    def run(on: Any) -> list[Array]:
        switches = {f"switch_{index}": np.array(bool(one)) for index, one in enumerate(on)}
        answers: list[Array] = session.run(None, {**rows, **switches})
        return answers

    return run


def _sort(proto: Any) -> None:
    """Put nodes after those they take from, as ONNX asks."""
    made = {name: node for node in proto.graph.node for name in node.output if name}
    order: dict[int, Any] = {}
    for start in proto.graph.node:
        stack = [start]
        while stack:
            node = stack[-1]
            before = [made[name] for name in node.input if name in made and id(made[name]) not in order]
            if id(node) in order or not before:
                order.setdefault(id(stack.pop()), node)
            else:
                stack += before
    nodes = [copy.deepcopy(node) for node in order.values()]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def _fold_weights(proto: Any) -> None:
    """Store weights as floats where what they meet is no longer quantized: unpacking them took time in each call."""
    from onnx import numpy_helper

    stored = {tensor.name: tensor for tensor in proto.graph.initializer}
    weights = {
        node.output[0]: node
        for node in proto.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in stored
    }
    dequantized = {node.output[0] for node in proto.graph.node if node.op_type == "DequantizeLinear"}
    floats: dict[str, str] = {}
    for node in proto.graph.node:
        packed = [name for name in node.input if name in weights]
        if not packed or any(name in dequantized and name not in weights for name in node.input):
            continue
        for place, name in enumerate(node.input):
            if name in weights:
                if name not in floats:
                    floats[name] = f"{name}_wide"
                    value = _dequantized(weights[name], stored)
                    proto.graph.initializer.append(numpy_helper.from_array(value, floats[name]))
                node.input[place] = floats[name]


def _dequantized(node: Any, stored: Mapping[str, Any]) -> Array:
    from onnx import numpy_helper

    values, scale, *rest = (numpy_helper.to_array(stored[name]) for name in node.input)
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    shape = [-1 if place == axis % values.ndim else 1 for place in range(values.ndim)] if scale.size > 1 else []
    zero = rest[0].astype(np.float32).reshape(shape) if rest else np.float32(0)
    return np.asarray((values.astype(np.float32) - zero) * scale.reshape(shape), np.float32)


def _taken(node: Any) -> Iterator[str]:
    """What a node takes, and what the graphs within it take from around it."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _taken(inner)
        yield from (value.name for value in attribute.g.output)


def _prune(proto: Any) -> None:
    """Leave out nodes and weights that nothing takes any more."""
    used = {value.name for value in proto.graph.output}
    kept = []
    for node in reversed(proto.graph.node):
        if used & set(node.output):
            kept.append(copy.deepcopy(node))
            used |= set(_taken(node))
    stored = [copy.deepcopy(tensor) for tensor in proto.graph.initializer if tensor.name in used]
    del proto.graph.node[:], proto.graph.initializer[:]
    proto.graph.node.extend(reversed(kept))
    proto.graph.initializer.extend(stored)
