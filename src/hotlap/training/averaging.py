"""An exponential moving average of the weights (Polyak and Juditsky, 1992), which often scores better than they do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hotlap.training.preparing import trainable
from hotlap.training.processes import put

if TYPE_CHECKING:
    import torch


class Average:
    """The average of what is trained, w' = decay * w' + (1 - decay) * w after each step; all else is the model's."""

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        from torch.optim.swa_utils import get_ema_multi_avg_fn

        self._update: Any = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        # What is not trained has its own value for an average.
        self._trained = trainable(model)
        self.tensors: dict[str, torch.Tensor] = {name: value.clone() for name, value in self._model.items()}
        self._lent: dict[str, torch.Tensor] = {}

    @property
    def _model(self) -> dict[str, torch.Tensor]:
        """The weights as they are now: `parameter.data = ...` gives a parameter another storage."""
        return {name: parameter.detach() for name, parameter in self._trained.items()}

    def update(self) -> None:
        """Take the weights of one more step in."""
        self._update(list(self.tensors.values()), list(self._model.values()), 0)

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go on from a kept average."""
        for name, value in self.tensors.items():
            put(value, tensors[name])

    def take(self) -> None:
        """Put the averaged weights into the model for good."""
        for name, value in self._model.items():
            value.copy_(self.tensors[name])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the model has the averaged weights; afterwards its own again, bit for bit."""
        self._lent = {name: value.clone() for name, value in self._model.items()}
        try:
            self.take()
            yield
        finally:
            self.give_back()

    def give_back(self) -> None:
        """The model's own weights again, if `in_place` was left in the midst of bringing them back."""
        for name, own in self._lent.items():
            self._trained[name].detach().copy_(own)
        self._lent = {}
