"""The processes that train together, as torchrun started them; one where it did not."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from hotlap.core import Device
from hotlap.errors import InputError, TrainingStopped
from hotlap.training.recompute import repeated_layers
from hotlap.training.settings import Settings

if TYPE_CHECKING:
    import torch


_LONGEST_WAIT = timedelta(days=1)
"""Of one process for another, which may be scoring. That one is gone is told by its connection, not by the time."""
_LOST = ("gloo/transport", "Connection closed by peer", "Connection reset by peer", "Application timeout")
"""What gloo's errors, which have no type of their own, say of another process that is gone."""


class Processes:
    """This process's place among those that train together. `rank` 0 alone writes files."""

    def __init__(self, device: Device) -> None:
        self.rank, self.world = _place()
        self._alone = self.world == 1
        self._model: Any = None
        self._wrapped: Any = None
        self._sharded = False
        if self.world > 1:
            import torch
            from torch import distributed

            if device == "cuda":
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            backend = "nccl" if device == "cuda" else "gloo"
            distributed.init_process_group(backend, timeout=_LONGEST_WAIT)

    def apart(self) -> Processes:
        """The same place among the data, without the others: models are whole here, and sums are this process's own."""
        other = copy.copy(self)
        other._alone, other._model, other._wrapped, other._sharded = True, None, None, False
        return other

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes files and shows progress."""
        return self.rank == 0

    @property
    def sharded(self) -> bool:
        """Whether each process holds a part of the weights only, so that all of them must compute alike."""
        return self._sharded

    def share(self, model: torch.nn.Module, settings: Settings) -> Any:
        """What to call in place of the model, so that gradients are averaged over the processes."""
        if self._alone:
            return model
        if self._model is model:
            return self._wrapped
        self._model, self._sharded = model, settings.sharding == "fsdp2"
        if self._sharded:
            from torch.distributed.fsdp import fully_shard

            scalar = next((name for name, parameter in model.named_parameters() if not parameter.ndim), None)
            if scalar is not None:
                raise InputError(
                    f"settings: sharding=fsdp2: the parameter {scalar!r} is a single number without an axis, which "
                    "can't be cut; give it the shape [1], or use sharding=ddp"
                )
            for layer in repeated_layers(model).values():
                fully_shard(layer)
            self._wrapped = fully_shard(model)
        else:
            from torch.nn.parallel import DistributedDataParallel

            # Buffers are rank 0's in each pass, as one process would have them but for the others' batches.
            self._wrapped = DistributedDataParallel(model)
        return self._wrapped

    def give_buffers(self) -> None:
        """Before a step: each process takes rank 0's buffers, where the weights are sharded. DDP does so by itself."""
        if not self._sharded:
            return
        import torch
        from torch import distributed

        buffers = [one.detach() for one in self._model.buffers()]
        if not buffers:
            return
        # As bytes, since not every kind of number can be sent.
        packed = torch.cat([one.contiguous().flatten().view(torch.uint8) for one in buffers])
        distributed.broadcast(packed, 0)
        if self.rank:
            parts = torch.split(packed, [one.numel() * one.element_size() for one in buffers])
            for one, part in zip(buffers, parts, strict=True):
                one.copy_(part.clone().view(one.dtype).view(one.shape))

    def only_here(self, last: bool) -> AbstractContextManager[Any]:
        """Around a pass that is not the window's last: its gradients are added up here and not yet sent."""
        if self._sharded:
            self._wrapped.set_requires_gradient_sync(last)
            return nullcontext()
        return nullcontext() if last or self._wrapped is None else self._wrapped.no_sync()

    def sums(self, *values: float) -> list[float]:
        """Each value summed over all processes."""
        if self._alone:
            return list(values)
        return self._reduced(values, "SUM")

    def most(self, count: int) -> int:
        """The largest of all processes' counts."""
        if self._alone:
            return count
        return int(self._reduced((count,), "MAX")[0])

    def _reduced(self, values: Sequence[float], operation: Literal["SUM", "MAX"]) -> list[float]:
        import torch
        from torch import distributed

        made = torch.tensor(values, dtype=torch.float64, device=self._device())
        distributed.all_reduce(made, getattr(distributed.ReduceOp, operation))
        return [float(value) for value in made.tolist()]

    def gathered(self, value: Any) -> list[Any]:
        """The plain value of each process, in the order of ranks."""
        if self._alone:
            return [value]
        from torch import distributed

        found: list[Any] = [None] * self.world
        distributed.all_gather_object(found, value)
        return found

    def wait(self) -> None:
        """Until every process is here."""
        self.sums(0.0)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Around what the processes do together. Raises TrainingStopped where another of them is gone."""
        try:
            yield
        except Exception as error:
            if self.world == 1 or not _of_the_connection(error):
                raise
            raise TrainingStopped(
                f"another of the {self.world} processes ended, and this one can't go on alone; see what that one said; "
                "mend it and go on with --resume"
            ) from error

    def close(self) -> None:
        """Leave the group."""
        if self.world > 1:
            from torch import distributed

            distributed.destroy_process_group()

    def _device(self) -> str:
        from torch import distributed

        return "cuda" if distributed.get_backend() == "nccl" else "cpu"


def started() -> int:
    """How many processes torchrun started; 1 where it did not."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def share_of(cores: int) -> int:
    """The cores for each of the processes that torchrun started on this machine; at least one."""
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _place() -> tuple[int, int]:
    """This process's rank, and how many there are, by the variables that torchrun sets."""
    world = started()
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if world > 1 and missing:
        raise InputError(
            f"WORLD_SIZE is {world}, and {', '.join(missing)} are not set: start the processes with torchrun, or unset "
            "WORLD_SIZE to train in one"
        )
    return int(os.environ.get("RANK", "0")) if world > 1 else 0, world


def _of_the_connection(error: BaseException | None) -> bool:
    """Whether what was raised comes of a connection to another process, however it was wrapped."""
    from torch import distributed

    while error is not None:
        if isinstance(error, distributed.DistBackendError | distributed.DistNetworkError):
            return True
        if type(error) is RuntimeError and any(word in str(error) for word in _LOST):
            return True
        error = error.__cause__ or error.__context__
    return False


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor that may be sharded; every process must ask for it."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def let_go_of_whole_weights(model: torch.nn.Module) -> None:
    """After a forward pass without a backward: a sharded model else goes on with the weights it had gathered for it."""
    for module in model.modules():
        reshard: Any = getattr(module, "reshard", None)
        if reshard is not None:
            reshard()


def put(tensor: torch.Tensor, value: torch.Tensor) -> None:
    """Copy a whole value, the same in every process, into a tensor that may be sharded; nothing is sent."""
    mesh = getattr(tensor, "device_mesh", None)
    if mesh is not None:
        from torch.distributed.tensor import distribute_tensor

        placements = getattr(tensor, "placements", None)
        value = distribute_tensor(value.to(tensor.device), mesh, placements, src_data_rank=None)
    tensor.copy_(value)


def all_finite(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether no number in any of them is NaN or infinite (whole numbers never are)."""
    import torch

    numbers = (value for value in tensors if value.is_floating_point() or value.is_complex())
    # Of a sparse one (a gradient of nn.Embedding(sparse=True)) it is the values.
    dense = (value.coalesce().values() if value.is_sparse else value for value in numbers)
    return all(bool(torch.isfinite(value).all()) for value in dense)
