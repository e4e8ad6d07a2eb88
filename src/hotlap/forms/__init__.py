"""Forms a model can take, and the conversions between them: one file each, found through `CONVERSIONS`.

A conversion changes no numbers. `lower` walks the shortest chain of them from the form a model has to that wanted.
"""

from __future__ import annotations

from collections import deque
from importlib import import_module

from hotlap.core import Context, Form, Model

CONVERSIONS: dict[tuple[Form, Form], str] = {
    ("module", "exported"): "hotlap.forms.exported",
    ("exported", "onnx"): "hotlap.forms.onnx",
    ("exported", "openvino"): "hotlap.forms.openvino",
}


def route(start: Form, end: Form) -> list[Form] | None:
    """The forms to pass through after `start` to come to `end`; None where no conversion leads there."""
    queue: deque[list[Form]] = deque([[start]])
    seen = {start}
    while queue:
        path = queue.popleft()
        if path[-1] == end:
            return path[1:]
        for takes, gives in CONVERSIONS:
            if takes == path[-1] and gives not in seen:
                seen.add(gives)
                queue.append([*path, gives])
    return None


def lower(model: Model, to: Form, context: Context) -> Model:
    """The same model in the form `to`. Raises Unsupported where a conversion fails."""
    steps = route(model.form, to)
    if steps is None:
        raise ValueError(f"no conversion from {model.form} to {to}")
    for form in steps:
        model = import_module(CONVERSIONS[model.form, form]).convert(model, context)
    return model
