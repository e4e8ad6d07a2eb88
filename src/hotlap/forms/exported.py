"""module -> torch.export program, with the axes that vary left open."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hotlap.core import Context, Model, Signature
from hotlap.errors import Unsupported


def convert(model: Model, context: Context) -> Model:
    """Export `model.value`. The example must have a batch of 2 or more: 1 would be frozen in."""
    import torch

    from hotlap.workload.inputs import restore_inputs

    tensors = [torch.from_numpy(array.copy()) for array in context.example]
    inputs = restore_inputs(tensors, model.signature)
    args = (inputs,) if model.signature.input_kind == "tensor" else inputs if isinstance(inputs, tuple) else ()
    kwargs = inputs if isinstance(inputs, dict) else {}
    try:
        with torch.no_grad(), _flat_outputs(model.value):
            program = torch.export.export(
                model.value,
                args,
                kwargs,
                dynamic_shapes=_dynamic_shapes(model.value, model.signature),
                strict=False,
            )
    except Exception as error:
        # torch.export raises whatever the model's own code or any of torch's layers raises.
        raise Unsupported(f"torch.export can't capture the model: {first_line(error)}") from error
    return Model(form="exported", value=program, signature=model.signature)


@contextmanager
def _flat_outputs(module: Any) -> Iterator[None]:
    """Have the module give its outputs' tensors as a tuple: a program can't be saved with a dataclass of the user's."""
    from hotlap.workload.inputs import flatten_outputs

    before, forward = vars(module).get("forward"), module.forward

    @functools.wraps(forward)
    def flat(*args: Any, **kwargs: Any) -> Any:
        return tuple(flatten_outputs(forward(*args, **kwargs)))

    module.forward = flat
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before


def _dynamic_shapes(module: Any, signature: Signature) -> Any:
    """One entry an argument, in the order of `forward`; a `*args`/`**kwargs` forward nests them once more."""
    import inspect

    from torch.export import Dim

    def axes(shape: tuple[int | str, ...]) -> dict[int, Any]:
        return {axis: Dim.DYNAMIC for axis, size in enumerate(shape) if isinstance(size, str)}

    shapes = {spec.name: axes(spec.shape) for spec in signature.inputs}
    kinds = {parameter.kind for parameter in inspect.signature(module.forward).parameters.values()}
    if signature.input_kind == "dict":
        named = inspect.signature(module.forward).parameters
        loose = {name: shape for name, shape in shapes.items() if name not in named}
        if loose and inspect.Parameter.VAR_KEYWORD in kinds:
            kept = {name: shape for name, shape in shapes.items() if name in named}
            variadic = next(n for n, p in named.items() if p.kind is inspect.Parameter.VAR_KEYWORD)
            return {**kept, variadic: loose} if variadic not in kept else shapes
        return shapes
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return (tuple(shapes.values()),)
    return tuple(shapes.values())


def first_line(error: BaseException) -> str:
    """The first line of a library's message, at most 300 characters, with the error's type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
