"""Opening a workload: the model is built, checked and run once, before any command does its work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hotlap.core import Array, Signature
from hotlap.errors import TargetError, WorkloadError
from hotlap.workload.examples import make_example
from hotlap.workload.features import check_inputs, read_features
from hotlap.workload.inputs import OutputSpec, flatten_inputs, flatten_outputs, output_spec, to_arrays
from hotlap.workload.signature import SMALL, forward, traced
from hotlap.workload.target import Loaded
from hotlap.workload.user_code import running
from hotlap.workload.workload import Inputs, Workload

if TYPE_CHECKING:
    import torch

WHY = {
    "evaluation": "the data that accuracy is measured on",
    "score": "one number an example, higher is better",
    "training": "the data that it trains on",
    "loss": "what training makes smaller",
    "calibration": "inputs that quantization may look at",
    "features": "which stored features make up an input",
}
_CALLABLE = (
    "model", "example", "evaluation", "score", "metric", "slices", "calibration", "training", "loss", "loss_weight",
    "optimizer",
)  # fmt: skip
_SAME = 1e-4
"""Largest relative difference between two runs that counts as rounding (threads add up in another order)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A workload whose model is built, in eval mode, on the CPU and known to run.

    `treespec` says how the model's outputs nest (for inputs.restore_outputs). `warnings` go into the report.
    """

    loaded: Loaded
    workload: Workload
    model: torch.nn.Module
    signature: Signature
    treespec: OutputSpec
    warnings: tuple[str, ...] = ()

    def example(self, batch: int, **axes: int) -> Inputs:
        """Inputs with `batch` rows as the user's code gives them, the same each time."""
        return make_example(self.workload, batch, axes)

    def example_arrays(self, batch: int, **axes: int) -> list[Array]:
        """The same as arrays in signature order."""
        names = [spec.name for spec in self.signature.inputs]
        return to_arrays(flatten_inputs(self.example(batch, **axes), names))


_TRAINS = ("train", "tune")
_EVAL = "the model was left in training mode; hotlap put it into eval mode"


def open_workload(loaded: Loaded, *, needs: Sequence[str] = (), command: str = "optimize") -> Opened:
    """Build the model and check it on `example(2)` and `example(3)`. `needs` are further fields `command` wants.

    Raises WorkloadError (a field is missing or misbehaves) or TargetError (trained weights that do not fit).
    """
    workload = loaded.workload
    check_fields(loaded, needs, command)
    model, was_training, trained = _build(loaded)
    warnings = [_EVAL] if was_training and command not in _TRAINS else []
    signature, inputs, outputs = traced(model, workload)
    check_inputs(read_features(workload.features), signature)
    _check_numbers(outputs, forward(model, inputs))
    if command in _TRAINS:
        # What the file has made once is also part of the model that will be trained.
        for parameter in trained:
            parameter.requires_grad_(True)
    return Opened(
        loaded=loaded,
        workload=workload,
        model=model,
        signature=signature,
        treespec=output_spec(outputs),
        warnings=tuple(warnings),
    )


def check_fields(loaded: Loaded, needs: Sequence[str], command: str) -> None:
    """Raise WorkloadError for fields of the wrong type and for those that `command` needs and that are missing."""
    import torch

    workload = loaded.workload
    where = loaded.target.partition("@")[0]
    missing = [field for field in needs if getattr(workload, field) is None]
    if missing:
        wanted = ", ".join(f"`{field}` ({WHY[field]})" for field in missing)
        raise WorkloadError(f"hotlap {command} needs {wanted}, which the workload in {where} lacks")
    if isinstance(workload.model, torch.nn.Module):
        raise WorkloadError("the workload's `model` is a module; give a function that builds it: model=lambda: net")
    if getattr(workload.model, "__name__", "") == "generate":
        raise _generate()
    for field in _CALLABLE:
        value = getattr(workload, field)
        if not callable(value) and (value is not None or field in ("model", "example")):
            raise WorkloadError(f"the workload's `{field}` must be a function, not a {type(value).__name__}")
    for field in ("batch_size", "epochs"):
        value = getattr(workload, field)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise WorkloadError(f"the workload's `{field}` must be a whole number from 1 on, not {value!r}")
    _check_dynamic(workload)
    read_features(workload.features)
    if workload.evaluation is not None and workload.score is None:
        raise WorkloadError(
            f"the workload in {where} has `evaluation` but no `score` (outputs, targets) to judge it by"
        )
    if workload.metric is not None and workload.score is None:
        raise WorkloadError(f"the workload in {where} has `metric` but no `score`, which gives the rows it takes")


def _check_dynamic(workload: Workload) -> None:
    if workload.dynamic is None:
        return
    form = "{input: {axis: name or (name, smallest, largest)}}"
    if not isinstance(workload.dynamic, Mapping):
        raise WorkloadError(f"the workload's `dynamic` must be {form}, not a {type(workload.dynamic).__name__}")
    for name, axes in workload.dynamic.items():
        if not isinstance(axes, Mapping):
            raise WorkloadError(f"the workload's `dynamic` must be {form}; {name!r} has a {type(axes).__name__}")
        for axis in axes.values():
            named = isinstance(axis, str) or (
                isinstance(axis, tuple) and list(map(type, axis)) == [str, int, int] and 1 <= axis[1] <= axis[2]
            )
            if not named:
                raise WorkloadError(f"the workload's `dynamic` must be {form}; {name!r} has {axis!r}")


def _build(loaded: Loaded) -> tuple[torch.nn.Module, bool, list[torch.nn.Parameter]]:
    """The model in eval mode, frozen; whether it was left in training mode, and which parameters were not frozen."""
    import torch

    with running("model"):
        model = loaded.workload.model()
    if getattr(model, "__name__", "") == "generate":
        raise _generate()
    if not isinstance(model, torch.nn.Module):
        raise WorkloadError(f"the workload's `model` must give a torch.nn.Module; it gave a {type(model).__name__}")
    _check_no_lazy_layer(model)
    separate_buffers(model)
    if loaded.weights:
        load_weights(model, loaded)
    was_training = any(module.training for module in model.modules())
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return model.eval().requires_grad_(False), was_training, trained


def _check_no_lazy_layer(model: torch.nn.Module) -> None:
    from torch.nn.parameter import is_lazy

    for name, module in model.named_modules():
        if any(map(is_lazy, [*module.parameters(recurse=False), *module.buffers(recurse=False)])):
            called = f"{type(module).__name__} ({name})" if name else type(module).__name__
            raise WorkloadError(
                f"the workload's `model` has a {called} whose weights have no shape yet; call the model once on an "
                "example before you return it"
            )


def fill_empty_buffers(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give buffers that are None until a forward pass makes them what `tensors` has for them by name."""
    for name in _empty_buffers(model) & tensors.keys():
        owner, _, key = name.rpartition(".")
        module = model.get_submodule(owner)
        module._buffers[key] = tensors[name].to(next((one.device for one in model.parameters()), "cpu")).clone()


def _empty_buffers(model: torch.nn.Module) -> set[str]:
    return {
        f"{name}.{key}" if name else key
        for name, module in model.named_modules()
        for key, buffer in module._buffers.items()
        if buffer is None and key not in module._non_persistent_buffers_set
    }


def separate_buffers(model: torch.nn.Module) -> None:
    """Give buffers whose numbers share memory (an expanded one) memory for each: nothing can be copied into them."""
    for module in model.modules():
        for key, buffer in module._buffers.items():
            if buffer is not None and any(
                step == 0 and size > 1 for step, size in zip(buffer.stride(), buffer.shape, strict=True)
            ):
                module._buffers[key] = buffer.contiguous()


def load_weights(model: torch.nn.Module, loaded: Loaded) -> None:
    """Load the target's trained weights into `model`. Raises TargetError where they are damaged or do not fit."""
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_model

    assert loaded.weights is not None
    try:
        with safe_open(loaded.weights, framework="pt") as file:
            fill_empty_buffers(model, {name: file.get_tensor(name) for name in _empty_buffers(model) & {*file.keys()}})
        load_model(model, loaded.weights, strict=True)
    except SafetensorError as error:
        raise TargetError(f"{loaded.weights} is damaged: {error}") from error
    except RuntimeError as error:
        differs = _differences(model, loaded.weights, error)
        raise TargetError(
            f"{loaded.weights} does not fit the model of {loaded.name!r}: {differs}; give the weights of this model, "
            "or the workload that they are of"
        ) from error


def _differences(model: torch.nn.Module, weights: Path, error: RuntimeError) -> str:
    """In which names, or shapes, a file of weights differs from the model; one example of each."""
    import torch
    from safetensors import safe_open

    own = {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    with safe_open(weights, framework="pt") as file:
        given = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no dict
    # What is tied lies in the file once.
    places = {name: (value.data_ptr() or id(value), value.shape, value.stride()) for name, value in own.items()}
    there = {places[name] for name in given if name in places}
    missing = [name for name in own if name not in given and places[name] not in there]
    unknown = [name for name in given if name not in own]
    other = [name for name, shape in given.items() if name in own and shape != tuple(own[name].shape)]
    told = [f"it lacks {len(missing)} of {len(own)} tensors ({missing[0]!r})"] if missing else []
    told += [f"{len(unknown)} of its {len(given)} are unknown to the model ({unknown[0]!r})"] if unknown else []
    if other:
        shapes = f"{list(given[other[0]])}, not {list(own[other[0]].shape)}"
        told.append(f"{len(other)} {'has' if len(other) == 1 else 'have'} another shape ({other[0]!r}: {shapes})")
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ", ".join(told) or " ".join(lines[:4]) or type(error).__name__


def _generate() -> WorkloadError:
    return WorkloadError(
        "the workload's `model` is `generate`, which hotlap does not take: a decoder language model is one forward "
        "pass here; give the module itself"
    )


def _check_numbers(outputs: Any, again: Any) -> None:
    """The original must give finite numbers, and the same ones twice."""
    import torch

    first, second = flatten_outputs(outputs), flatten_outputs(again)
    for index, (a, b) in enumerate(zip(first, second, strict=True)):
        # Infinities are let through: masked logits are -Inf on purpose.
        if a.is_floating_point() and torch.isnan(a).any():
            raise WorkloadError(
                f"the original model gives NaN in output {index} on example({SMALL}); nothing can be compared with it"
            )
        if a.shape != b.shape or not _close(a, b):
            raise WorkloadError(
                f"the original model gives other numbers in output {index} when it is given the same inputs twice; "
                "take the randomness, or what it keeps from call to call, out of forward"
            )


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    if not a.is_floating_point():
        return bool((a == b).all())
    import torch

    finite = a[torch.isfinite(a)]
    largest = float(finite.abs().max()) if finite.numel() else 0.0
    return bool(((a == b) | ((a - b).abs() <= _SAME * largest)).all())
