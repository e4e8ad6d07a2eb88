"""The schedules against torch's own, and rates that something else changes."""

import json
from pathlib import Path

import pytest
import torch
import trainable

import hotlap
from hotlap.errors import InputError
from hotlap.training.preparing import set_rate
from hotlap.training.schedule import miscounted, rate_factor
from hotlap.training.settings import Schedule, Settings

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


def test_without_one_the_rate_is_the_optimizers_own_affair() -> None:
    assert {rate_factor("constant", step, steps=None, warmup=0) for step in range(STEPS)} == {None}
    optimizer = own(0.5)
    optimizer.param_groups[0]["lr"] = 0.25
    assert set_rate(optimizer, None) == 0.25


def test_a_schedule_that_is_left_out_leaves_nothing_behind() -> None:
    optimizer = own(0.5)
    assert set_rate(optimizer, 0.1) == 0.05
    assert set_rate(optimizer, None) == 0.5
    assert set_rate(optimizer, None) == 0.5


@pytest.mark.parametrize("rate", [0.5, torch.tensor(0.5)])
def test_a_rate_that_something_else_changes_too_is_refused(rate: float) -> None:
    optimizer = own(rate)
    set_rate(optimizer, 0.1)
    set_rate(optimizer, 0.2)
    optimizer.param_groups[0]["lr"] = 0.25
    with pytest.raises(InputError, match=r"something else has changed it from 0.1 to 0.25; leave schedule and warmup"):
        set_rate(optimizer, 0.3)


def own(rate: float) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    optimizer.param_groups[0]["initial_lr"] = rate
    return optimizer


HANGING = """
import dataclasses
def hanging(parameters):
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 4, 0.5)
    optimizer.register_step_post_hook(lambda *_: scheduler.step())
    return optimizer
workload = dataclasses.replace(workload, optimizer=hanging)
"""


@pytest.mark.parametrize("chosen", [{"schedule": "linear"}, {"warmup": 3}])
def test_a_scheduler_beside_a_schedule_is_refused_before_the_first_step(chosen, tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows", add=HANGING)
    with pytest.raises(InputError, match="the workload's `optimizer` has a StepLR that does so too; leave schedule"):
        hotlap.train(target, out=tmp_path / "out", settings=chosen, threads=1, device="cpu")


def test_a_scheduler_that_hangs_on_the_optimizer_is_heeded(tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows", add=HANGING)
    hotlap.train(target, out=tmp_path / "out", settings={"epochs": 1}, threads=1, device="cpu")
    lines = map(json.loads, (tmp_path / "out" / "metrics.jsonl").read_text().splitlines())
    assert [line["rate"] for line in lines if "rate" in line] == [0.1] * 4 + [0.05] * 4 + [0.025] * 2


def test_a_length_that_is_not_kept_is_told_where_a_schedule_hangs_on_it() -> None:
    settings = Settings(schedule="linear")
    (told,) = miscounted(9, 10, settings)
    assert "promises 9 steps an epoch, and one had 10" in told
    assert not miscounted(10, 10, settings) + miscounted(None, 10, settings) + miscounted(9, 10, Settings())
