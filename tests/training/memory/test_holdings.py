"""Where memory went, against counting by hand."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hotlap.errors import InputError
from hotlap.training.memory.batches import largest
from hotlap.training.memory.holdings import OUTSIDE, holdings
from hotlap.training.memory.steps import Steps
from hotlap.training.settings import Settings
from hotlap.workload.target import load_target

PARAMETERS = 256 * 1024 + 1024 + 2 * 1024 + 1024 * 10 + 10


def held(trains: Path, settings: Settings, rows: int = 16):
    loaded = load_target(f"{trains}:workload")
    steps = Steps(loaded, settings)
    return holdings(steps, steps.window(largest(loaded.workload).make, rows, 1))


def test_every_part_is_what_it_must_be(trains: Path) -> None:
    found = held(trains, Settings())
    assert found.weights_bytes == found.gradients_bytes == 4 * PARAMETERS
    # AdamW keeps two moments and one count of steps a parameter.
    assert found.optimizer_bytes == 2 * 4 * PARAMETERS + 6 * 4
    assert found.buffers_bytes == 2 * 4 * 1024 + 8
    assert found.average_bytes == 0
    assert found.inputs_bytes == 16 * (256 * 4 + 8)
    # The batch norm keeps its input and two statistics; the ReLU, which is the model's own, its output, which the head
    # shares; the loss the log-probabilities and the sum of weights.
    assert found.activations["norm"] == 4 * (16 * 1024 + 2 * 1024)
    assert found.activations["(model)"] == 4 * 16 * 1024
    assert "head" not in found.activations
    assert found.activations[OUTSIDE] >= 4 * 16 * 10
    assert sum(found.activations.values()) == found.to_json()["activations_bytes"]


def test_an_average_is_another_set_of_weights(trains: Path) -> None:
    assert held(trains, Settings(ema=0.9)).average_bytes == 4 * PARAMETERS


def test_bf16_halves_activations_and_not_weights(trains: Path) -> None:
    full, half = held(trains, Settings(), 512), held(trains, Settings(precision="bf16"), 512)
    assert half.weights_bytes == full.weights_bytes
    assert half.activations["(model)"] == full.activations["(model)"] // 2


def test_the_steps_are_those_of_a_loop_by_hand(trains: Path) -> None:
    loaded = load_target(f"{trains}:workload")
    make = largest(loaded.workload).make
    steps = Steps(loaded, Settings(clip=1.0, batch_size=16, micro_batch=8))
    net = copy.deepcopy(steps.model)
    optimizer = torch.optim.AdamW(net.parameters())
    for _ in range(2):
        steps.step(make, 8, 2)
        for _ in range(2):
            inputs, targets = make(8)
            (torch.nn.functional.cross_entropy(net(inputs), targets) / 2).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    for ours, theirs in zip(steps.model.parameters(), net.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_an_optimizer_without_a_fused_form(trains: Path) -> None:
    loaded = load_target(f"{trains}:workload")
    workload = replace(loaded.workload, optimizer=torch.optim.Rprop)
    with pytest.raises(InputError, match="Rprop has no fused form"):
        Steps(replace(loaded, workload=workload), Settings(fused=True))
