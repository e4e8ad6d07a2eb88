"""The model and its optimizer, made ready to train as the settings say."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from hotlap.errors import InputError, WorkloadError
from hotlap.training import heap, recompute
from hotlap.training.owners import hooks_of, owners_of
from hotlap.training.seeding import seed_generators
from hotlap.training.settings import Settings
from hotlap.workload.opened import load_weights, separate_buffers
from hotlap.workload.target import Loaded
from hotlap.workload.user_code import running
from hotlap.workload.workload import Workload

if TYPE_CHECKING:
    import torch

_RATE_SET = "set_lr"
"""Of an optimizer's group: the learning rate that the schedule set last."""
_compiled_with: set[str] = set()
"""The attention that models of this process were compiled with."""
_TWO_SCHEDULES = "schedule and warmup set the learning rate before each step"
_RANDOM = ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout", "RReLU")


def prepare_model(loaded: Loaded, settings: Settings, *, beside: torch.nn.Module | None = None) -> torch.nn.Module:
    """The workload's model in training mode, on the device, in the layout and with the recomputing asked for.

    Parameters that the user froze stay frozen. beside: the model that was built to be looked at; what the file has
    made once, so that both have it, is copied and stays as it is. Raises WorkloadError where nothing can be trained,
    InputError where the settings ask for what this model can't do.
    """
    import torch

    if settings.keep_memory and settings.device == "cpu":
        heap.keep_memory()
    seed_generators(settings.seed, "model")
    with running("model"):
        model = loaded.workload.model()
    separate_buffers(model)
    if loaded.weights:
        load_weights(model, loaded)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise WorkloadError(
            "the workload's `model` has no parameter that requires a gradient, so that nothing can be trained; leave "
            "those that are to be trained unfrozen"
        )
    if beside is not None and set(map(id, beside.parameters())) & set(map(id, model.parameters())):
        with running("model"):
            model = copy.deepcopy(model)
    model.train()
    if settings.layout == "channels_last":
        if not any(parameter.ndim == 4 for parameter in model.parameters()):
            raise InputError("settings: layout=channels_last does nothing here: no weight has 4 axes; leave it out")
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.to(settings.device)
    if settings.checkpointing:
        recompute.recompute_layers(model, compiled=settings.compile)
    return model


def compile_model(model: torch.nn.Module, settings: Settings) -> None:
    """Have torch.compile's form of the model run, if asked for."""
    if settings.compile:
        _forget_compiled(settings.attention)
        model.compile()


def _forget_compiled(attention: str) -> None:
    """Forget what was compiled in this process where that was with another attention, of which it tells nothing."""
    import torch

    if _compiled_with - {attention}:
        torch.compiler.reset()
        _compiled_with.clear()
    _compiled_with.add(attention)


def trainable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that are trained, by name; a shared one once."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def prepare_optimizer(workload: Workload, model: torch.nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """The workload's optimizer over the model's trained parameters; AdamW with its defaults where it names none.

    Raises WorkloadError where it gives no optimizer, InputError where it has no fused form.
    """
    import torch

    parameters = list(trainable(model).values())
    if workload.optimizer is None:
        optimizer: Any = torch.optim.AdamW(parameters)
    else:
        with running("optimizer"):
            optimizer = workload.optimizer(parameters)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise WorkloadError(
            f"the workload's `optimizer` must give a torch.optim.Optimizer; it gave a {type(optimizer).__name__}"
        )
    known = {id(parameter) for parameter in parameters}
    if any(id(one) not in known for group in optimizer.param_groups for one in group["params"]):
        raise WorkloadError(
            "the workload's `optimizer` holds parameters that are not the model's; use those it is given"
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise WorkloadError(
            "the workload's `optimizer` is LBFGS, which computes the loss several times a step; use one that needs the "
            "gradients alone, such as AdamW or SGD"
        )
    if settings.fused or settings.foreach:
        _set_form(optimizer, "fused" if settings.fused else "foreach")
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group.get("lr"))
        if group["initial_lr"] is None and (settings.schedule != "constant" or settings.warmup):
            raise InputError(
                f"settings: a schedule changes the learning rate, and {type(optimizer).__name__} has none of its own; "
                "leave schedule and warmup out, or give it an lr"
            )
    if settings.schedule != "constant" or settings.warmup:
        for one in owners_of({"optimizer": hooks_of(optimizer)}, but=[optimizer, *model.modules()]).by_place.values():
            if isinstance(one, torch.optim.lr_scheduler.LRScheduler):
                raise InputError(
                    f"settings: {_TWO_SCHEDULES}, and the workload's `optimizer` has a {type(one).__name__} that does "
                    "so too; leave schedule and warmup out, or that"
                )
    if has_modes(optimizer):
        with running("optimizer"):
            optimizer.train()  # type: ignore[attr-defined]
    chosen: torch.optim.Optimizer = optimizer
    return chosen


def has_modes(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it holds other weights for training than for what comes of it, as optimizers without a schedule do."""
    return all(callable(getattr(optimizer, name, None)) for name in ("train", "eval"))


def has_fused_form(optimizer: torch.optim.Optimizer) -> bool:
    """Whether torch computes a step of this optimizer in one kernel, which takes no complex parameters."""
    import torch

    known = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad)
    return type(optimizer) in known and not any(one.is_complex() for one in parameters_of(optimizer))


def has_foreach_form(optimizer: torch.optim.Optimizer) -> bool:
    """Whether torch computes a step of this optimizer in a few calls for all parameters together."""
    return type(optimizer).__module__.startswith("torch.optim.") and "foreach" in optimizer.defaults


def _set_form(optimizer: torch.optim.Optimizer, form: Literal["fused", "foreach"]) -> None:
    """Have the optimizer compute its steps in that form; its hooks and all else stay as they are."""
    kind: Any = type(optimizer)
    if not (has_fused_form(optimizer) if form == "fused" else has_foreach_form(optimizer)):
        complex_ones = any(one.is_complex() for one in parameters_of(optimizer))
        what = f"{kind.__name__} has no {form} form" + (" for complex parameters" if complex_ones else "")
        forms = "use Adam, AdamW, SGD or Adagrad, or " if form == "fused" and not complex_ones else ""
        raise InputError(f"settings: {form}=true: {what}; {forms}leave it out")
    for one in (optimizer.defaults, *optimizer.param_groups):
        one |= {name: name == form for name in ("fused", "foreach") if name in optimizer.defaults}


def set_rate(optimizer: torch.optim.Optimizer, factor: float | None) -> float | None:
    """Set each group's learning rate to its own times `factor`, or leave it as it is (None); gives the first group's,
    None where it has none.

    Raises InputError where something else has changed a rate that was set here.
    """
    for group in optimizer.param_groups:
        ours = group.pop(_RATE_SET, None)
        group.setdefault("initial_lr", group.get("lr"))  # One that a hook has added.
        if factor is None:
            if ours is not None:
                group["lr"] = group["initial_lr"]  # That a schedule has left, before --resume went on without one.
        elif group["initial_lr"] is not None:
            if ours is not None and group["lr"] is not ours and float(group["lr"]) != float(ours):
                raise InputError(
                    f"settings: {_TWO_SCHEDULES}, and something else has changed it from {float(ours):.6g} to "
                    f"{float(group['lr']):.6g}; leave schedule and warmup out (--set schedule=constant --set "
                    "warmup=0), or the rate to them"
                )
            group["lr"] = group[_RATE_SET] = group["initial_lr"] * factor
    rate = optimizer.param_groups[0].get("lr")
    return None if rate is None else float(rate)


def not_exact(model: torch.nn.Module) -> dict[str, list[str]]:
    """Layers whose result depends on how a batch is cut: those with batch statistics, and those with randomness.

    Names by kind, "batch statistics" and "randomness"; only kinds that there are.
    """
    import torch

    found: dict[str, list[str]] = {"batch statistics": [], "randomness": []}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            found["batch statistics"].append(name)
        elif _draws(module):
            found["randomness"].append(name)
    return {kind: names for kind, names in found.items() if names}


def _draws(module: torch.nn.Module) -> bool:
    import torch

    if isinstance(module, torch.nn.RNNBase | torch.nn.MultiheadAttention):
        return bool(module.dropout)
    return type(module).__name__ in _RANDOM and bool(getattr(module, "p", True))


def modes_of(model: torch.nn.Module) -> list[tuple[torch.nn.Module, bool]]:
    """Which of its modules train, and which evaluate."""
    return [(module, module.training) for module in model.modules()]


def set_modes(modes: Iterable[tuple[torch.nn.Module, bool]]) -> None:
    """As `modes_of` gave them."""
    for module, mode in modes:
        module.training = mode


@contextmanager
def switched(optimizer: Any) -> Iterator[None]:
    """Within the block the model has the optimizer's other weights; after it its own again, to the last bit."""
    import torch

    parameters = list(parameters_of(optimizer))
    kept = [parameter.detach().clone() for parameter in parameters]
    with running("optimizer"):
        optimizer.eval()
    try:
        yield
    finally:
        with running("optimizer"):
            optimizer.train()
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)


def untrained_warnings(loss: Any, optimizer: torch.optim.Optimizer) -> list[str]:
    """What to say after a step where modules of the loss got gradients and the optimizer does not have them."""
    import torch

    known = {id(parameter) for parameter in parameters_of(optimizer)}
    found = [
        f"{place}.{name}"
        for place, one in owners_of({"loss": loss}).by_place.items()
        if isinstance(one, torch.nn.Module)
        for name, parameter in one.named_parameters(recurse=False)
        if parameter.grad is not None and id(parameter) not in known
    ]
    if not found:
        return []
    return [
        f"the workload's `loss` has parameters that got a gradient and are not the model's ({_some(found)}): they are "
        "not trained; make them part of the model, and have the loss take what it needs from the outputs"
    ]


def cutting_warnings(model: torch.nn.Module, settings: Settings, world: int) -> list[str]:
    """What to say where a step is cut into several passes although the model's layers look at a whole batch."""
    if not _is_cut(settings, world):
        return []
    return [
        f"a step is computed in parts, and {len(names)} layers have {kind} ({_some(names)}): the result is not exactly "
        "that of the whole batch in one pass"
        for kind, names in not_exact(model).items()
    ]


def drawing_warnings(model: torch.nn.Module, settings: Settings, world: int) -> list[str]:
    """What to say where the model drew random numbers, a step is cut and `cutting_warnings` named no layer for that."""
    if not _is_cut(settings, world) or "randomness" in not_exact(model):
        return []
    return [
        "a step is computed in parts, and the model draws random numbers: the result is not exactly that of the whole "
        "batch in one pass"
    ]


def _is_cut(settings: Settings, world: int) -> bool:
    in_passes = settings.examples_a_pass < settings.batch_size or settings.length_buckets > 1
    return settings.accumulation > 1 or in_passes or world > 1


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def to_device(value: Any, settings: Settings) -> Any:
    """A batch's tensors on the device, 4-D floats in the layout asked for; all else as it is."""
    import torch
    from torch.utils import _pytree as pytree

    other_device = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    if settings.device == "cpu" and settings.layout == "contiguous" and not other_device:
        return value  # It lies there already.
    value = _as_dicts(value)
    ahead = settings.pin and settings.device == "cuda"  # A copy to the CPU is read at once.

    def moved(leaf: Any) -> Any:
        if isinstance(leaf, Mapping) and hasattr(leaf, "to"):
            return leaf.to(settings.device)
        if not isinstance(leaf, torch.Tensor):
            return leaf
        if settings.layout == "channels_last" and leaf.ndim == 4 and leaf.is_floating_point():
            return leaf.to(settings.device, memory_format=torch.channels_last, non_blocking=ahead)
        return leaf.to(settings.device, non_blocking=ahead)

    return pytree.tree_map(moved, value)


def _as_dicts(value: Any) -> Any:
    """Mappings in whose values torch's trees do not look as dicts. What knows how to go to a device stays as it is: a
    tokenizer's BatchEncoding, a TensorDict.
    """
    if isinstance(value, Mapping) and not isinstance(value, dict) and not hasattr(value, "to"):
        return {name: _as_dicts(one) for name, one in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_as_dicts(one) for one in value)
    return value


def to_device_of(parameter: torch.Tensor, value: Any) -> Any:
    """The value with all its tensors on the parameter's device."""
    import torch
    from torch.utils import _pytree as pytree

    return pytree.tree_map(lambda one: one.to(parameter.device) if isinstance(one, torch.Tensor) else one, value)


def optimizer_warnings(optimizer: torch.optim.Optimizer) -> list[str]:
    """What to say where an optimizer keeps another one inside, whose state is not found in its own."""
    import torch

    inner = [name for name, value in vars(optimizer).items() if isinstance(value, torch.optim.Optimizer)]
    return [
        f"the optimizer {type(optimizer).__name__} works with another one in its {name!r}, whose state is not kept: a "
        "run that is resumed is not exactly the one that was stopped"
        for name in inner
    ]


def parameters_of(optimizer: torch.optim.Optimizer) -> Iterable[torch.nn.Parameter]:
    """Every parameter of the optimizer, in its own order."""
    return (parameter for group in optimizer.param_groups for parameter in group["params"])
