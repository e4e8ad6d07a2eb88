"""Which of torch's kernels a step runs where several give the same, and what a model has of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hotlap.training.fused import without_copies
from hotlap.training.masks import LEAST, fast_masks
from hotlap.training.reading import MicroBatch
from hotlap.training.settings import Settings

if TYPE_CHECKING:
    from hotlap.training.stepping import Stepper

_FUSED_ATTENTION = "aten._scaled_dot_product_flash_attention_for_cpu"
_MASK = "aten.bernoulli_.float"
_OTHER_DRAWS = frozenset({
    "bernoulli", "bernoulli_", "cauchy_", "exponential_", "geometric_", "log_normal_", "multinomial", "normal",
    "normal_", "poisson", "rand", "rand_like", "randint", "randint_like", "randn", "randn_like", "random_", "randperm",
    "rrelu_with_noise", "rrelu_with_noise_", "uniform_",
})  # fmt: skip


@contextmanager
def chosen(settings: Settings) -> Iterator[None]:
    """Within the block torch computes with the kernels that the settings ask for."""
    with ExitStack() as stack:
        if settings.attention == "math":
            from torch.nn.attention import SDPBackend, sdpa_kernel

            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if settings.fast_dropout:
            stack.enter_context(fast_masks())
        if settings.fused and settings.layout == "channels_last" and settings.device == "cpu":
            stack.enter_context(without_copies())
        yield


@dataclass(slots=True)
class Seen:
    """What forward and loss computed of a batch: calls of torch's fused attention for the CPU, numbers in large masks
    of dropout, and what else was drawn, by the name of what draws it."""

    attention: int = 0
    masked: int = 0
    drew: list[str] = field(default_factory=list)


def seen_in(stepper: Stepper, one: MicroBatch, place: Sequence[int] = (0, 0)) -> Seen:
    """What a pass computes, of what there are several kernels for."""
    from torch.utils._python_dispatch import TorchDispatchMode

    found = Seen()

    class Watched(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = str(func)
            if name.startswith(_FUSED_ATTENTION):
                found.attention += 1
            elif name == _MASK and args[0].numel() >= one.rows:
                found.masked += args[0].numel() if args[0].numel() >= LEAST else 0
            elif name.split(".")[1] in _OTHER_DRAWS:
                found.drew.append(name)
            return func(*args, **(kwargs or {}))

    with Watched():  # type: ignore[no-untyped-call]
        outputs = stepper.outputs_of(one, place)
        if one.weight:
            stepper.loss_of(outputs, one)
    after = stepper.generators_stand()
    stepper.seed_pass(one, place)
    # The second is torch's own, whose draws have names.
    if any(after[number] != stood for number, stood in enumerate(stepper.generators_stand()) if number != 1):
        found.drew.append("a generator of Python's, NumPy's or the workload's own")
    return found
