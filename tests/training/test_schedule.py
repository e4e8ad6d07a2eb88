"""The schedules against torch's own."""

import pytest
import torch

from hotlap.training.schedule import rate_factor
from hotlap.training.settings import Schedule

STEPS = 23


def theirs(make) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    found = []
    for _ in range(STEPS):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(
    ("schedule", "make"),
    [
        ("cosine", lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, STEPS)),
        ("linear", lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.0, STEPS)),
        ("one_cycle", lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1.0, STEPS)),
        ("constant", lambda o: torch.optim.lr_scheduler.ConstantLR(o, 1.0)),
    ],
)
def test_as_torch_has_it(schedule: Schedule, make) -> None:
    ours = [rate_factor(schedule, step, steps=STEPS, warmup=0) for step in range(STEPS)]
    assert ours == pytest.approx(theirs(make), abs=1e-9)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_a_warm_up_rises_to_the_whole_rate(schedule: Schedule) -> None:
    found = [rate_factor(schedule, step, steps=STEPS, warmup=4) for step in range(STEPS)]
    assert found[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert found[4] == 1.0
    assert found[4:] == sorted(found[4:], reverse=True)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "one_cycle"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_few_steps_are_no_trouble(schedule: Schedule, steps: int) -> None:
    assert all(0 <= rate_factor(schedule, step, steps=steps, warmup=0) <= 1 for step in range(steps))
