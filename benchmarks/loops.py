"""What people train with today, and hotlap, each so that one step can be asked for. Runs in a worker process.

A library's loop runs from its beginning in a thread of its own and stops after each step until the next one is asked
for, so that whole loops can be timed in turn, step by step. The hand-over costs all of them the same, some 10 µs.

Lightning and Accelerate are used as their own documentation begins, with what a user gets who sets nothing; all of
them read the workload's Dataset through a DataLoader, shuffled, in the workload's batch size.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hotlap.core import Json
from hotlap.machine.facts import facts
from hotlap.training import preparing, validation
from hotlap.training.processes import Processes
from hotlap.training.run import train_model
from hotlap.training.settings import Settings, settings_for
from hotlap.workload.inputs import call
from hotlap.workload.opened import open_workload
from hotlap.workload.scoring import metric_value, score_batch
from hotlap.workload.target import Loaded, load_target

_FOREVER = 1_000_000
Step = Callable[[Any], None]
"""What a loop calls after each step: with the model, or with hotlap's event, which may be a score too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What every loop gets. `settings` are hotlap's alone."""

    loaded: Loaded
    settings: Settings
    folder: Path
    seed: int

    def parts(self) -> tuple[Any, Any, Any]:
        """The model in training mode, its optimizer and its loader, as a user makes them."""
        import torch
        from torch.utils.data import DataLoader

        workload = self.loaded.workload
        model = workload.model().train()
        optimizer = workload.optimizer(model.parameters())
        loader = DataLoader(workload.training(), batch_size=workload.batch_size, shuffle=True)
        torch.manual_seed(self.seed)
        return model, optimizer, loader


def plain(given: Given, step: Step) -> None:
    """The loop of PyTorch's own tutorial."""
    model, optimizer, loader = given.parts()
    loss_of = given.loaded.workload.loss
    while True:
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss = loss_of(call(model, inputs), targets)
            loss.backward()
            optimizer.step()
            loss.item()
            step(model)


def by_hand(given: Given, step: Step) -> None:
    """The same with what somebody sets who knows how: bf16 autocast where the CPU has arithmetic for it, channels_last
    for images, a fused optimizer.
    """
    import torch

    model, _, loader = given.parts()
    if any(parameter.ndim == 4 for parameter in model.parameters()):
        model = model.to(memory_format=torch.channels_last)
    optimizer = preparing.prepare_optimizer(given.loaded.workload, model, Settings(fused=True))
    loss_of, half = given.loaded.workload.loss, facts().has_bf16_dot_product

    def layout(value: Any) -> Any:
        is_image = isinstance(value, torch.Tensor) and value.ndim == 4
        return value.to(memory_format=torch.channels_last) if is_image else value

    while True:
        for inputs, targets in loader:
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                outputs = call(model, layout(inputs))
            loss = loss_of(outputs.float(), targets)
            loss.backward()
            optimizer.step()
            loss.item()
            step(model)


def accelerate(given: Given, step: Step) -> None:
    """Accelerate as its quick tour has it."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model, optimizer, loader = accelerator.prepare(*given.parts())
    loss_of = given.loaded.workload.loss
    while True:
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss = loss_of(call(model, inputs), targets)
            accelerator.backward(loss)
            optimizer.step()
            loss.item()
            step(model)


def lightning(given: Given, step: Step) -> None:
    """Lightning as its introduction has it: a LightningModule that logs its loss, and a Trainer with defaults."""
    import pytorch_lightning

    model, optimizer, loader = given.parts()
    loss_of = given.loaded.workload.loss

    class Module(pytorch_lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: Any, index: int) -> Any:
            inputs, targets = batch
            loss = loss_of(call(self.model, inputs), targets)
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return optimizer

    class After(pytorch_lightning.Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            step(model)

    trainer = pytorch_lightning.Trainer(
        accelerator="cpu", max_epochs=-1, default_root_dir=str(given.folder), callbacks=[After()]
    )
    trainer.fit(Module(), loader)


def hotlap(given: Given, step: Step) -> None:
    """What `hotlap train` runs, with `given.settings`."""

    def tell(event: Json) -> None:
        if event["event"] in ("step", "score"):
            step(event)

    settings = replace(given.settings, epochs=_FOREVER, seed=given.seed)
    train_model(given.loaded, settings, given.folder, Processes("cpu"), resume=False, tell=tell)


LOOPS: Mapping[str, Callable[[Given, Step], None]] = {
    "lightning": lightning,
    "accelerate": accelerate,
    "plain": plain,
    "by hand": by_hand,
    "hotlap": hotlap,
}


class Turns:
    """A loop that takes one step a call."""

    def __init__(self, run: Callable[[Step], None]) -> None:
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._failed: BaseException | None = None
        self._run = run
        threading.Thread(target=self._loop, daemon=True).start()

    def __call__(self) -> None:
        self._go.release()
        self._done.acquire()
        if self._failed is not None:
            raise self._failed

    def _loop(self) -> None:
        self._go.acquire()
        try:
            self._run(self._step)
            raise RuntimeError("the loop came to its end")
        except BaseException as error:  # noqa: BLE001 (raised again in the other thread)
            self._failed = error
            self._done.release()

    def _step(self, _: Any) -> None:
        self._done.release()
        self._go.acquire()


def hold(state: dict[str, Any], *, loop: str, target: str, settings: Json, folder: str, warm: int) -> Json:
    """Make `state["call"]` one step of a loop, and take the first `warm` ones."""
    # The others keep nothing within an epoch. Minutes go by between two turns, so that each would begin with one.
    given = _given(loop, target, {**settings, "checkpoint_seconds": 1e9}, folder, seed=0)
    turns = Turns(lambda step: LOOPS[loop](given, step))
    for _ in range(warm):
        turns()
    state["call"] = turns
    return {"settings": given.settings.to_json()}


class Reached(BaseException):
    """The score was reached. Nothing on the way takes it for an error of its own."""


def reach(
    state: dict[str, Any], *, loop: str, target: str, settings: Json, folder: str, seed: int, goal: float, most: int
) -> Json:
    """Train until the score after an epoch is at least `goal`, for `most` epochs at the most.

    Gives the seconds from the loop's beginning without those of scoring, the epochs that it took, and each epoch's
    score. Building the model, a loop's own checks, compiling and checkpoints count.
    """
    importlib.import_module({"lightning": "pytorch_lightning"}.get(loop, "torch"))  # hotlap is imported by now, too.
    given = _given(loop, target, settings, folder, seed=seed)
    examples = len(given.loaded.workload.training())
    clock = Clock(steps=-(-examples // given.loaded.workload.batch_size), goal=goal, most=most, own=loop == "hotlap")
    clock.opened = open_workload(given.loaded, needs=("evaluation", "score"), command="train")
    with contextlib.suppress(Reached), clock.scoring_left_out():
        clock.begin()
        LOOPS[loop](given, clock)
    return {"seconds": clock.seconds, "epochs": len(clock.scores), "scores": clock.scores}


class Clock:
    """Wall time without scoring, which comes after each epoch; by its own loop where that does it."""

    def __init__(self, *, steps: int, goal: float, most: int, own: bool) -> None:
        self._steps, self._goal, self._most, self._own = steps, goal, most, own
        self.opened: Any = None
        self.seconds, self.scores, self._count = 0.0, list[float](), 0
        self._began = self._left_out = 0.0

    def begin(self) -> None:
        """The loop is about to begin."""
        self._began = time.perf_counter()

    def __call__(self, told: Any) -> None:
        if self._own:
            if told["event"] == "score":
                self._judge(told["score"])
            return
        self._count += 1
        if self._count % self._steps == 0:
            with self.standing():
                score = _score(self.opened, told)
            self._judge(score)

    @contextlib.contextmanager
    def standing(self) -> Iterator[None]:
        """What goes by within the block does not count."""
        began = time.perf_counter()
        yield
        self._left_out += time.perf_counter() - began

    @contextlib.contextmanager
    def scoring_left_out(self) -> Iterator[None]:
        """Within the block hotlap's own scoring does not count."""
        theirs = validation.score

        def score(*given: Any) -> Any:
            with self.standing():
                return theirs(*given)

        validation.score = score
        try:
            yield
        finally:
            validation.score = theirs

    def _judge(self, score: float) -> None:
        self.seconds = time.perf_counter() - self._began - self._left_out
        self.scores.append(score)
        if score >= self._goal or len(self.scores) >= self._most:
            raise Reached


def _score(opened: Any, model: Any) -> float:
    import torch

    model.eval()
    rows: list[Any] = []
    with torch.no_grad():
        for inputs, targets in opened.workload.evaluation():
            rows.extend(score_batch(opened, call(model, inputs), targets))
    model.train()
    return float(metric_value(opened, rows))


def _given(loop: str, target: str, settings: Json, folder: str, *, seed: int) -> Given:
    import torch

    loaded = load_target(target)
    chosen = settings_for(loaded.workload, settings)
    torch.set_num_threads(chosen.threads)
    Path(folder).mkdir(parents=True, exist_ok=True)
    return Given(loaded=loaded, settings=chosen, folder=Path(folder), seed=seed)
