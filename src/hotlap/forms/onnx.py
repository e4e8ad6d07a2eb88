"""torch.export program -> .onnx file, its open axes named as in the signature."""

from __future__ import annotations

import re
from pathlib import Path

from hotlap.core import Context, Model, Signature
from hotlap.errors import Unsupported
from hotlap.forms.exported import first_line

_ANY_SIZE = 2**62
_GROWTH, _SMALL = 1.1, 2**20
"""Folding may make a file larger by this factor and so many bytes."""


def convert(model: Model, context: Context) -> Model:
    """Write `model.onnx` into the context's folder with torch's dynamo exporter."""
    import torch

    names = [spec.name for spec in model.signature.inputs]
    path = context.folder / "model.onnx"
    try:
        program = torch.onnx.export(
            model.value,
            dynamo=True,
            input_names=names,
            output_names=[spec.name for spec in model.signature.outputs],
            verbose=False,
        )
        assert program is not None
        program.save(str(path), external_data=False)
    except Exception as error:
        # The exporter raises whatever onnxscript, onnx or an operator's own lowering raises.
        raise Unsupported(f"torch.onnx.export can't convert the model: {first_line(error)}") from error
    _fold_constants(path)
    _name_axes(path, model.signature)
    return Model(form="onnx", value=path, signature=model.signature)


def _fold_constants(path: Path) -> None:
    """Compute once what depends on weights alone, such as an LSTM's reordered gates.

    The exporter folds small constants only, and quantizers see a weight only where it is stored as one. What would
    make the file much larger, such as a mask that is spread out, is left as it is.
    """
    import onnx
    from onnxscript import optimizer

    proto = onnx.load(path)
    folded = optimizer.optimize(proto, input_size_limit=_ANY_SIZE, output_size_limit=_ANY_SIZE)
    if folded.ByteSize() <= _GROWTH * proto.ByteSize() + _SMALL:
        onnx.save(folded, path)


def _name_axes(path: Path, signature: Signature) -> None:
    """Call the open axes what the signature calls them: the exporter makes up names such as `s77`."""
    import onnx

    proto = onnx.load(path)
    given = {value.name: value for value in proto.graph.input}
    missing = [spec.name for spec in signature.inputs if spec.name not in given]
    if missing:
        raise Unsupported(f"the exported graph does not use the input {missing[0]!r}")
    renamed = {}
    for spec in signature.inputs:
        for dim, size in zip(given[spec.name].type.tensor_type.shape.dim, spec.shape, strict=True):
            if isinstance(size, str):
                if not dim.dim_param:
                    raise Unsupported(f"axis {size!r} of {spec.name!r} was frozen to {dim.dim_value} in the export")
                renamed[dim.dim_param] = size
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, renamed)) + r")\b") if renamed else None
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param and pattern:
                dim.dim_param = pattern.sub(lambda match: renamed[match[1]], dim.dim_param)
    onnx.save(proto, path)
