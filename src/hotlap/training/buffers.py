"""A model's buffers, which its forward pass changes, as they were before a step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_MOST_NUMBERS = 1_000_000
"""Of larger buffers together no copy is kept: one a step would take too long."""


class Buffers:
    """Copies the buffers before each step, so that one whose numbers are not finite can be undone."""

    def __init__(self, model: torch.nn.Module) -> None:
        import torch

        self._model, self._own = model, list(model.buffers())
        self._versions: list[int] = []
        self._kept: list[torch.Tensor] | None = None
        if sum(buffer.numel() for buffer in self._own) <= _MOST_NUMBERS:
            self._kept = [torch.empty_like(buffer) for buffer in self._own]

    def keep(self) -> None:
        """Note them as they are now."""
        import torch

        if not self._own:
            return
        if self._kept is None:
            self._versions = [buffer._version for buffer in self._own]
        else:
            torch._foreach_copy_(self._kept, self._own)

    @contextmanager
    def undone_if_left(self) -> Iterator[None]:
        """Where a request ends what is done within the block, they are again what they were before it."""
        self.keep()
        try:
            yield
        except KeyboardInterrupt:
            self.put_back()
            raise

    def put_back(self) -> bool:
        """Whether they are now what `keep` last noted. One that was assigned anew can't be."""
        import torch

        if list(map(id, self._model.buffers())) != list(map(id, self._own)):
            return False
        if self._kept is None:
            return self._versions == [buffer._version for buffer in self._own]
        if self._own:
            torch._foreach_copy_(self._own, self._kept)
        return True
