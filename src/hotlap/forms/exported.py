"""module -> torch.export program, with the axes that vary left open."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hotlap.core import Context, Model, Signature
from hotlap.errors import Unsupported
from hotlap.workload.examples import BATCH


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
    _check_guards(program, model.signature)
    return Model(form="exported", value=program, signature=model.signature)


def _check_guards(program: Any, signature: Signature) -> None:
    """Raise Unsupported where the program holds for some of the sizes only that the axes may have.

    A program follows the way that the model took with the example. Its module says where it would have taken another
    (`if x.shape[0] < 4`), which what is made of it no longer does. Asked without computing anything.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    module = program.module()
    for sizes in _sizes(signature):
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            tensors = [
                torch.empty(
                    [sizes[axis] if isinstance(axis, str) else axis for axis in spec.shape],
                    dtype=getattr(torch, spec.dtype),
                )
                for spec in signature.inputs
            ]
            named = {spec.name: one for spec, one in zip(signature.inputs, tensors, strict=True)}
            try:
                module(**named) if signature.input_kind == "dict" else module(*tensors)
            except Exception as error:
                told = first_line(error)
                if "Guard failed" in told:
                    at = ", ".join(f"{name} {size}" for name, size in sizes.items())
                    raise Unsupported(
                        f"torch.export follows one way through the model only, and it takes another at {at}: "
                        f"{told.partition('Guard failed: ')[2]}"
                    ) from error


def _sizes(signature: Signature) -> Iterator[dict[str, int]]:
    """Sizes for all axes that vary, some within and those at the ends of what they may be."""
    names = dict.fromkeys(axis for spec in signature.inputs for axis in spec.shape if isinstance(axis, str))
    for place, usual in enumerate((3, 8, 17, 1000)):
        sizes = {}
        for name in names:
            low, high = signature.ranges.get(name, (1, None))
            within = (low, low + 1, (low + (high or 64)) // 2, high or low + 63)[place]
            sizes[name] = usual if name == BATCH else min(within, high or within)
        yield sizes


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
    """The first line of a library's message, at most 300 characters, with the error's type; where torch.export says
    which axis it could not leave open, that line.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    axis = next((line for line in lines if line.startswith("- You marked ")), None)
    if axis is not None:
        marked = axis[2:].partition(". If you")[0][:300]
        first = " (without `dynamic` axis 0 of every input varies; perhaps forward has len(x) for x.shape[0])"
        hint = first if ".size()[0]" in marked else ""
        return f"{type(error).__name__}: {marked}; leave that axis out of `dynamic`{hint}"
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
