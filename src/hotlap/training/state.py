"""The state of a run as a checkpoint holds it: taken from the parts, and put back into them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hotlap.core import Json
from hotlap.errors import InputError, OutputError, WorkloadError
from hotlap.training import checkpoint
from hotlap.training.attributes import Attributes
from hotlap.training.averaging import Average
from hotlap.training.checkpoint import Checkpoint
from hotlap.training.encoding import can_be_kept, decode, encode
from hotlap.training.preparing import to_device_of, trainable
from hotlap.training.processes import all_finite, put, whole
from hotlap.workload.user_code import describe

if TYPE_CHECKING:
    import torch

_MODEL, _OPTIMIZER, _AVERAGE, _LOADER, _VALUES = "model.", "optimizer.", "average.", "loader", "optimizer_values"


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best score so far, and when it was."""

    step: int
    epoch: int
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a run is: the next window to compute, and what came of those before.

    `step` counts windows computed, `skipped` those whose fp16 gradients overflowed. `seconds` is training time so
    far, `metrics_bytes` what `metrics.jsonl` held, `first_score` the score before the first step, `score`
    that after the last epoch, `first_loss` and `loss` those of the first step and of the last.
    """

    epoch: int = 0
    window: int = 0
    step: int = 0
    skipped: int = 0
    best: Best | None = None
    seconds: float = 0.0
    metrics_bytes: int = 0
    first_score: float | None = None
    score: float | None = None
    first_loss: float | None = None
    loss: float | None = None
    done: bool = False

    @property
    def worse(self) -> bool:
        """Whether the last step's loss is above that of the first: the run may be on its way to diverge."""
        return self.loss is not None and self.first_loss is not None and self.loss > self.first_loss

    def after_step(self, window: int, *, loss: float | None, skipped: bool, seconds: float) -> Position:
        """The position one step on, before `window`. Written out, since `replace` takes thrice as long."""
        return Position(
            epoch=self.epoch,
            window=window,
            step=self.step + 1,
            skipped=self.skipped + skipped,
            best=self.best,
            seconds=self.seconds + seconds,
            metrics_bytes=self.metrics_bytes,
            first_score=self.first_score,
            score=self.score,
            first_loss=loss if self.first_loss is None else self.first_loss,
            loss=self.loss if loss is None else loss,
            done=self.done,
        )


def capture(
    position: Position,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    scaler: Any,
    average: Average | None,
    loader: Json,
    examples: int | None,
    attributes: Attributes,
    failed: bool = False,
) -> Checkpoint:
    """All of it; every process must call it where the model is sharded.

    `loader` is an iterable's own state. `failed`: the next step's numbers are not finite. Raises InputError where that
    state can't be kept without pickling it.
    """
    import torch

    tensors = {_MODEL + name: whole(value) for name, value in checkpoint.model_tensors(model).items()}
    kept: dict[str, Any] = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                tensors[f"{_OPTIMIZER}{name}:{key}"] = whole(value)
            else:
                kept[f"{name}:{key}"] = value
    if average is not None:
        tensors |= {_AVERAGE + name: whole(value) for name, value in average.tensors.items()}
    loader_json, loader_tensors = encode(loader, _LOADER)
    others = {key: value for key, value in optimizer.state.items() if isinstance(key, str) and can_be_kept(value)}
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    optimizer_json, optimizer_tensors = encode({"groups": groups, "state": kept, "others": others}, _VALUES)
    attributes_json, attributes_tensors = attributes.capture()
    # What is not trained may be infinite: a mask. A state_dict of the user's own may leave some out.
    weights = [tensors[_MODEL + name] for name in trainable(model) if _MODEL + name in tensors]
    state = {
        "position": asdict(position),
        "best": asdict(position.best) if position.best else None,
        "optimizer": optimizer_json,
        "frozen": [name for name, parameter in model.named_parameters() if not parameter.requires_grad],
        "evaluating": [name for name, module in model.named_modules() if not module.training],
        "attributes": attributes_json,
        "scaler": scaler.state_dict() if scaler is not None else None,
        "loader": loader_json,
        "examples": examples,
        "sound": not failed and not position.worse and all_finite(weights),
        "failed": failed,
    }
    tensors |= {**loader_tensors, **optimizer_tensors, **attributes_tensors}
    return Checkpoint(step=position.step, tensors=tensors, state=state)


def check_optimizer(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Raise WorkloadError where what the optimizer keeps for a parameter, or what a group of it says, is nothing that a
    checkpoint can hold.
    """
    import torch

    kept = [
        (f"{key!r} for {name!r}", value)
        for name, parameter in trainable(model).items()
        for key, value in optimizer.state.get(parameter, {}).items()
        if not isinstance(value, torch.Tensor)
    ]
    for number, group in enumerate(optimizer.param_groups):
        where = f" in its group {number + 1}" if len(optimizer.param_groups) > 1 else ""
        kept += [(f"{key!r}{where}", value) for key, value in group.items() if key != "params"]
    for what, value in kept:
        try:
            encode(value, "")
        except InputError as error:
            raise WorkloadError(
                f"the workload's `optimizer` keeps {what}, which no checkpoint can hold: {error}; keep it as numbers, "
                "texts, tensors or lists of them"
            ) from error


def restore(
    kept: Checkpoint,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    scaler: Any,
    average: Average | None,
    examples: int | None,
    attributes: Attributes,
) -> tuple[Position, Json]:
    """Put a checkpoint back into the parts; gives the position and the iterable's own state.

    Raises OutputError where it is of another model, or of data of another size.
    """
    if kept.state["examples"] != examples:
        raise OutputError(
            f"--resume: that run trained on {kept.state['examples']} examples, now there are {examples}; give the "
            "same data, or start over with --force"
        )
    checkpoint.load_model(model, _under(_MODEL, kept.tensors))
    _restore_modes(model, kept)
    _restore_optimizer(optimizer, model, kept)
    if scaler is not None and kept.state["scaler"] is not None:
        scaler.load_state_dict(kept.state["scaler"])
    if average is not None:
        averaged = _under(_AVERAGE, kept.tensors)
        average.load(averaged or dict(model.named_parameters()))
    attributes.restore(kept.state.get("attributes", {}), kept.tensors)
    return position_of(kept), decode(kept.state["loader"], kept.tensors)


def position_of(kept: Checkpoint) -> Position:
    """The position that a checkpoint holds."""
    found = kept.state["position"]
    return Position(**{**found, "best": Best(**found["best"]) if found["best"] else None})


def check_form(kept: Checkpoint, path: Path) -> None:
    """Raise OutputError where a checkpoint's state is not of this version of hotlap. `path`: its JSON file."""
    try:
        position = position_of(kept)
        counts = [position.epoch, position.window, position.step, position.skipped, position.metrics_bytes]
        numbers = [position.seconds, position.first_score, position.score, position.first_loss, position.loss]
        if position.best is not None:
            counts += [position.best.step, position.best.epoch]
            numbers += [position.best.score]
        if not all(isinstance(one, int) and one >= 0 for one in counts):
            raise TypeError("its place is no whole number from 0 on")
        if not all(one is None or isinstance(one, int | float) for one in numbers):
            raise TypeError("its score, loss or time is no number")
        optimizer = decode(kept.state["optimizer"], kept.tensors)
        if not all(isinstance(one, dict) for one in (*optimizer["groups"], optimizer["state"])):
            raise TypeError("its optimizer's groups are no groups")
        decode(kept.state["loader"], kept.tensors)
        for name in ("frozen", "evaluating"):
            frozenset(kept.state.get(name, ()))
        if not {"examples", "scaler"} <= kept.state.keys():
            raise KeyError("examples, scaler")
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise OutputError(
            f"--resume: {path} is not of this version of hotlap, or somebody changed it ({describe(error)}); move it "
            "away to go on from the one before it, if there is one"
        ) from error


def capture_weights(step: int, model: torch.nn.Module) -> Checkpoint:
    """The weights only; every process must call it where the model is sharded."""
    tensors = {_MODEL + name: whole(value) for name, value in checkpoint.model_tensors(model).items()}
    return Checkpoint(step=step, tensors=tensors, state={})


def load_weights(kept: Checkpoint, model: torch.nn.Module) -> None:
    """The weights only."""
    checkpoint.load_model(model, _under(_MODEL, kept.tensors))


def _restore_modes(model: torch.nn.Module, kept: Checkpoint) -> None:
    """Freeze what was frozen by then, and have evaluate what evaluated."""
    if "frozen" not in kept.state:
        return  # A checkpoint of hotlap's before it kept them.
    frozen, evaluating = (frozenset(kept.state[name]) for name in ("frozen", "evaluating"))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    for name, module in model.named_modules():
        module.training = name not in evaluating


def _restore_optimizer(optimizer: torch.optim.Optimizer, model: torch.nn.Module, kept: Checkpoint) -> None:
    import torch

    values = decode(kept.state["optimizer"], kept.tensors)
    if len(values["groups"]) != len(optimizer.param_groups):
        raise OutputError("--resume: the optimizer has other groups than that run's; start over with --force")
    rates = [id(group.get("lr")) for group in optimizer.param_groups]
    for group, found in zip(optimizer.param_groups, values["groups"], strict=True):
        # The form (fused, foreach) is this run's own; it changes how a step is computed, not what it needs.
        rate, kept_rate = group.get("lr"), found.get("lr")
        group.update({key: value for key, value in found.items() if key not in ("fused", "foreach")})
        if isinstance(rate, torch.Tensor) and isinstance(kept_rate, torch.Tensor):
            shared = [one["lr"] for one, holder in zip(values["groups"], rates, strict=True) if holder == id(rate)]
            if all(torch.equal(kept_rate, one) for one in shared):
                group["lr"] = rate.copy_(kept_rate)  # A hook may hold it, too.
    on_device = any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)
    parameters = dict(model.named_parameters())
    for place, tensor in _under(_OPTIMIZER, kept.tensors).items():
        name, _, key = place.rpartition(":")
        parameter = parameters[name]
        if tensor.shape == parameter.shape and parameter.ndim:
            # Strides must be the parameter's: fused kernels go through both in the order of memory.
            own = torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False)
            with torch.no_grad():
                put(own, tensor)
        else:
            own = tensor.to(parameter.device if on_device or key != "step" else "cpu")
        optimizer.state[parameter][key] = own
    for place, value in values["state"].items():
        name, _, key = place.rpartition(":")
        optimizer.state[parameters[name]][key] = to_device_of(parameters[name], value)
    for key, value in values.get("others", {}).items():
        optimizer.state[key] = to_device_of(next(iter(parameters.values())), value)


def _under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensors[name] for name in sorted(tensors) if name.startswith(prefix)}
