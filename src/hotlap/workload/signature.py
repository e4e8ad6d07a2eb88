"""The signature: names, types and shapes of a model's inputs and outputs, and which axes vary.

Which output axes vary is found by running the model, not by asking: it runs with two sizes of each axis that
varies, and an output axis whose size changed varies too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from hotlap.core import Signature, TensorSpec
from hotlap.errors import WorkloadError
from hotlap.workload.examples import BATCH, axis_name, axis_ranges, make_example, takes
from hotlap.workload.inputs import (
    call,
    flatten_inputs,
    flatten_outputs,
    input_kind,
    input_names,
    output_spec,
    output_tree,
)
from hotlap.workload.user_code import naming, running
from hotlap.workload.workload import Inputs, Outputs, Workload

if TYPE_CHECKING:
    import torch

SMALL, OTHER = 2, 3
"""Batch sizes of the trial runs: 1 is special to many models and to torch.export, 2 and 3 are not."""

Named = dict[str, dict[int, str]]


def signature(model: torch.nn.Module, workload: Workload) -> Signature:
    """Run the model on `example(2)`, `example(3)` and another size of each further axis, and compare the shapes.

    Raises as `traced` does.
    """
    return traced(model, workload)[0]


def traced(model: torch.nn.Module, workload: Workload) -> tuple[Signature, Inputs, Outputs]:
    """The signature with the inputs `example(2)` and the outputs that the model gave for them.

    Raises WorkloadError where `example` ignores a size, an axis varies that `dynamic` leaves out, or the model
    fails on a size that `dynamic` allows.
    """
    inputs = make_example(workload, SMALL)
    with naming("example"):
        names = input_names(model, inputs)
    tensors = flatten_inputs(inputs, names)
    _check_types(names, tensors)
    varying = _varying(workload, names, tensors)
    ranges = axis_ranges(workload)
    for name, axes in varying.items():
        _check_size(name, tensors[names.index(name)], axes, {BATCH: SMALL})
    outputs = forward(model, inputs)
    output_spec(outputs)
    trials = [_other_batch(model, workload, names, varying, tensors)]
    for axis in sorted({axis for axes in varying.values() for axis in axes.values()} - {BATCH}):
        trials.append(_other_size(model, workload, names, varying, tensors, inputs, axis, ranges[axis]))
    used = {axis for axes in varying.values() for axis in axes.values()}
    found = Signature(
        inputs=tuple(
            TensorSpec(
                name=name,
                dtype=dtype_name(tensor),
                shape=tuple(varying[name].get(axis, size) for axis, size in enumerate(tensor.shape)),
            )
            for name, tensor in zip(names, tensors, strict=True)
        ),
        outputs=_output_specs(flatten_outputs(outputs), trials, _sizes(names, varying, tensors)),
        input_kind=cast(Any, input_kind(inputs)),
        output_tree=output_tree(outputs),
        ranges={axis: limits for axis, limits in ranges.items() if axis in used},
    )
    return found, inputs, outputs


def forward(model: torch.nn.Module, inputs: Inputs) -> Outputs:
    """One forward pass without gradients; what the model raises becomes a WorkloadError."""
    import torch

    with torch.no_grad(), running("model"):
        return call(model, inputs)


def dtype_name(tensor: torch.Tensor) -> str:
    """NumPy's name of the tensor's type; bfloat16 crosses as float32."""
    name = str(tensor.dtype).removeprefix("torch.")
    return "float32" if name == "bfloat16" else name


def _check_types(names: Sequence[str], tensors: Sequence[torch.Tensor]) -> None:
    import torch

    for name, tensor in zip(names, tensors, strict=True):
        if tensor.dtype == torch.bfloat16 or tensor.layout != torch.strided or tensor.is_quantized:
            raise WorkloadError(
                f"the workload's `example` gives {name!r} as {tensor.dtype} ({tensor.layout}); inputs cross "
                "processes as NumPy arrays: give dense float32, float16, int or bool ones, and cast in the model"
            )


class _Trial:
    """What one other size of one axis did to the outputs."""

    def __init__(self, axis: str, size: int, outputs: list[torch.Tensor]) -> None:
        self.axis, self.size, self.outputs = axis, size, outputs


def _varying(workload: Workload, names: Sequence[str], tensors: Sequence[torch.Tensor]) -> Named:
    """For each input, its axes that vary, by index."""
    dynamic = workload.dynamic or {}
    unknown = [name for name in dynamic if name not in names]
    if unknown:
        raise WorkloadError(
            f"the workload's `dynamic` names {unknown[0]!r}, which is no input; the inputs are {', '.join(names)}"
        )
    varying: Named = {}
    for name, tensor in zip(names, tensors, strict=True):
        axes = dynamic.get(name, {0: BATCH} if tensor.ndim else {})
        for axis in axes:
            if not isinstance(axis, int) or not -tensor.ndim <= axis < tensor.ndim:
                raise WorkloadError(
                    f"the workload's `dynamic` gives axis {axis!r} of {name!r}, which has shape {list(tensor.shape)}"
                )
        varying[name] = {axis % tensor.ndim: axis_name(value) for axis, value in axes.items()}
    if not any(axis == BATCH for axes in varying.values() for axis in axes.values()):
        raise WorkloadError("the workload's `dynamic` has no axis called 'batch'; name the one that `example` sets so")
    return varying


def _check_size(name: str, tensor: torch.Tensor, axes: Mapping[int, str], sizes: Mapping[str, int]) -> None:
    for index, axis in axes.items():
        if axis in sizes and tensor.shape[index] != sizes[axis]:
            what = "the batch size" if axis == BATCH else f"the size of axis {axis!r}"
            given = f"{sizes[axis]}" if axis == BATCH else f"{axis}={sizes[axis]}"
            raise WorkloadError(
                f"the workload's `example` ignores {what}: example({given}) gives {name!r} of shape "
                f"{list(tensor.shape)}, where axis {index} should be {sizes[axis]}"
            )


def _other_batch(
    model: torch.nn.Module, workload: Workload, names: Sequence[str], varying: Named, base: Sequence[torch.Tensor]
) -> _Trial:
    inputs = make_example(workload, OTHER)
    with naming("example"):
        tensors = flatten_inputs(inputs, names)
    for name, tensor, first in zip(names, tensors, base, strict=True):
        _check_size(name, tensor, varying[name], {BATCH: OTHER})
        if tensor.ndim != first.ndim or tensor.dtype != first.dtype:
            raise WorkloadError(
                f"the workload's `example` gives {name!r} as {dtype_name(first)} {list(first.shape)} for batch "
                f"{SMALL}, but {dtype_name(tensor)} {list(tensor.shape)} for batch {OTHER}"
            )
        for index in range(first.ndim):
            if index not in varying[name] and tensor.shape[index] != first.shape[index]:
                raise WorkloadError(
                    f"axis {index} of {name!r} has size {first.shape[index]} in example({SMALL}) and "
                    f"{tensor.shape[index]} in example({OTHER}); name it in `dynamic`, or give it one size"
                )
    return _Trial(BATCH, OTHER, flatten_outputs(forward(model, inputs)))


def _other_size(
    model: torch.nn.Module,
    workload: Workload,
    names: Sequence[str],
    varying: Named,
    base: Sequence[torch.Tensor],
    inputs: Inputs,
    axis: str,
    limits: tuple[int, int | None],
) -> _Trial:
    """Run with another size of `axis`; the first that works, since some models take multiples of 8 or 32 only."""
    now = _sizes(names, varying, base)[axis]
    low, high = limits
    if not low <= now <= (high or now):
        raise WorkloadError(
            f"`example` gives axis {axis!r} size {now}, outside its range in `dynamic`, {low} to {high}"
        )
    tries = [now * 2, now // 2, now - 1, now + 1, low, *([high] if high else [])]
    tries = [size for size in dict.fromkeys(tries) if size != now and max(low, 1) <= size <= (high or size)]
    failure: WorkloadError | None = None
    for size in tries:
        try:
            other = _with_size(workload, names, varying, inputs, axis, size)
            if other is not None:
                return _Trial(axis, size, flatten_outputs(forward(model, other)))
        except WorkloadError as error:
            failure = failure or error
    if failure is None:
        raise WorkloadError(f"`dynamic` lets axis {axis!r} vary, but its range holds only {now}; leave it out")
    cut = "" if takes(workload, axis) else f" (what `example` gave was cut for that, since it takes no {axis!r})"
    raise WorkloadError(f"`dynamic` lets axis {axis!r} vary, but no other size works{cut}: {failure}")


def _with_size(
    workload: Workload, names: Sequence[str], varying: Named, inputs: Inputs, axis: str, size: int
) -> Inputs | None:
    """Inputs with that size: asked of `example`, or cut from `inputs` where it can't be asked."""
    if takes(workload, axis):
        other = make_example(workload, SMALL, {axis: size})
        for name, tensor in zip(names, flatten_inputs(other, names), strict=True):
            _check_size(name, tensor, varying[name], {axis: size})
        return other
    cut = []
    for name, tensor in zip(names, flatten_inputs(inputs, names), strict=True):
        for index in (index for index, called in varying[name].items() if called == axis):
            if tensor.shape[index] < size:
                return None
            tensor = tensor.narrow(index, 0, size)
        cut.append(tensor.contiguous())
    kind = input_kind(inputs)
    return cut[0] if kind == "tensor" else tuple(cut) if kind == "tuple" else dict(zip(names, cut, strict=True))


def _sizes(names: Sequence[str], varying: Named, tensors: Sequence[torch.Tensor]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for name, tensor in zip(names, tensors, strict=True):
        for index, axis in varying[name].items():
            if sizes.setdefault(axis, tensor.shape[index]) != tensor.shape[index]:
                raise WorkloadError(
                    f"axis {axis!r} has size {sizes[axis]} in one input and {tensor.shape[index]} in {name!r}; "
                    "give them two names in `dynamic`"
                )
    return sizes


def _output_specs(
    outputs: Sequence[torch.Tensor], trials: Sequence[_Trial], sizes: Mapping[str, int]
) -> tuple[TensorSpec, ...]:
    for trial in trials:
        if len(trial.outputs) != len(outputs) or any(
            a.ndim != b.ndim or a.dtype != b.dtype for a, b in zip(outputs, trial.outputs, strict=True)
        ):
            raise WorkloadError(
                f"the model's outputs change in number, rank or type when axis {trial.axis!r} has size "
                f"{trial.size} in place of {sizes[trial.axis]}"
            )

    def size(index: int, axis: int) -> int | str:
        now = int(outputs[index].shape[axis])
        changed = [trial for trial in trials if trial.outputs[index].shape[axis] != now]
        if not changed:
            return now
        trial = changed[0]
        same = now == sizes[trial.axis] and trial.outputs[index].shape[axis] == trial.size
        return trial.axis if same and len(changed) == 1 else f"out{index}_dim{axis}"

    return tuple(
        TensorSpec(
            name=f"output_{index}",
            dtype=dtype_name(output),
            shape=tuple(size(index, axis) for axis in range(output.ndim)),
        )
        for index, output in enumerate(outputs)
    )
