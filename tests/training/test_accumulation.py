"""A step in parts equals a step in one pass: to 1e-6 of the gradients' norm, however unevenly it is cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from hotlap.training.order import slots
from hotlap.training.processes import Processes
from hotlap.training.reading import MicroBatch, Reader, Window, Windows, loss_weight
from hotlap.training.settings import Settings
from hotlap.training.stepping import Stepper
from hotlap.workload.workload import Workload

EXACT = 1e-6
IGNORED = -100
Row = tuple[list[int], list[int]]
"""Ids and labels."""


class Net(nn.Module):
    """Token ids [batch, length] to scores [batch, length, 11]; what is filled up changes nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 16)
        self.layers = nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 11))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.layers(self.embed(ids))


def token_loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(outputs.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


def example_loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """A mean over examples of each one's own mean."""
    counted = (labels != IGNORED).float()
    each = functional.cross_entropy(outputs.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
    return (each.sum(1) / counted.sum(1).clamp(min=1)).mean()


def workload(*, tokens: bool) -> Workload:
    return Workload(
        model=Net,
        example=lambda batch: torch.zeros(batch, 3, dtype=torch.int64),
        loss=token_loss if tokens else example_loss,
        loss_weight=(lambda labels: (labels != IGNORED).sum().item()) if tokens else None,
    )


def filled(rows: list[Row]) -> tuple[torch.Tensor, torch.Tensor]:
    """Those rows, filled up to the longest of them."""
    length = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [0] * (length - len(ids)) for ids, _ in rows])
    labels = torch.tensor([labels + [IGNORED] * (length - len(labels)) for _, labels in rows])
    return ids, labels


def part(rows: list[Row], start: int, of: Workload) -> MicroBatch:
    ids, labels = filled(rows)
    weight = loss_weight(of, labels, len(rows))
    return MicroBatch(inputs=ids, targets=labels, rows=len(rows), weight=weight, start=start)


def gradients(
    of: Workload, parts: Sequence[MicroBatch], *, total: float | None = None, world: int = 1, **settings: Any
) -> torch.Tensor:
    """Of one process of `world`, before they are averaged. `total`: the weight of all parts, of other processes too."""
    processes = Processes("cpu")
    processes.world = world
    torch.manual_seed(0)
    model = Net()
    stepper = Stepper(model, of, torch.optim.SGD(model.parameters(), lr=1.0), Settings(**settings), processes)
    total = sum(one.weight for one in parts) if total is None else total
    stepper.gradients(Window(epoch=0, number=0, micro_batches=tuple(parts)), total)
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@st.composite
def cut_rows(draw: st.DrawFn) -> tuple[list[Any], list[int]]:
    """Rows of uneven lengths, some without a single label that counts, and where to cut them."""
    count = draw(st.integers(2, 12))
    rows = []
    for _ in range(count):
        length = draw(st.integers(1, 9))
        ids = draw(st.lists(st.integers(0, 11), min_size=length, max_size=length))
        labels = draw(st.lists(st.sampled_from([IGNORED, *range(11)]), min_size=length, max_size=length))
        rows.append((ids, labels))
    rows.append(([1, 2], [3, 4]))
    cuts = sorted(draw(st.sets(st.integers(1, count), max_size=4)))
    return rows, [0, *cuts, len(rows)]


@pytest.mark.parametrize("tokens", [True, False], ids=["averaged over tokens", "averaged over examples"])
@given(case=cut_rows())
def test_parts_equal_the_whole(tokens: bool, case: tuple[list[Any], list[int]]) -> None:
    rows, cuts = case
    of = workload(tokens=tokens)
    whole = gradients(of, [part(rows, 0, of)])
    parts = [part(rows[a:b], a, of) for a, b in pairwise(cuts)]
    difference = (gradients(of, parts) - whole).norm() / whole.norm()
    assert difference <= EXACT


def share(rows: list[Row], of: Workload, **place: int) -> Sequence[MicroBatch]:
    """What one process reads of a step that all those rows make up."""
    order = slots(len(rows), batch_size=len(rows), seed=0, epochs=1, **place)
    return Windows(order, Reader(rows, filled, seed=0, generators=()), of).next().micro_batches


@pytest.mark.parametrize("tokens", [True, False], ids=["averaged over tokens", "averaged over examples"])
@given(rows=cut_rows().map(lambda case: case[0]), world=st.integers(2, 4), micro_batch=st.integers(1, 5))
@limits(max_examples=40)
def test_shares_of_processes_equal_the_whole(tokens: bool, rows: list[Row], world: int, micro_batch: int) -> None:
    """Some have fewer passes than others, some have none or none that counts. DDP averages gradients over all."""
    of = workload(tokens=tokens)
    whole = gradients(of, [part(rows, 0, of)])
    shares = [share(rows, of, micro_batch=micro_batch, rank=rank, world=world) for rank in range(world)]
    total = sum(one.weight for parts in shares for one in parts)
    average = sum(gradients(of, parts, total=total, world=world) for parts in shares) / world
    assert (average - whole).norm() / whole.norm() <= EXACT


def test_the_mean_of_the_parts_would_be_wrong() -> None:
    """What most loops do, dividing each part's loss by their number: the check above can tell it apart."""
    of = workload(tokens=True)
    rows = [([1, 2, 3], [1, 2, 3]), ([4], [5]), ([6, 7, 8, 9], [1, IGNORED, IGNORED, IGNORED])]
    whole = gradients(of, [part(rows, 0, of)])
    parts = [part(rows[:1], 0, of), part(rows[1:], 1, of)]
    naive = gradients(of, [replace(one, weight=1.0) for one in parts])
    assert (naive - whole).norm() / whole.norm() > 0.01


def test_what_weighs_nothing_changes_nothing_even_where_its_loss_is_nan() -> None:
    of = workload(tokens=True)
    rows = [([1, 2, 3], [1, 2, 3]), ([4, 5], [IGNORED, IGNORED])]
    nothing = part(rows[1:], 1, of)
    assert nothing.weight == 0
    assert torch.isnan(token_loss(Net()(nothing.inputs), nothing.targets))
    assert torch.equal(gradients(of, [part(rows[:1], 0, of), nothing]), gradients(of, [part(rows[:1], 0, of)]))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_clipping_bounds_the_unscaled_gradients(precision: Any) -> None:
    """With fp16 the gradients are scaled up; a bound on those would clip everything away."""
    of = workload(tokens=True)
    torch.manual_seed(0)
    model = Net()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    settings = Settings(precision=precision, clip=0.25)
    stepper = Stepper(model, of, torch.optim.SGD(model.parameters(), lr=1.0), settings, Processes("cpu"))
    one = part([([1, 2, 3], [1, 2, 3]), ([4], [5])], 0, of)
    stepped = stepper.step(Window(epoch=0, number=0, micro_batches=(one,)), one.weight)
    moved = torch.cat([(a - b).flatten() for a, b in zip(before, model.parameters(), strict=True)])
    assert not stepped.skipped
    assert stepped.gradient_norm > 0.25, "the norm is given as it was before clipping"
    assert moved.norm().item() == pytest.approx(0.25, rel=1e-3)


def test_fp16_skips_a_step_whose_gradients_overflow_and_halves_the_scale() -> None:
    of = workload(tokens=True)
    torch.manual_seed(0)
    model = Net()
    stepper = Stepper(
        model, of, torch.optim.SGD(model.parameters(), lr=1.0), Settings(precision="fp16"), Processes("cpu")
    )
    one = part([([1, 2, 3], [1, 2, 3])], 0, of)
    window = Window(epoch=0, number=0, micro_batches=(one,))
    stepper.scaler.load_state_dict({**stepper.scaler.state_dict(), "scale": 2.0**60})
    before = [parameter.detach().clone() for parameter in model.parameters()]
    stepped = stepper.step(window, one.weight)
    assert stepped.skipped
    assert stepper.scaler.get_scale() == 2.0**59
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    stepper.scaler.update(2.0**10)
    assert not stepper.step(window, one.weight).skipped


@pytest.mark.parametrize("tokens", [True, False], ids=["averaged over tokens", "averaged over examples"])
@given(case=cut_rows(), most=st.integers(2, 4))
def test_parts_by_length_equal_the_whole(tokens: bool, case: tuple[list[Any], list[int]], most: int) -> None:
    rows, cuts = case
    rows = [([1 + one % 11 for one in ids], labels) for ids, labels in rows]  # 0 is padding.
    of = workload(tokens=tokens)
    whole = gradients(of, [part(rows, 0, of)])
    parts = [part(rows[a:b], a, of) for a, b in pairwise(cuts)]
    difference = (gradients(of, parts, trim=True, length_buckets=most) - whole).norm() / whole.norm()
    assert difference <= EXACT


class Casts(TorchDispatchMode):
    """Counts conversions to bf16 of Tensors that are parameters."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.known, self.count = {parameter.data_ptr() for parameter in model.parameters()}, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(func) == "aten._to_copy.default" and args[0].data_ptr() in self.known:
            self.count += kwargs["dtype"] == torch.bfloat16
        return func(*args, **(kwargs or {}))


class Written(Net):
    """Its weights are halved before each pass, as some constraints on weights do."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.layers[0].weight.mul_(0.5)
        return super().forward(ids)


@pytest.mark.parametrize("kind", [Net, Written])
def test_weights_are_cast_once_for_all_passes_that_they_stay_the_same_for(kind: type[Net]) -> None:
    of = workload(tokens=True)
    rows = [([1, 2, 3], [1, 2, 3]), ([4, 5], [6, 7]), ([8], [9])]
    parts = tuple(part([row], start, of) for start, row in enumerate(rows))
    found, casts = [], []
    for once in (False, True):
        torch.manual_seed(0)
        model = kind()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        stepper = Stepper(model, of, optimizer, Settings(precision="bf16"), Processes("cpu"))
        stepper.casts_once = once
        with Casts(model) as counted:
            stepper.gradients(Window(epoch=0, number=0, micro_batches=parts), sum(one.weight for one in parts))
        found.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
        casts.append(counted.count)
    assert torch.equal(*found)
    assert casts[1] == (casts[0] if kind is Written else casts[0] // 3)
