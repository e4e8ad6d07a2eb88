"""For torchrun: what steps of two processes give beside those of one; each rank writes what it found into a folder."""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from hotlap.training.processes import Processes, whole
from hotlap.training.reading import MicroBatch, Window
from hotlap.training.settings import Precision, Settings, Sharding
from hotlap.training.stepping import Stepper
from hotlap.workload.workload import Workload

IGNORED = -100
LENGTHS: list[list[list[int]]] = [[[5, 2], [1], [7]], [[3], [6, 4, 1]]]
"""Of the rows of each pass, of each process; a pass is filled up to its longest row."""


class Reductions(TorchDispatchMode):
    """Counts what is summed over the processes."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += str(func).startswith("c10d.") and "reduce" in str(func)
        return func(*args, **(kwargs or {}))


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(2))
    return nn.Sequential(*layers, nn.Linear(6, 5))


def loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(outputs.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


TOKENS = Workload(
    model=net,
    example=lambda batch: torch.zeros(batch, 3, 6),
    loss=loss,
    loss_weight=lambda labels: (labels != IGNORED).sum().item(),
)


def passes(rank: int) -> tuple[MicroBatch, ...]:
    found = []
    for start, lengths in enumerate(LENGTHS[rank]):
        draw = torch.Generator().manual_seed(10 * rank + start)
        filled = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        inputs = torch.randn(*filled.shape, 6, generator=draw)
        labels = torch.where(filled, torch.randint(0, 5, filled.shape, generator=draw), IGNORED)
        one = MicroBatch(inputs=inputs, targets=labels, rows=len(lengths), weight=float(filled.sum()), start=start)
        found.append(one)
    return tuple(found)


def stepper_of(model: nn.Module, workload: Workload, settings: Settings, processes: Processes) -> Stepper:
    processes.share(model, settings)  # Before the optimizer takes its parameters, as make_parts does.
    return Stepper(model, workload, torch.optim.SGD(model.parameters(), lr=1.0), settings, processes)


def gradients(mine: tuple[MicroBatch, ...], settings: Settings, processes: Processes) -> torch.Tensor:
    """Those of a whole step, unscaled."""
    stepper = stepper_of(net(), TOKENS, settings, processes)
    total = sum(one.weight for rank in (0, 1) for one in passes(rank))
    stepped = stepper.step(Window(epoch=0, number=0, micro_batches=mine), total)
    assert not stepped.skipped
    return torch.cat([whole(parameter.grad).flatten() for parameter in stepper.model.parameters()])


def reductions(mine: tuple[MicroBatch, ...], settings: Settings, processes: Processes) -> int:
    stepper = stepper_of(net(), TOKENS, settings, processes)
    with Reductions() as counted:
        stepper.gradients(Window(epoch=0, number=0, micro_batches=mine), 1.0)
    return counted.count


def overflow(processes: Processes) -> dict[str, Any]:
    """Of two sharded weights one is each process's; the gradients of the first alone are too large for fp16."""
    rows = Workload(
        model=net,
        example=lambda batch: torch.ones(batch, 4),
        loss=lambda outputs, labels: (outputs * torch.tensor([1.0, 2.0**-20])).mean(),
    )
    model = nn.Linear(4, 2, bias=False)
    stepper = stepper_of(model, rows, Settings(precision="fp16", sharding="fsdp2"), processes)
    stepper.scaler.load_state_dict({**stepper.scaler.state_dict(), "scale": 2.0**20})
    here = model.weight.to_local()
    before = here.clone()
    one = MicroBatch(inputs=torch.ones(2, 4), targets=torch.zeros(2), rows=2, weight=2.0, start=0)
    stepped = stepper.step(Window(epoch=0, number=0, micro_batches=(one,)), 4.0)
    finite = bool(model.weight.grad.to_local().isfinite().all())
    stayed = torch.equal(here, before)
    return {"finite": finite, "skipped": stepped.skipped, "stayed": stayed, "scale": stepper.scaler.get_scale()}


def main(folder: Path) -> None:
    together = Processes("cpu")
    alone = together.apart()
    alone.world = 1
    mine, every = passes(together.rank), passes(0) + passes(1)
    found: dict[str, Any] = {"differences": {}, "reductions": {}}
    for sharding, precision in product(get_args(Sharding), get_args(Precision)):
        settings = Settings(sharding=sharding, precision=precision)
        wanted = gradients(every, settings, alone)
        difference = (gradients(mine, settings, together) - wanted).norm() / wanted.norm()
        found["differences"][f"{sharding} {precision}"] = difference.item()
    for sharding in get_args(Sharding):
        settings = Settings(sharding=sharding)
        found["reductions"][sharding] = [reductions(some, settings, together) for some in (mine[:1], mine)]
    found["overflow"] = overflow(together)
    (folder / f"{together.rank}.json").write_text(json.dumps(found))
    together.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
