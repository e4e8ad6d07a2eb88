"""One step of the optimizer: the passes of a window, weighted so that they equal one pass over all of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from hotlap.errors import WorkloadError
from hotlap.training import kernels
from hotlap.training.by_length import by_length
from hotlap.training.preparing import parameters_of, to_device
from hotlap.training.processes import Processes, whole
from hotlap.training.reading import MicroBatch, Window, check_axes
from hotlap.training.seeding import generator_states, own_generators, put_back, seed_generators, state_of
from hotlap.training.settings import Settings
from hotlap.training.trimming import least_length, trimmed
from hotlap.workload.inputs import call, flatten_outputs
from hotlap.workload.user_code import running
from hotlap.workload.workload import Outputs, Workload

if TYPE_CHECKING:
    import torch

LATE = (
    "the first step made random generators, which nothing had seeded before: it is another one each time, and a run "
    "that goes on is not exactly the one that was stopped; make them with the model or the loss"
)
_LEAST_SCALE = 2.0**-24
"""The least number of fp16: where gradients overflow although they are scaled down by that, no scale helps."""
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")
"""What torch's messages say, in small letters, where memory was wanting; the last is cuBLAS's and cuDNN's."""
_GROWTH_STEPS = 2000
"""As torch.amp.GradScaler: after so many steps without an overflow the scale is doubled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepped:
    """What a step gave: the window's mean loss, the norm of its gradients before clipping, whether it was skipped."""

    loss: float
    gradient_norm: float
    skipped: bool


class NotFinite(Exception):
    """The loss of one pass, or the gradients, are NaN or infinite; the weights are still those before the step.

    `micro_batch` is the pass of this process that gave it; None for gradients and where it was another process's.
    """

    def __init__(self, *, what: Literal["loss", "gradients"], value: float, micro_batch: MicroBatch | None) -> None:
        super().__init__(f"{what}: {value}")
        self.what, self.value, self.micro_batch = what, value, micro_batch


class Stepper:
    """Takes windows and moves the model's weights. `scaler` is None but for fp16."""

    def __init__(
        self,
        model: torch.nn.Module,
        workload: Workload,
        optimizer: torch.optim.Optimizer,
        settings: Settings,
        processes: Processes,
    ) -> None:
        import torch

        self.model, self._workload, self.optimizer = model, workload, optimizer
        self._settings, self._processes = settings, processes
        self._called = processes.share(model, settings)
        self._least = least_length(workload)
        self._looked_at = False
        self.casts_once = False
        """Whether autocast casts weights once for all passes of a step; making.look_at_casts finds out."""
        self.draws: bool | None = None
        """Whether the model drew random numbers in the first pass; None before it."""
        self._autocast = autocast(settings)
        self._generators = own_generators(model, workload.loss, workload.loss_weight, optimizer)
        self._torchs = type(optimizer).__module__.startswith("torch.optim.")
        self._lean = settings.device == "cpu" and not self.sharded
        self.scaler: Any = None
        if settings.precision == "fp16":
            self.scaler = torch.amp.GradScaler(settings.device, growth_interval=_GROWTH_STEPS)

    def step(self, window: Window, total: float) -> Stepped:
        """Compute the window and move the weights. `total` is its weight over all processes.

        Raises NotFinite, before the weights are touched, where the loss or the gradients are NaN or infinite; with
        fp16 such gradients skip the step instead, and count once the scale is below _LEAST_SCALE.
        """
        if not self._looked_at:
            check_axes(window.micro_batches[0].inputs, self._workload)
            self._looked_at = True
        stood = [state_of(one) for one in self._generators]
        try:
            with self.kernels():
                return self._step(window, total)
        finally:
            # What `training` gives may be drawn by the same ones.
            for one, state in zip(self._generators, stood, strict=True):
                put_back(one, state)

    def _forget_gradients(self) -> None:
        with running("optimizer"):
            self.optimizer.zero_grad()  # Another's own may take no arguments.

    def _seed_the_optimizer(self, window: Window) -> None:
        """Have what the optimizer and its hooks draw depend on the step alone: the passes before are cut in other ways,
        and every process has others."""
        # torch's own draw nothing; others may not even have hooks.
        names = "_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"
        if not self._torchs or any(getattr(self.optimizer, name, None) for name in names):
            seed_generators(self._settings.seed, "step", window.epoch, window.number, own=self._generators)

    def seed_late_ones(self) -> bool:
        """After the first step: whether that made generators which nothing had seeded; they are from now on."""
        now = own_generators(self.model, self._workload.loss, self._workload.loss_weight, self.optimizer)
        known = set(map(id, self._generators))
        late = [one for one in now if id(one) not in known]
        self._generators += late
        return bool(late)

    def _step(self, window: Window, total: float) -> Stepped:
        self._forget_gradients()
        loss = self._passes(window, total)
        # They live until the optimizer has them: else Python's side of each tensor is made twice.
        norm, _gradients = self._gradient_norm()
        if self.scaler is None:
            if not math.isfinite(norm):
                raise NotFinite(what="gradients", value=norm, micro_batch=None)
            self._seed_the_optimizer(window)
            with running("optimizer"):
                self.optimizer.step()
            return Stepped(loss=loss, gradient_norm=norm, skipped=False)
        skipped = not math.isfinite(norm)
        self._seed_the_optimizer(window)
        if skipped and self.scaler.get_scale() < _LEAST_SCALE:
            raise NotFinite(what="gradients", value=norm, micro_batch=None)
        with running("optimizer"):
            self.scaler.step(self.optimizer)
        self.scaler.update()
        return Stepped(loss=loss, gradient_norm=norm, skipped=skipped)

    def kernels(self) -> AbstractContextManager[Any]:
        """Within the block torch computes as it does in a step."""
        return kernels.chosen(self._settings)

    @property
    def sharded(self) -> bool:
        """Whether a pass needs every process to compute one."""
        return self._processes.sharded

    @property
    def compiled(self) -> bool:
        """Whether what runs is what torch.compile made of the model."""
        return self._settings.compile

    def gradients(self, window: Window, total: float) -> float:
        """Leave the window's gradients in the parameters and give its mean loss; the weights stay."""
        self._forget_gradients()
        with self.kernels():
            return self._passes(window, total)

    def passes_of(self, window: Window) -> list[MicroBatch]:
        """What is computed in one pass each, one after the other, as the settings say."""
        # What weighs nothing is left out, but for one pass where all of a process's do: the others wait for it.
        counted = [one for one in window.micro_batches if one.weight] or list(window.micro_batches[:1])
        settings = self._settings
        if settings.length_buckets > 1:
            parts = (part for one in counted for part in by_length(one, settings.length_buckets, self._workload))
            counted = [one for one in parts if one.weight] or counted
        return [trimmed(one, self._least) for one in counted] if settings.trim else counted

    def outputs_of(self, micro_batch: MicroBatch, place: Sequence[int], model: Any = None) -> Outputs:
        """What the model gives in one pass, in fp32, with every random choice seeded by its place (epoch, window): also
        those that the loss and the optimizer's step make next.
        """
        self.seed_pass(micro_batch, place)
        seeded = self.generators_stand() if self.draws is None else None
        try:
            # What fills the device's memory may be the batch itself, or outputs that are widened.
            with running("model"):
                inputs = to_device(micro_batch.inputs, self._settings)
                with self._autocast:
                    outputs = call(self._called if model is None else model, inputs)
                outputs = in_fp32(outputs)
        except WorkloadError as error:
            raise _with_a_hint(error, micro_batch.rows) from error
        if seeded is not None:
            self.draws = self.generators_stand() != seeded
        return outputs

    def seed_pass(self, micro_batch: MicroBatch, place: Sequence[int]) -> None:
        """Have every random generator stand where the pass of that place (epoch, window) begins."""
        part = (micro_batch.part,) if micro_batch.part else ()
        seed_generators(self._settings.seed, "pass", *place, micro_batch.start, *part, own=self._generators)

    def generators_stand(self) -> list[bytes]:
        """Where all of them stand: Python's, torch's, NumPy's, the workload's own."""
        return generator_states(self._generators)

    def loss_of(self, outputs: Outputs, micro_batch: MicroBatch) -> torch.Tensor:
        """The loss of what a pass gave. Raises WorkloadError where it is no scalar Tensor that can be learnt from."""
        import torch

        targets = to_device(micro_batch.targets, self._settings)
        assert self._workload.loss is not None
        with running("loss"):
            loss = self._workload.loss(outputs, targets)
        if not hasattr(loss, "backward") or loss.ndim != 0:
            given = f"a Tensor of shape {list(loss.shape)}" if hasattr(loss, "shape") else f"a {type(loss).__name__}"
            raise WorkloadError(f"the workload's `loss` must give a scalar Tensor; it gave {given}")
        if not loss.requires_grad and torch.is_grad_enabled():
            raise WorkloadError(
                "the workload's `loss` does not depend on the model's parameters; compute it of the model's outputs, "
                "without detach() or no_grad()"
            )
        return loss

    def _passes(self, window: Window, total: float) -> float:
        """Forward and backward of each pass; gives the loss over all processes' passes."""
        import torch

        counted = self.passes_of(window)
        if self.sharded:
            # Each pass takes all processes, so that those that have fewer compute some that weigh nothing.
            missing = self._processes.most(len(counted)) - len(counted)
            counted += [replace(counted[0], weight=0.0)] * missing
        losses = []
        several = self.casts_once and len(counted) > 1
        with self._weights_cast_once() if several else nullcontext(lambda: None) as computed:
            for index, one in enumerate(counted):
                with self._processes.only_here(index == len(counted) - 1):
                    losses.append(self._pass(one, (window.epoch, window.number), total))
                computed()
        with running("loss"):  # CUDA tells here what went wrong in any of the kernels before.
            values = torch.stack(losses).tolist() if len(losses) > 1 else [losses[0].item()]
        bad = next((index for index, value in enumerate(values) if not math.isfinite(value)), None)
        loss, stopped = self._processes.sums(sum(values), float(bad is not None))
        if stopped:
            raise NotFinite(
                what="loss",
                value=loss if bad is None else values[bad],
                micro_batch=None if bad is None else counted[bad],
            )
        return loss

    def _pass(self, one: MicroBatch, place: Sequence[int], total: float) -> torch.Tensor:
        """Forward and backward of one pass; gives its share of the loss."""
        outputs = self.outputs_of(one, place)
        part = self.loss_of(outputs, one) if one.weight else _nothing(outputs)
        # A whole step in one pass needs no multiplication, which would be one more forward and backward.
        if one.weight and one.weight != total:
            part = part * (one.weight / total)
        share = part.detach()
        # Gradients are averaged over the processes, but the shares already sum to 1 over all of them.
        if self._processes.world > 1:
            part = part * self._processes.world
        try:
            with running("loss"):
                (self.scaler.scale(part) if self.scaler else part).backward()
        except WorkloadError as error:
            raise _with_a_hint(error, one.rows) from error
        return share

    @contextmanager
    def _weights_cast_once(self) -> Iterator[Callable[[], None]]:
        """Within the block autocast keeps the weights that it has cast from one pass to the next, as long as nobody
        writes them; gives what to call after each pass."""
        import torch

        written = self._versions()

        def computed() -> None:
            nonlocal written
            before, written = written, self._versions()
            if written != before:
                torch.clear_autocast_cache()

        # The outermost context of all empties the cache as it is left, whether it is enabled or not.
        with torch.autocast(self._settings.device, enabled=False):
            yield computed

    def _versions(self) -> list[int]:
        return [one._version for one in self.model.parameters()]

    def _gradient_norm(self) -> tuple[float, list[torch.Tensor]]:
        """The norm of all gradients before they are clipped, and the gradients."""
        import torch

        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        parameters = list(parameters_of(self.optimizer))
        gradients = [_dense(gradient) for one in parameters if (gradient := one.grad) is not None]
        if not gradients:
            raise WorkloadError(
                "the workload's `loss` gave no trained parameter a gradient; compute it of the model's outputs"
            )
        if self._lean:
            # As get_total_norm, without grouping them by device each time.
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        else:
            norm = torch.nn.utils.get_total_norm(gradients)
        if self._settings.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self._settings.clip, norm)
        return float(whole(norm)), gradients


def _with_a_hint(error: WorkloadError, rows: int) -> WorkloadError:
    """What the user's code raised in a pass of so many rows, with what to do, where that is known."""
    if "find_unused_parameters" in str(error):
        return WorkloadError(
            "the workload's `model` has parameters that its forward does not use, which processes that share a "
            "batch (DDP) can't wait for; freeze them (requires_grad_(False)), train with --set sharding=fsdp2, or "
            "in one process"
        )
    return WorkloadError(f"{error}{_hint(str(error), rows)}")


def _hint(told: str, rows: int) -> str:
    """What to do about errors of torch's whose cause lies elsewhere."""
    if "more than 1 value per channel" in told and rows == 1:
        return (
            "; this pass has one example, the last of an epoch perhaps, and BatchNorm needs two: give a batch_size or "
            "micro_batch that leaves no single one"
        )
    if any(words in told.lower() for words in OUT_OF_MEMORY):
        return (
            f"; a pass of {rows} examples does not fit: give a smaller --set micro_batch, or --set checkpointing=true"
        )
    if "backward through the graph a second time" in told:
        return "; detach what the model keeps from one batch to the next"
    return ""


def _dense(gradient: torch.Tensor) -> torch.Tensor:
    """The values of a sparse gradient (nn.Embedding(sparse=True)), whose norm is its own."""
    return gradient.coalesce().values() if gradient.is_sparse else gradient


def autocast(settings: Settings) -> AbstractContextManager[Any]:
    """Around a forward pass: the number format that matrix products and convolutions run in."""
    if settings.precision == "fp32":
        return nullcontext()
    import torch

    return torch.autocast(settings.device, dtype=torch.bfloat16 if settings.precision == "bf16" else torch.float16)


def in_fp32(outputs: Outputs) -> Outputs:
    """Outputs with half-precision tensors widened, so that losses and scores are always computed in fp32."""
    import torch
    from torch.utils import _pytree as pytree

    if isinstance(outputs, torch.Tensor):
        return outputs.float() if outputs.dtype in (torch.bfloat16, torch.float16) else outputs

    def widened(leaf: Any) -> Any:
        half = isinstance(leaf, torch.Tensor) and leaf.dtype in (torch.bfloat16, torch.float16)
        return leaf.float() if half else leaf

    return pytree.tree_map(widened, outputs)


def _nothing(outputs: Outputs) -> torch.Tensor:
    """A loss whose gradients are zeros, of none of the outputs' numbers: they may be infinite."""
    return sum(leaf.flatten()[:0].sum() for leaf in flatten_outputs(outputs) if leaf.requires_grad)  # type: ignore[return-value]
