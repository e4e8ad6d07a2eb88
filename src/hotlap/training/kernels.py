"""Which of torch's kernels a step runs where several give the same, and what a model has of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hotlap.training.fused import without_copies
from hotlap.training.masks import LEAST, fast_masks
from hotlap.training.reading import MicroBatch
from hotlap.training.settings import Settings

if TYPE_CHECKING:
    from hotlap.training.stepping import Stepper

_PLACE = 0, 0
"""Epoch and window of a pass that is only looked at."""
_FUSED_ATTENTION = "aten._scaled_dot_product_flash_attention_for_cpu"
_MASK, _MASK_ON_CUDA = "aten.bernoulli_.float", "aten.native_dropout.default"
_OTHER_DRAWS = frozenset({
    "bernoulli", "bernoulli_", "cauchy_", "exponential_", "geometric_", "log_normal_", "multinomial", "normal",
    "normal_", "poisson", "rand", "rand_like", "randint", "randint_like", "randn", "randn_like", "random_", "randperm",
    "rrelu_with_noise", "rrelu_with_noise_", "uniform_",
})  # fmt: skip


def chosen(settings: Settings) -> AbstractContextManager[Any]:
    """Within the block torch computes with the kernels that the settings ask for."""
    found: list[AbstractContextManager[Any]] = []
    if settings.attention == "math":
        from torch.nn.attention import SDPBackend, sdpa_kernel

        found.append(sdpa_kernel(SDPBackend.MATH))
        if settings.compile:
            # What it keeps on disk tells nothing of the attention that was asked for.
            from torch._functorch import config

            found.append(config.patch(enable_autograd_cache=False))
    if settings.fast_dropout:
        found.append(fast_masks())
    if settings.fused and settings.layout == "channels_last" and settings.device == "cpu":
        found.append(without_copies())
    # Most steps ask for none, and a tiny model's would pay for the stack.
    return _within(found) if found else nullcontext()


@contextmanager
def _within(contexts: Sequence[AbstractContextManager[Any]]) -> Iterator[None]:
    with ExitStack() as stack:
        for one in contexts:
            stack.enter_context(one)
        yield


@dataclass(slots=True)
class Seen:
    """What forward and loss computed of a batch: calls of torch's fused attention for the CPU, numbers in large masks
    of dropout, in each mask, and what else was drawn, by the name of what draws it."""

    attention: int = 0
    masked: int = 0
    masks: list[int] = field(default_factory=list)
    drew: list[str] = field(default_factory=list)


def seen_in(stepper: Stepper, one: MicroBatch) -> Seen:
    """What a pass computes, of what there are several kernels for."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    found = Seen()

    class Watched(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = str(func)
            if name.startswith(_FUSED_ATTENTION):
                found.attention += 1
            elif name in (_MASK, _MASK_ON_CUDA):
                found.masks.append(args[0].numel())
                found.masked += args[0].numel() if name == _MASK and args[0].numel() >= LEAST else 0
            elif name.split(".")[1] in _OTHER_DRAWS:
                found.drew.append(name)
            return func(*args, **(kwargs or {}))

    with _eager(), Watched():  # type: ignore[no-untyped-call]
        outputs = stepper.outputs_of(one, _PLACE)
        if one.weight:
            stepper.loss_of(outputs, one)
    after = stepper.generators_stand()
    stepper.seed_pass(one, _PLACE)
    # The second and, once CUDA is in use, the last are torch's own, whose draws have names.
    torchs = {1, len(after) - 1} if torch.cuda.is_initialized() else {1}  # type: ignore[no-untyped-call]
    seeded = stepper.generators_stand()
    if any(after[index] != seeded[index] for index in range(len(after)) if index not in torchs):
        found.drew.append("a generator of Python's, NumPy's or the workload's own")
    return found


def _eager() -> AbstractContextManager[Any]:
    """Within the block what the user's own code compiles runs as it is, and is compiled again after it: what torch sees
    under a dispatch mode it would never compile."""
    import torch

    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


@contextmanager
def even_masks() -> Iterator[None]:
    """Within the block dropout keeps each number as it is: what a mask holds is the share that is kept, everywhere."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils._python_dispatch import TorchDispatchMode

    class Even(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if str(func) == _MASK:
                return args[0].fill_(args[1] if len(args) > 1 else (kwargs or {}).get("p", 0.5))
            if str(func) == _MASK_ON_CUDA and 0 < args[1] < 1 and args[2] is not False:
                # Its backward multiplies by the mask and what is kept.
                return args[0] / (1 - args[1]), torch.ones_like(args[0], dtype=torch.bool)
            return func(*args, **(kwargs or {}))

    # Fused attention draws in kernels of its own.
    with _eager(), sdpa_kernel(SDPBackend.MATH), Even():  # type: ignore[no-untyped-call]
        yield
