"""A run that was killed, at any moment, ends with the very bytes of one that was not."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import padded
import pytest
import trainable
from safetensors.numpy import load_file

import hotlap
from hotlap.errors import InputError, OutputError
from hotlap.training.loop import Loop

SLOW = trainable.slow_rows(0.0005)
"""Some 10 ms a step, so that a kill finds the run at work."""

LOADERS = """
import dataclasses
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, Sampler
from torchdata.stateful_dataloader import StatefulDataLoader

drawn_here = np.random.RandomState(5)

class Own(Rows):
    '''Augmented by generators of its own: in itself, deep in itself, and in its file.'''
    def __init__(self):
        super().__init__(150, 3)
        self.first = np.random.default_rng(1)
        self.others = {"deep": [torch.Generator().manual_seed(2), random.Random(3)]}

    def __getitem__(self, index):
        other, plain = self.others["deep"]
        noise = self.first.normal() + torch.randn((), generator=other).item() + plain.random() + drawn_here.normal()
        return super().__getitem__(index)[0] + 0.01 * noise, self.labels[index]

class Stream(IterableDataset):
    '''Each loader process gives its own share, noised by what it draws.'''
    def __iter__(self):
        data, worker = Rows(150, 3), torch.utils.data.get_worker_info()
        for index in range(worker.id if worker else 0, 150, worker.num_workers if worker else 1):
            yield data[index]

class Counted(Sampler):
    '''Another order in each epoch, by its own count.'''
    epoch = 0

    def __len__(self):
        return 150

    def __iter__(self):
        self.epoch += 1
        return iter(np.random.RandomState(self.epoch).permutation(150).tolist())

common = {"batch_size": 8, "num_workers": 2}
KINDS = {
    "stateful": lambda: StatefulDataLoader(Rows(150, 3), shuffle=True, **common),
    "plain": lambda: DataLoader(Rows(150, 3), shuffle=True, persistent_workers=True, **common),
    "own": lambda: DataLoader(Own(), batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(9)),
    "stream": lambda: DataLoader(Stream(), **common),
    "stateful stream": lambda: StatefulDataLoader(Stream(), **common),
    "counted": lambda: DataLoader(Rows(150, 3), batch_sampler=BatchSampler(Counted(), 8, drop_last=False)),
    "own dataset": Own,
}
workload = dataclasses.replace(workload, training=KINDS["GIVEN"])
"""
"""Of each loader a batch is 8 examples; each of them is augmented at random, in a loader process or here."""


KEEPS = """
import dataclasses

class Counting(Net):
    '''Its outputs depend on how many steps it has taken.'''
    def __init__(self):
        super().__init__()
        self.count, self.seen = 0, []

    def forward(self, rows):
        self.count += self.training
        self.seen = [*self.seen, float(rows.sum())][-3:] if self.training else self.seen
        return self.layers(rows) * (1 - 0.9 ** (1 + self.count)) + 1e-3 * sum(self.seen)

class Buffered(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("running", torch.zeros(6), persistent=False)

    def forward(self, rows):
        if self.training:
            self.running.mul_(0.9).add_(rows.detach().mean(0), alpha=0.1)
        return self.layers(rows - self.running)

class Slowing(torch.optim.Optimizer):
    '''Counts its own steps, and keeps the last gradients in a list.'''
    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.1})
        self.steps = 0

    @torch.no_grad()
    def step(self, closure=None):
        self.steps += 1
        for parameter in self.param_groups[0]["params"]:
            state = self.state[parameter]
            state["last"] = [parameter.grad.clone(), *state.get("last", [])][:3]
            parameter.add_(sum(state["last"]), alpha=-0.1 / self.steps**0.5)

class Noisy(Net):
    '''Draws by a generator of its own, deep in itself.'''
    def __init__(self):
        super().__init__()
        self.layers[3].noise = {"by": torch.Generator().manual_seed(3)}

    def forward(self, rows):
        noise = torch.randn(rows.shape, generator=self.layers[3].noise["by"]) if self.training else 0
        return self.layers(rows + 0.3 * noise)

class Shaken(torch.optim.SGD):
    '''Shakes the weights, by a generator of its own.'''
    def __init__(self, parameters):
        super().__init__(parameters, lr=0.1)
        self.by = np.random.default_rng(5)

    @torch.no_grad()
    def step(self, closure=None):
        super().step()
        for parameter in self.param_groups[0]["params"]:
            parameter.add_(1e-3 * self.by.normal())

class Warming(nn.Module):
    '''Rises with its calls, and is scaled by running statistics of its own.'''
    def __init__(self):
        super().__init__()
        self.count, self.norm = 0, nn.BatchNorm1d(3, affine=False)

    def forward(self, outputs, labels):
        self.count += 1
        self.norm(outputs.detach())
        rise = min(1, self.count / 30) / self.norm.running_var.sum()
        return rise * functional.cross_entropy(outputs, labels)

warming, counted = Warming(), 0

def counting(outputs, labels):
    global counted
    counted += 1
    return functional.cross_entropy(outputs, labels) / counted

class Mixing:
    def __init__(self):
        self.by = random.Random(6)

    def __call__(self, outputs, labels):
        return functional.cross_entropy(outputs * self.by.uniform(0.5, 1.5), labels)

def scheduled(parameters):
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    later = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
    rise = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 8)
    scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, later], [8])
    optimizer.register_step_post_hook(lambda *_: scheduler.step())
    return optimizer

class Lowering(torch.optim.SGD):
    '''Lowers its own rate: by a scheduler that it has, and by hand.'''
    def __init__(self, parameters):
        super().__init__(parameters, lr=0.1)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self, 20)

    def step(self, closure=None):
        super().step()
        self.scheduler.step()
        self.param_groups[0]["lr"] *= 0.99

drawn_here = np.random.default_rng(4)

def mixed(outputs, labels):
    return functional.cross_entropy(outputs + 0.3 * torch.from_numpy(drawn_here.normal(size=3)).float(), labels)

def batches():
    for _ in range(10):
        rows = torch.from_numpy(drawn_here.normal(size=(16, 6))).float()
        yield rows, rows[:, :3].argmax(1)

def hooked(parameters, hook, **given):
    optimizer = torch.optim.AdamW(parameters, **{"lr": 1e-2, **given})
    optimizer.register_step_post_hook(lambda *_: hook(optimizer))
    return optimizer

def clamping(parameters):
    pairs = list(enumerate(parameters))
    @torch.no_grad()
    def clamp(_):
        for number, parameter in pairs:
            parameter.clamp_(-0.3 - number / 100, 0.3)
    return hooked([one for _, one in pairs], clamp)

def falling(parameters):
    rate = torch.tensor(0.05)
    return hooked(parameters, lambda _: rate.mul_(0.9), lr=rate, capturable=False, foreach=False)

made = []
def noted():
    made.append(Net())
    return made[-1]

def freezing(parameters):
    steps = [0]
    def freeze(_):
        steps[0] += 1
        if steps[0] == 7:
            made[-1].layers[0].requires_grad_(False)
            made[-1].layers[1].eval()
    return hooked(parameters, freeze)

def dropping(parameters):
    def drop(_):
        made[-1].layers[3].p *= 1.03
    return hooked(parameters, drop)

total, mean = np.array(1.0), torch.tensor(1)
def summing(outputs, labels):
    global total, mean
    loss = functional.cross_entropy(outputs, labels)
    total += loss.item()
    mean = 0.9 * mean + 0.1 * loss.detach()
    return loss * mean / float(total) ** 0.5

order = list(range(10))
def shuffled():
    random.shuffle(order)
    rows = torch.from_numpy(np.random.RandomState(2).normal(size=(10, 16, 6))).float()
    for number in order:
        yield rows[number], rows[number][:, :3].argmax(1)

class Shuffling:
    def __init__(self):
        self.rows, self.order = drawn(5, 10, 16, 6), np.arange(10)
    def __iter__(self):
        np.random.shuffle(self.order)
        for number in self.order:
            yield self.rows[number], self.rows[number][:, :3].argmax(1)

def asked():
    random.shuffle(order)
    return iter(list(shuffled()))

taken = [0]
def led():
    for rows, labels in shuffled():
        yield rows * (1 + taken[0] / 10), labels

def leading(parameters):
    def count(_):
        taken[0] += 1
    return hooked(parameters, count)

def naming(parameters):
    return hooked(parameters, lambda _: len(order))

def falling_together(parameters):
    first, *others = parameters
    rate = torch.tensor(0.05)
    optimizer = torch.optim.AdamW([{"params": [first]}, {"params": others}], lr=rate, foreach=False)
    optimizer.register_step_post_hook(lambda *_: rate.mul_(0.9))
    return optimizer

def replacing(parameters):
    def replace_it(optimizer):
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * 0.9
    return hooked(parameters, replace_it, lr=torch.tensor(0.05), capturable=False, foreach=False)

KINDS = {
    "an order that is shuffled when it is asked": {"training": asked},
    "batches that a hook's count leads": {"training": led, "optimizer": leading},
    "a list of batches": {"training": lambda: list(shuffled())},
    "a list that a hook names": {"training": shuffled, "optimizer": naming},
    "a rate that two groups share": {"optimizer": falling_together},
    "a rate that a hook replaces": {"optimizer": replacing},
    "a rate that is a tensor, with schedule=cosine": {"optimizer": lambda p: torch.optim.SGD(p, lr=torch.tensor(0.1))},
    "parameters in a hook's pairs": {"optimizer": clamping},
    "a rate that a hook has": {"optimizer": falling},
    "a hook that freezes": {"model": noted, "optimizer": freezing},
    "a hook that drops more": {"model": noted, "optimizer": dropping},
    "a sum and a mean in variables": {"loss": summing},
    "a list of its file, shuffled": {"training": shuffled},
    "an order that it shuffles": {"training": Shuffling},
    "a model that counts": {"model": Counting},
    "a buffer out of the state_dict": {"model": Buffered},
    "an optimizer with values of its own": {"optimizer": Slowing},
    "a rate that is a tensor": {"optimizer": lambda p: torch.optim.SGD(p, lr=torch.tensor(0.1))},
    "a generator function": {"training": batches},
    "a loss that is a module": {"loss": warming},
    "a loss that calls a module": {"loss": lambda outputs, labels: warming(outputs, labels)},
    "a loss that counts in a variable": {"loss": counting},
    "a scheduler that hangs on the optimizer": {"optimizer": scheduled},
    "an optimizer that lowers its rate": {"optimizer": Lowering},
    "a model that draws": {"model": Noisy},
    "a loss that draws": {"loss": Mixing()},
    "an optimizer that draws": {"optimizer": Shaken},
    "batches and a loss drawn by one generator": {"training": batches, "loss": mixed},
}
workload = dataclasses.replace(workload, **KINDS["GIVEN"])
"""
"""What training changes outside weights and what torch's own optimizers keep."""


SCORED = """
import dataclasses, pathlib

class Asked(Net):
    '''In training its outputs depend on how often it was scored.'''
    def __init__(self):
        super().__init__()
        self.asked = 0
        self.register_buffer("seen", torch.zeros(6))

    def forward(self, rows):
        if not self.training:
            self.asked += 1
            self.seen += rows.mean(0)
            return self.layers(rows)
        return self.layers(rows - self.seen) / (1 + self.asked)

def left():
    for number, batch in enumerate(evaluation()):
        if number == 2 and pathlib.Path(LEAVE).exists() and pathlib.Path(OUT, "metrics.jsonl").exists():
            pathlib.Path(LEAVE).unlink()
            raise KeyboardInterrupt
        yield batch

workload = dataclasses.replace(workload, model=Asked, evaluation=left)
"""
"""A scoring that is left the first time."""


TIMES = ("ms", "examples_per_second", "memory_bytes")


def command(target: str, out: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "hotlap", "train", target, "--out", str(out), "--threads", "1", *arguments]


def sets(settings: dict[str, Any]) -> list[str]:
    return [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]


def weights(out: Path) -> bytes:
    return (out / "model.safetensors").read_bytes()


def steps(out: Path) -> list[Any]:
    """What each step noted, but for its times."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def killed_until_done(target: str, out: Path, settings: dict[str, Any], kills: int, draw: random.Random) -> int:
    """Run, kill -9 at random moments, go on; gives how many of the kills found it training."""
    found = 0
    for number in range(kills + 1):
        words = [*sets(settings), *(["--resume"] if (out / "settings.json").exists() else [])]
        with subprocess.Popen(command(target, out, *words), stderr=subprocess.PIPE, text=True) as process:
            if number < kills:
                metrics = out / "metrics.jsonl"
                before = metrics.stat().st_size if metrics.exists() else 0
                while process.poll() is None and not (metrics.exists() and metrics.stat().st_size != before):
                    time.sleep(0.005)
                time.sleep(draw.uniform(0, 0.15))
                found += process.poll() is None
                process.kill()  # None where it has ended meanwhile.
                process.wait()
            else:
                assert process.wait() == 0, process.stderr.read()
    return found


OFTEN = 0.05
CASES = {
    "accumulation and average": ("rows", SLOW, {"micro_batch": 6, "ema": 0.9, "schedule": "one_cycle"}),
    "bf16, loader processes": ("rows", SLOW, {"workers": 2, "precision": "bf16"}),
    "fp16, clipped, fused": ("rows", SLOW, {"precision": "fp16", "clip": 0.5, "fused": True}),
    "early stop, loader processes": ("rows", SLOW, {"workers": 2, "early_stop": 1, "epochs": 6}),
    "stateful loader": ("rows", SLOW + LOADERS.replace("GIVEN", "stateful"), {"accumulation": 2}),
    "plain loader": ("rows", SLOW + LOADERS.replace("GIVEN", "plain"), {}),
    "batches": ("tokens", "", {"accumulation": 2, "epochs": 40}),
    "passes by length": (
        "padded",
        "",
        {"trim": True, "length_buckets": 3, "fast_dropout": True, "precision": "bf16", "workers": 2, "epochs": 60},
    ),
}


def cases() -> list[Any]:
    first, *others = CASES
    return [
        pytest.param(first, marks=pytest.mark.slow),
        *(pytest.param(o, marks=pytest.mark.exhaustive) for o in others),
    ]


@pytest.mark.parametrize("case", cases())
@pytest.mark.timeout(900)
def test_killed_at_random_moments(case: str, tmp_path: Path) -> None:
    name, add, chosen = CASES[case]
    settings: dict[str, Any] = {"checkpoint_seconds": OFTEN, **chosen}
    target = str(tmp_path / "texts.py") if name == "padded" else trainable.write(tmp_path, name, add=add)
    if name == "padded":
        (tmp_path / "texts.py").write_text(padded.PADDED)
    hotlap.train(target, out=tmp_path / "whole", settings=settings, threads=1, device="cpu")
    found = killed_until_done(target, tmp_path / "killed", settings, 3, random.Random(case))
    assert found, "no kill found the run at work, so nothing was shown"
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    assert steps(tmp_path / "killed") == steps(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["stateful", "plain", "own", "counted", "stream", "stateful stream", "own dataset"])
def test_every_kind_of_training_goes_on_exactly(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = trainable.write(tmp_path, "rows", add=LOADERS.replace("GIVEN", kind))
    given: dict[str, Any] = {"settings": {"checkpoint_seconds": 0, "epochs": 2}, "threads": 1, "device": "cpu"}
    hotlap.train(target, out=tmp_path / "whole", **given)
    steps_an_epoch = 10 if kind == "own dataset" else 20 if "stream" in kind else 19
    with monkeypatch.context() as patch:
        # A checkpoint has seven flushes and renames: this falls into the second epoch.
        stop_after(patch, 7 * (steps_an_epoch + 6))
        with pytest.raises(Stop):
            hotlap.train(target, out=tmp_path / "out", **given)
    result = hotlap.train(target, out=tmp_path / "out", resume=True, **given)
    assert steps_an_epoch < result["training"]["resumed_from_step"] < 2 * steps_an_epoch == result["training"]["steps"]
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")
    assert steps(tmp_path / "out") == steps(tmp_path / "whole")


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("an order that is shuffled when it is asked", None),
        ("batches that a hook's count leads", None),
        ("a list of batches", None),
        ("a list that a hook names", None),
        ("a rate that two groups share", None),
        ("a rate that a hook replaces", None),
        ("a rate that is a tensor, with schedule=cosine", None),
        ("parameters in a hook's pairs", None),
        ("a rate that a hook has", None),
        ("a hook that freezes", None),
        ("a hook that drops more", "training changes the model's layers.3.p, which its state_dict does not hold"),
        ("a sum and a mean in variables", None),
        ("a list of its file, shuffled", None),
        ("an order that it shuffles", None),
        ("a model that counts", "training changes the model's count, seen, which its state_dict does not hold"),
        ("a buffer out of the state_dict", "training changes the model's running, which its state_dict does not hold"),
        ("an optimizer with values of its own", None),
        ("a rate that is a tensor", None),
        ("a generator function", None),
        ("a loss that is a module", None),
        ("a loss that calls a module", None),
        ("a loss that counts in a variable", None),
        ("a scheduler that hangs on the optimizer", None),
        ("an optimizer that lowers its rate", None),
        ("a model that draws", None),
        ("a loss that draws", None),
        ("an optimizer that draws", None),
        ("batches and a loss drawn by one generator", None),
    ],
)
def test_what_user_classes_keep_is_kept(
    kind: str, told: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def target(name: str) -> str:
        """A file of its own, since one that has run in this process is not run again."""
        (tmp_path / f"{name}_file").mkdir()
        return trainable.write(tmp_path / f"{name}_file", "rows", add=KEEPS.replace("GIVEN", kind))

    _, _, schedule = kind.partition(", with schedule=")
    settings = {"checkpoint_seconds": 0, "epochs": 2, **({"schedule": schedule} if schedule else {})}
    given: dict[str, Any] = {"settings": settings, "threads": 1, "device": "cpu"}
    whole = hotlap.train(target("whole"), out=tmp_path / "whole", **given)
    with monkeypatch.context() as patch:
        stop_after(patch, 7 * (10 + 6))
        with pytest.raises(Stop):
            hotlap.train(target("stopped"), out=tmp_path / "out", **given)
    result = hotlap.train(target("resumed"), out=tmp_path / "out", resume=True, **given)
    assert 10 < result["training"]["resumed_from_step"] < 20
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")
    for one in (whole, result):
        assert any(told in warning for warning in one["warnings"]) if told else not one["warnings"]


def test_a_scoring_that_was_left_counts_once(tmp_path: Path) -> None:
    given: dict[str, Any] = {"settings": {"epochs": 2}, "threads": 1, "device": "cpu"}
    add = SCORED.replace("LEAVE", repr(str(tmp_path / "leave"))).replace("OUT", repr(str(tmp_path / "out")))
    target = trainable.write(tmp_path, "rows", add=add)
    hotlap.train(target, out=tmp_path / "whole", **given)
    (tmp_path / "leave").touch()
    with pytest.raises(KeyboardInterrupt):
        hotlap.train(target, out=tmp_path / "out", **given)
    hotlap.train(target, out=tmp_path / "out", resume=True, **given)
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")
    assert steps(tmp_path / "out") == steps(tmp_path / "whole")


@pytest.mark.slow
def test_an_interrupt_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows", add=SLOW)
    hotlap.train(target, out=tmp_path / "whole", threads=1, device="cpu")
    words = command(target, tmp_path / "out", "--device", "cpu")
    with subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        metrics = tmp_path / "out" / "metrics.jsonl"
        while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert process.returncode == 130, said
    assert "saved; go on with the same command and --resume" in said
    result = hotlap.train(target, out=tmp_path / "out", threads=1, device="cpu", resume=True)
    assert 1 <= result["training"]["resumed_from_step"] < 30
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")


SETTINGS = {"checkpoint_seconds": 0, "epochs": 1}
"""A checkpoint after each of ten steps."""


class Stop(BaseException):
    """Stands for a kill at one place of the code."""


def stop_after(monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    """Let the process 'die' in the given call of what writes checkpoints: of each flush and rename."""
    left = [calls]
    for name in ("fsync", "replace"):
        theirs = getattr(os, name)

        def dying(*arguments: Any, theirs: Any = theirs, **named: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise Stop
            return theirs(*arguments, **named)

        monkeypatch.setattr(os, name, dying)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A workload and the folder of its uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    target = trainable.write(folder, "rows")
    hotlap.train(target, out=folder / "out", settings=SETTINGS, threads=1, device="cpu")
    return target, folder / "out"


@pytest.mark.parametrize("calls", [3, 5, 8, 11, 13, 14, 40])
def test_stopped_within_the_writing_of_a_checkpoint(
    calls: int, whole: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, out = whole
    given: dict[str, Any] = {"settings": SETTINGS, "threads": 1, "device": "cpu"}
    with monkeypatch.context() as patch:
        stop_after(patch, calls)
        with pytest.raises(Stop):
            hotlap.train(target, out=tmp_path / "out", **given)
    hotlap.train(target, out=tmp_path / "out", resume=True, **given)
    assert weights(tmp_path / "out") == weights(out)
    left = [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()]
    assert len(left) == 4, left


def test_stopped_after_the_last_step_of_an_epoch(
    whole: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, out = whole
    given: dict[str, Any] = {"settings": SETTINGS, "threads": 1, "device": "cpu"}

    def dying(*_: Any) -> None:
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_judge", dying)
        with pytest.raises(Stop):
            hotlap.train(target, out=tmp_path / "out", **given)
    resumed = hotlap.train(target, out=tmp_path / "out", resume=True, **given)
    assert resumed["training"]["resumed_from_step"] == resumed["training"]["steps"] == 10
    assert weights(tmp_path / "out") == weights(out)


@pytest.mark.parametrize("part", ["json", "safetensors"])
@pytest.mark.parametrize("harm", ["changed", "cut", "gone", "pipe", "endless", "nested"])
def test_the_one_before_is_used_when_the_newest_is_damaged(
    part: str, harm: str, whole: tuple[str, Path], tmp_path: Path
) -> None:
    target, out = whole
    given: dict[str, Any] = {"settings": SETTINGS, "threads": 1, "device": "cpu"}
    hotlap.train(target, out=tmp_path / "out", **given)
    (tmp_path / "out" / "result.json").unlink()
    (tmp_path / "out" / "model.safetensors").unlink()
    newest = max((tmp_path / "out" / "checkpoints").glob(f"*.{part}"))
    data = newest.read_bytes()
    middle = len(data) // 2
    if harm in ("gone", "pipe", "endless"):
        newest.unlink()
    if harm == "pipe":
        os.mkfifo(newest)
    elif harm == "endless":
        newest.symlink_to("/dev/zero")
    elif harm == "nested":
        newest.write_text("[" * 200_000)
    elif harm != "gone":
        newest.write_bytes(
            data[:middle] if harm == "cut" else data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        )
    result = hotlap.train(target, out=tmp_path / "out", resume=True, **given)
    assert weights(tmp_path / "out") == weights(out)
    assert steps(tmp_path / "out") == steps(out)
    passed_over = [warning for warning in result["warnings"] if "passed over" in warning]
    assert bool(passed_over) == (part == "safetensors" or harm != "gone")


def test_a_run_that_ended_is_not_run_again(whole: tuple[str, Path]) -> None:
    target, out = whole
    before = (out / "metrics.jsonl").stat().st_mtime_ns
    result = hotlap.train(target, out=out, resume=True, threads=1, device="cpu")
    assert result["kind"] == "train"
    assert (out / "metrics.jsonl").stat().st_mtime_ns == before


def test_more_epochs_are_added_to_a_run_that_ended(tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows")
    given: dict[str, Any] = {"threads": 1, "device": "cpu"}
    hotlap.train(target, out=tmp_path / "whole", settings={"epochs": 4}, **given)
    hotlap.train(target, out=tmp_path / "out", settings={"epochs": 2}, **given)
    only = "only more epochs can be added to it, not "
    for refused, told in (
        ({"epochs": 1}, "has ended, and was to have 2 epochs; give more than that"),
        ({"epochs": 3, "clip": 1.0}, f"{only}clip;"),
        ({"precision": "bf16"}, f"{only}precision;"),
    ):
        with pytest.raises(OutputError, match=told):
            hotlap.train(target, out=tmp_path / "out", settings=refused, resume=True, **given)
    result = hotlap.train(target, out=tmp_path / "out", settings={"epochs": 4}, resume=True, **given)
    assert result["training"]["steps"] == 40
    assert result["warnings"] == ["this run was to have 2 epochs at first, and 4 later"]
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")
    assert steps(tmp_path / "out") == steps(tmp_path / "whole")


@pytest.mark.parametrize("part", ["json", "safetensors"])
def test_a_folder_in_the_place_of_a_checkpoint_is_left_to_its_owner(part: str, tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows")
    given: dict[str, Any] = {"settings": {"epochs": 2}, "threads": 1, "device": "cpu", "out": tmp_path / "out"}
    hotlap.train(target, **given)
    ended = weights(tmp_path / "out")
    (tmp_path / "out" / "result.json").unlink()
    newest = max((tmp_path / "out" / "checkpoints").glob(f"*.{part}"))
    newest.unlink()
    newest.mkdir()
    with pytest.raises(OutputError, match=f"{newest.name} is a folder, where a file is to go; move it away"):
        hotlap.train(target, resume=True, **given)
    newest.rmdir()
    hotlap.train(target, resume=True, **given)
    assert weights(tmp_path / "out") == ended


def _forged(path: Path, change: Callable[[Any], None]) -> None:
    """A checkpoint's JSON file with something else in it, and the digest of that."""
    body = json.loads(path.read_text())["checkpoint"]
    change(body)
    digest = hashlib.sha256(json.dumps(body).encode()).hexdigest()
    path.write_text(json.dumps({"sha256": digest, "checkpoint": body}))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda body: body.pop("bytes"), "it is no JSON of a checkpoint"),
        (lambda body: body.update(bytes=2**62), "its digest is another than when it was written"),
        (lambda body: body.update(bytes="many"), "its digest is another than when it was written"),
        (lambda body: body.update(step=10), "it is of another step than its name says"),
        (lambda body: body.update(state=[]), "it holds no state"),
    ],
)
def test_a_checkpoint_that_somebody_wrote_is_passed_over(change: Any, told: str, tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows")
    given: dict[str, Any] = {"settings": {"epochs": 2}, "threads": 1, "device": "cpu", "out": tmp_path / "out"}
    hotlap.train(target, **given)
    (tmp_path / "out" / "result.json").unlink()
    _forged(max((tmp_path / "out" / "checkpoints").glob("*.json")), change)
    warnings = hotlap.train(target, resume=True, **given)["warnings"]
    assert [told in one for one in warnings] == [True]


def test_a_checkpoint_whose_state_is_not_ours_is_refused(tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows")
    given: dict[str, Any] = {"settings": {"epochs": 2}, "threads": 1, "device": "cpu", "out": tmp_path / "out"}
    hotlap.train(target, **given)
    (tmp_path / "out" / "result.json").unlink()
    newest = max((tmp_path / "out" / "checkpoints").glob("*.json"))
    for change in ({"more": 1}, {"seconds": "x"}, {"step": -1}, {"best": {"step": 1, "epoch": 0, "score": "good"}}):
        whole = newest.read_bytes()
        _forged(newest, lambda body, change=change: body["state"]["position"].update(change))  # type: ignore[misc]
        with pytest.raises(OutputError, match=f"{newest.name} is not of this version of hotlap, or .* move it away"):
            hotlap.train(target, resume=True, **given)
        newest.write_bytes(whole)
    _forged(newest, lambda body: body["state"].update(optimizer={"groups": [5], "state": {}}))
    with pytest.raises(OutputError, match=r"its optimizer's groups are no groups\); move it away"):
        hotlap.train(target, resume=True, **given)
    newest.unlink()
    assert hotlap.train(target, resume=True, **given)["training"]["steps"] == 20


def test_a_run_without_its_checkpoints_is_not_begun_anew_in_silence(tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows")
    given: dict[str, Any] = {"settings": {"epochs": 1}, "threads": 1, "device": "cpu", "out": tmp_path / "out"}
    hotlap.train(target, **given)
    shutil.rmtree(tmp_path / "out" / "checkpoints")
    (tmp_path / "out" / "result.json").unlink()
    with pytest.raises(OutputError, match=r"that run ended, and .*checkpoints holds no checkpoint of it any more"):
        hotlap.train(target, resume=True, **given)
    (tmp_path / "out" / "model.safetensors").unlink()
    warnings = hotlap.train(target, resume=True, **given)["warnings"]
    assert warnings == ["there was no checkpoint to go on from: training began with its first step"]


@pytest.mark.parametrize(
    ("content", "told"),
    [("{", "no JSON of settings"), ("[]", "no JSON of settings"), ('{"settings": [1]}', "it holds no settings")],
)
def test_settings_that_were_damaged_since(content: str, told: str, tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows")
    given: dict[str, Any] = {"settings": {"epochs": 1}, "threads": 1, "device": "cpu", "out": tmp_path / "out"}
    hotlap.train(target, **given)
    (tmp_path / "out" / "settings.json").write_text(content)
    with pytest.raises(OutputError, match=rf"--resume: .*settings\.json is damaged \(.*{told}\); put it back"):
        hotlap.train(target, resume=True, **given)


def test_figures_do_not_hang_on_records_that_were_damaged_since(tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows")
    given: dict[str, Any] = {"settings": {"epochs": 1}, "threads": 1, "device": "cpu", "out": tmp_path / "out"}
    hotlap.train(target, **given)
    (tmp_path / "out" / "result.json").unlink()
    for content in ("rubbish\n" * 10_000, '{"ms": null, "step": 1}\n{"ms": 1.5}\n"ms"\n' * 1000):
        (tmp_path / "out" / "result.json").unlink(missing_ok=True)
        (tmp_path / "out" / "metrics.jsonl").write_text(content)
        assert hotlap.train(target, resume=True, **given)["best"]["median_ms"] > 0


@pytest.mark.parametrize("name", ["metrics.jsonl", "settings.json", "result.json"])
def test_a_pipe_in_the_place_of_a_file_does_not_hold_a_run_up(name: str, tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows")
    given: dict[str, Any] = {"settings": {"epochs": 1}, "threads": 1, "device": "cpu", "out": tmp_path / "out"}
    hotlap.train(target, **given)
    for one in {"result.json", name}:
        (tmp_path / "out" / one).unlink()
    os.mkfifo(tmp_path / "out" / name)
    with pytest.raises(InputError, match="is no plain file"):
        hotlap.train(target, resume=True, **given)


def test_records_that_are_gone_are_not_made_up(tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows")
    given: dict[str, Any] = {"settings": {"epochs": 1}, "threads": 1, "device": "cpu", "out": tmp_path / "out"}
    before = hotlap.train(target, **given)
    for name in ("result.json", "metrics.jsonl"):
        (tmp_path / "out" / name).unlink()
    again = hotlap.train(target, resume=True, **given)
    assert again["training"]["steps"] == before["training"]["steps"]
    assert again["best"]["median_ms"] > 0
    assert (tmp_path / "out" / "metrics.jsonl").read_bytes() == b""


def test_fp32_weights_of_the_file_are_the_models(whole: tuple[str, Path]) -> None:
    _, out = whole
    names = set(load_file(out / "model.safetensors"))
    assert "layers.0.weight" in names
    assert "layers.1.running_mean" in names
