"""torch.export program -> OpenVINO .xml/.bin pair, in fp32."""

from __future__ import annotations

from hotlap.core import Context, Model
from hotlap.errors import Unsupported
from hotlap.forms.exported import first_line


def convert(model: Model, context: Context) -> Model:
    """Write `model.xml` and `model.bin` into the context's folder."""
    try:
        import openvino
    except ImportError as error:
        raise Unsupported(f"openvino is not installed ({error}); pip install openvino") from error
    specs = model.signature.inputs
    try:
        converted = openvino.convert_model(model.value)
        # The front end leaves every axis of a varying input open; the fixed ones are said again.
        converted.reshape(
            {port: [-1 if isinstance(size, str) else size for size in spec.shape] for port, spec in enumerate(specs)}
        )
        for port, spec in zip(converted.inputs, specs, strict=True):
            port.tensor.set_names({spec.name})
        path = context.folder / "model.xml"
        openvino.save_model(converted, str(path), compress_to_fp16=False)
    except Exception as error:
        # OpenVINO's front end raises RuntimeError, its own classes and whatever reading a graph runs into.
        raise Unsupported(f"OpenVINO can't convert the model: {first_line(error)}") from error
    return Model(form="openvino", value=path, signature=model.signature)
