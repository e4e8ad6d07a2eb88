"""The learning rate as a pure function of the step, so that a resumed run needs no scheduler's state."""

from __future__ import annotations

import math

from hotlap.training.settings import Schedule, Settings

_ONE_CYCLE_RISE = 0.3
_ONE_CYCLE_START, _ONE_CYCLE_END = 1 / 25, 1 / 250_000
"""The rise and the two ends are torch.optim.lr_scheduler.OneCycleLR's defaults (Smith and Topin, 2017)."""


def rate_factor(schedule: Schedule, step: int, *, steps: int | None, warmup: int) -> float | None:
    """What the optimizer's own learning rate is multiplied by at `step` (from 0) of `steps`.

    `warmup` steps rise linearly first. `steps` may be None for `constant` only. None where there is no schedule at all,
    and the rate is the optimizer's own affair.
    """
    if schedule == "constant" and not warmup:
        return None
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    assert steps is not None
    length = max(1, steps - warmup)
    done = min(1.0, (step - warmup) / length)
    if schedule == "linear":
        return 1.0 - done
    if schedule == "cosine":
        return _between(1.0, 0.0, done)
    return _one_cycle(step - warmup, length)


def _one_cycle(step: int, length: int) -> float:
    top, last = max(_ONE_CYCLE_RISE * length - 1, 0.0), length - 1
    if step <= top:
        return _between(_ONE_CYCLE_START, 1.0, step / top if top else 1.0)
    return _between(1.0, _ONE_CYCLE_END, min(1.0, (step - top) / (last - top)))


def _between(start: float, end: float, done: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2


def miscounted(promised: int | None, given: int, settings: Settings) -> list[str]:
    """What to say after an epoch of so many steps, where the schedule was laid out for others."""
    if promised is None or promised == given or settings.schedule == "constant":
        return []
    return [
        f"the length of `training` promises {promised} steps an epoch, and one had {given}: the schedule "
        f"{settings.schedule} was laid out for the promised ones; mend its __len__"
    ]
