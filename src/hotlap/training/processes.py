"""The processes that train together, as torchrun started them; one where it did not."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from hotlap.core import Device
from hotlap.training.recompute import repeated_layers
from hotlap.training.settings import Settings

if TYPE_CHECKING:
    import torch


class Processes:
    """This process's place among those that train together. `rank` 0 alone writes files."""

    def __init__(self, device: Device) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.world = int(os.environ.get("WORLD_SIZE", "1"))
        self._model: Any = None
        self._wrapped: Any = None
        self._sharded = False
        if self.world > 1:
            import torch
            from torch import distributed

            if device == "cuda":
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            distributed.init_process_group("nccl" if device == "cuda" else "gloo")

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
        if self.world == 1:
            return model
        if self._model is model:
            return self._wrapped
        self._model, self._sharded = model, settings.sharding == "fsdp2"
        if self._sharded:
            from torch.distributed.fsdp import fully_shard

            for layer in repeated_layers(model).values():
                fully_shard(layer)
            self._wrapped = fully_shard(model)
        else:
            from torch.nn.parallel import DistributedDataParallel

            # Buffers are rank 0's in each pass, as one process would have them but for the others' batches.
            self._wrapped = DistributedDataParallel(model)
        return self._wrapped

    def only_here(self, last: bool) -> AbstractContextManager[Any]:
        """Around a pass that is not the window's last: its gradients are added up here and not yet sent."""
        if self._sharded:
            self._wrapped.set_requires_gradient_sync(last)
            return nullcontext()
        return nullcontext() if last or self._wrapped is None else self._wrapped.no_sync()

    def sums(self, *values: float) -> list[float]:
        """Each value summed over all processes."""
        if self.world == 1:
            return list(values)
        import torch
        from torch import distributed

        total = torch.tensor(values, dtype=torch.float64, device=self._device())
        distributed.all_reduce(total)
        return [float(value) for value in total.tolist()]

    def gathered(self, value: Any) -> list[Any]:
        """The plain value of each process, in the order of ranks."""
        if self.world == 1:
            return [value]
        from torch import distributed

        found: list[Any] = [None] * self.world
        distributed.all_gather_object(found, value)
        return found

    def wait(self) -> None:
        """Until every process is here."""
        self.sums(0.0)

    def close(self) -> None:
        """Leave the group."""
        if self.world > 1:
            from torch import distributed

            distributed.destroy_process_group()

    def _device(self) -> str:
        from torch import distributed

        return "cuda" if distributed.get_backend() == "nccl" else "cpu"


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor that may be sharded; every process must ask for it."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


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

    return all(bool(torch.isfinite(value).all()) for value in tensors if value.is_floating_point())
