"""What a run that goes on with other settings does, and what it keeps where a step or an interrupt goes wrong."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import trainable
from safetensors.torch import load_file

import hotlap
from hotlap.errors import InputError, OutputError, TrainingStopped, WorkloadError
from hotlap.training import checkpoint, run, validation
from hotlap.training.loop import Loop
from hotlap.training.making import CHECKPOINTS
from hotlap.training.processes import Processes
from hotlap.training.settings import Settings
from hotlap.training.stepping import Stepper
from hotlap.workload.target import load_target

GIVEN: dict[str, Any] = {"threads": 1, "device": "cpu"}

ENDLESS = """
import dataclasses
workload = dataclasses.replace(workload, training=lambda: iter_twice)
class Twice:
    def __iter__(self):
        for start in range(0, 64, 16):
            rows = drawn(start, 16, 6)
            yield rows, rows[:, :3].argmax(1)
iter_twice = Twice()
"""

FALLS = """
import dataclasses
def falling(outputs, labels):
    return torch.full((len(labels),), -float(outputs.abs().sum()))
workload = dataclasses.replace(workload, score=falling)
"""
"""A score that falls as the model learns to be sure."""


class Killed(BaseException):
    """Stands for a kill."""


def killed_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Let the run 'die' after so many steps, its checkpoint of the last one written."""
    own, count = Loop._window, [0]

    def window(self: Loop, given: Any) -> None:
        own(self, given)
        count[0] += 1
        if count[0] == steps:
            self._save()
            raise Killed

    monkeypatch.setattr(Loop, "_window", window)


def stopped(target: str, out: Path, monkeypatch: pytest.MonkeyPatch, steps: int, settings: dict[str, Any]) -> None:
    with monkeypatch.context() as patch:
        killed_after(patch, steps)
        with pytest.raises(Killed):
            hotlap.train(target, out=out, settings=settings, **GIVEN)


@pytest.mark.parametrize(("add", "steps"), [("", 10), (ENDLESS, 4)], ids=["dataset", "batches"])
def test_fewer_epochs_than_were_begun_are_refused(
    add: str, steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, out = trainable.write(tmp_path, "rows", add=add), tmp_path / "out"
    stopped(target, out, monkeypatch, 2 * steps + 1, {"epochs": 5})
    for epochs in (1, 2):
        with pytest.raises(OutputError, match=r"that run is in its epoch 3 already; give epochs=3 or more"):
            hotlap.train(target, out=out, settings={"epochs": epochs}, resume=True, **GIVEN)
    result = hotlap.train(target, out=out, settings={"epochs": 3}, resume=True, **GIVEN)
    assert result["training"]["steps"] == 3 * steps


def test_epochs_cut_to_those_that_are_through_end_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, out = trainable.write(tmp_path, "rows"), tmp_path / "out"
    hotlap.train(target, out=tmp_path / "whole", settings={"epochs": 2}, **GIVEN)
    own = Loop._epoch

    def epoch(self: Loop, number: int) -> None:
        if number == 2:
            self._save()
            raise Killed
        own(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_epoch", epoch)
        with pytest.raises(Killed):
            hotlap.train(target, out=out, settings={"epochs": 5}, **GIVEN)
    hotlap.train(target, out=out, settings={"epochs": 2}, resume=True, **GIVEN)
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


def test_an_early_stop_that_is_taken_back_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, out = trainable.write(tmp_path, "rows", add=FALLS), tmp_path / "out"
    stopped(target, out, monkeypatch, 15, {"epochs": 4, "early_stop": 3})
    result = hotlap.train(target, out=out, settings={"early_stop": None}, resume=True, **GIVEN)
    assert (result["training"]["epochs"], result["training"]["stopped_early"]) == (4, False)
    assert result["training"]["best_epoch"] is None


def test_epochs_are_added_where_early_stop_would_still_wait(tmp_path: Path) -> None:
    target, out = trainable.write(tmp_path, "rows", add=FALLS), tmp_path / "out"
    settings = {"epochs": 2, "early_stop": 3}
    hotlap.train(target, out=out, settings=settings, **GIVEN)
    more = hotlap.train(target, out=out, settings={**settings, "epochs": 3}, resume=True, **GIVEN)
    assert (more["training"]["epochs"], more["training"]["stopped_early"]) == (3, False)
    most = hotlap.train(target, out=out, settings={**settings, "epochs": 9}, resume=True, **GIVEN)
    assert (most["training"]["epochs"], most["training"]["stopped_early"]) == (4, True)
    assert most["training"]["best_epoch"] == 1


def test_an_early_stop_without_examples_to_stop_by(tmp_path: Path) -> None:
    one = (
        "\nimport dataclasses\nevaluation = lambda: [(drawn(2, 1, 6), torch.zeros(1, dtype=torch.long))]\n"
        "workload = dataclasses.replace(workload, evaluation=evaluation)\n"
    )
    target = trainable.write(tmp_path, "rows", add=one)

    def trained() -> None:
        for seed in range(20):  # The one example confirms under some seed.
            hotlap.train(target, out=tmp_path / str(seed), settings={"early_stop": 1, "epochs": 1}, seed=seed, **GIVEN)

    with pytest.raises(WorkloadError, match="early_stop needs examples to stop by"):
        trained()


def test_a_settings_file_counts_as_named_when_a_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, out, file = trainable.write(tmp_path, "rows"), tmp_path / "out", tmp_path / "settings.json"
    stopped(target, out, monkeypatch, 12, {"epochs": 2})
    file.write_text('{"settings": {"clip": 0.5}}')
    result = hotlap.train(target, out=out, settings=file, resume=True, **GIVEN)
    assert result["settings"]["clip"] == 0.5
    assert "clip None -> 0.5" in result["warnings"][0]


def test_weights_that_a_run_starts_from_are_not_deleted(tmp_path: Path) -> None:
    target, out = trainable.write(tmp_path, "rows"), tmp_path / "out"
    hotlap.train(target, out=out, settings={"epochs": 1}, **GIVEN)
    for command in (hotlap.train, hotlap.optimize, hotlap.tune):
        with pytest.raises(OutputError, match=r"--force would delete .*model.safetensors, which this run starts from"):
            command(f"{target}@{out}", out=out, force=True, **GIVEN)
    assert load_file(out / "model.safetensors")


def test_an_interrupt_while_weights_change_places_keeps_the_models_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, out = trainable.write(tmp_path, "rows"), tmp_path / "out"
    settings = {"ema": 0.9, "epochs": 2}
    hotlap.train(target, out=tmp_path / "whole", settings=settings, **GIVEN)
    own: Callable[..., Any] = validation.score

    def score(opened: Any, model: Any, *rest: Any) -> Any:
        found = own(opened, model, *rest)
        if (out / "metrics.jsonl").exists():
            os.kill(os.getpid(), signal.SIGINT)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(validation, "score", score)
        with pytest.raises(KeyboardInterrupt):
            hotlap.train(target, out=out, settings=settings, **GIVEN)
    hotlap.train(target, out=out, resume=True, **GIVEN)
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


BROKEN = """
import dataclasses, itertools
calls = {calls}
def loss(outputs, labels):
    found = functional.cross_entropy(outputs, labels)
    return found * float('nan') if {number} == 14 else found
workload = dataclasses.replace(workload, loss=loss)
"""


def test_a_step_that_is_not_finite_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add = BROKEN.format(calls="itertools.count(1)", number="next(calls)")
    target, out = trainable.write(tmp_path, "rows", add=add), tmp_path / "out"
    with pytest.raises(TrainingStopped, match="the state after step 13 is kept"):
        hotlap.train(target, out=out, **GIVEN)
    whole = trainable.write(tmp_path, "rows")
    stopped(whole, tmp_path / "whole", monkeypatch, 13, {})
    one, other = (load_file(folder / CHECKPOINTS / "step-00000013.safetensors") for folder in (out, tmp_path / "whole"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_step_that_is_not_finite_and_counted_in_the_loss_is_not_kept(tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows", add=BROKEN.format(calls="[]", number="calls.append(1) or len(calls)"))
    with pytest.raises(TrainingStopped, match="the last checkpoint before it is kept"):
        hotlap.train(target, out=tmp_path / "out", **GIVEN)
    assert not (tmp_path / "out" / CHECKPOINTS / "step-00000013.safetensors").exists()


def test_fp16_gradients_that_are_never_finite_stop_the_run(tmp_path: Path) -> None:
    rooted = (
        "\nimport dataclasses\nclass Rooted(Net):\n    def forward(self, rows):\n"
        "        return self.layers(rows) + torch.sqrt(0 * self.layers[0].weight.sum())\n"
        "workload = dataclasses.replace(workload, model=Rooted)\n"
    )
    target, out = trainable.write(tmp_path, "rows", add=rooted), tmp_path / "out"
    with pytest.raises(TrainingStopped, match="the gradients are NaN in step 42"):
        hotlap.train(target, out=out, settings={"precision": "fp16", "epochs": 6}, **GIVEN)


def test_after_a_damaged_checkpoint_two_good_ones_are_kept(tmp_path: Path) -> None:
    for step in (50, 100):
        checkpoint.save(tmp_path, checkpoint.Checkpoint(step=step, tensors={"a": torch.ones(2)}, state={}))
    (tmp_path / "step-00000100.safetensors").write_bytes(b"")
    for step in (60, 70):
        checkpoint.save(tmp_path, checkpoint.Checkpoint(step=step, tensors={"a": torch.ones(2)}, state={}))
    assert sorted(path.name for path in tmp_path.glob("*.json")) == ["step-00000060.json", "step-00000070.json"]


def test_one_tensor_under_two_names_is_kept(tmp_path: Path) -> None:
    both = torch.arange(6.0)
    tensors = {"a": both, "b": both, "c": both[2:], "empty": torch.empty(0), "empty too": torch.empty(0)}
    checkpoint.save(tmp_path, checkpoint.Checkpoint(step=1, tensors=tensors, state={}))
    found, _ = checkpoint.newest(tmp_path)
    assert found is not None
    assert all(torch.equal(found.tensors[name], value) for name, value in tensors.items())


OPTIMIZERS = """
import dataclasses
class Wrapping(torch.optim.Optimizer):
    def __init__(self, parameters):
        parameters = list(parameters)
        self.inner = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
        super().__init__(parameters, {})

    def step(self, closure=None):
        self.inner.step()

class Counting(torch.optim.SGD):
    def step(self, closure=None):
        self.state["all"] = {"steps": self.state.get("all", {"steps": 0})["steps"] + 1}
        for group in self.param_groups:
            group["lr"] = 0.1 / self.state["all"]["steps"]
        return super().step(closure)

class Rateless(torch.optim.Optimizer):
    def __init__(self, parameters):
        super().__init__(parameters, {"lr": None})

    @torch.no_grad()
    def step(self, closure=None):
        for parameter in self.param_groups[0]["params"]:
            parameter.add_(parameter.grad, alpha=-0.1)

workload = dataclasses.replace(workload, optimizer=GIVEN)
"""


def test_an_optimizer_within_an_optimizer_is_warned_of(tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows", add=OPTIMIZERS.replace("GIVEN", "Wrapping"))
    result = hotlap.train(target, out=tmp_path / "out", settings={"epochs": 1}, **GIVEN)
    assert ["works with another one in its 'inner'" in one for one in result["warnings"]] == [True]


KEEPS_AN_OBJECT = """
import dataclasses
class Past(torch.optim.SGD):
    def step(self, closure=None):
        super().step(closure)
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter].setdefault("past", object())
workload = dataclasses.replace(workload, optimizer=lambda parameters: Past(parameters, lr=0.1))
"""


def test_what_an_optimizer_keeps_and_no_checkpoint_holds_is_told_at_the_first_step(tmp_path: Path) -> None:
    steps = []
    sentence = r"`optimizer` keeps 'past' for 'layers.0.weight', which no checkpoint can hold: an? object can't be kept"
    with pytest.raises(WorkloadError, match=sentence):
        hotlap.train(
            trainable.write(tmp_path, "rows", add=KEEPS_AN_OBJECT),
            out=tmp_path / "out",
            progress=lambda event: steps.append(event) if event["event"] == "step" else None,
            **GIVEN,
        )
    assert not steps


def test_an_optimizers_values_for_all_parameters_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = "lambda parameters: Counting(parameters, lr=0.1, momentum=0.5)"
    target = trainable.write(tmp_path, "rows", add=OPTIMIZERS.replace("GIVEN", optimizer))
    hotlap.train(target, out=tmp_path / "whole", settings={"epochs": 2}, **GIVEN)
    stopped(target, tmp_path / "out", monkeypatch, 12, {"epochs": 2})
    hotlap.train(target, out=tmp_path / "out", resume=True, **GIVEN)
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "whole"))
    assert one == other


def test_an_optimizer_without_a_rate_trains_and_takes_no_schedule(tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows", add=OPTIMIZERS.replace("GIVEN", "Rateless"))
    result = hotlap.train(target, out=tmp_path / "out", settings={"epochs": 1}, **GIVEN)
    assert result["best"]["score"] is not None
    with pytest.raises(InputError, match="Rateless has none of its own; leave schedule and warmup out"):
        hotlap.train(target, out=tmp_path / "more", settings={"schedule": "cosine"}, **GIVEN)


def test_an_average_leaves_whole_numbers_alone(tmp_path: Path) -> None:
    frozen = (
        "\nimport dataclasses\nclass Frozen(Net):\n    def __init__(self):\n        super().__init__()\n"
        "        self.table = nn.Parameter(torch.arange(3), requires_grad=False)\n"
        "workload = dataclasses.replace(workload, model=Frozen)\n"
    )
    target, out = trainable.write(tmp_path, "rows", add=frozen), tmp_path / "out"
    hotlap.train(target, out=out, settings={"epochs": 1, "ema": 0.9}, **GIVEN)
    assert load_file(out / "model.safetensors")["table"].tolist() == [0, 1, 2]


def test_an_optimizers_own_error_is_the_users_in_fp16_too(tmp_path: Path) -> None:
    raising = OPTIMIZERS.replace("GIVEN", "Raising") + (
        "\nclass Raising(torch.optim.SGD):\n    def step(self, closure=None):\n        raise ValueError('mine')\n"
        "workload = dataclasses.replace(workload, optimizer=lambda p: Raising(p, lr=0.1))\n"
    )
    target = trainable.write(tmp_path, "rows", add=raising.replace("optimizer=Raising", "optimizer=None"))
    for precision in ("fp32", "fp16"):
        with pytest.raises(WorkloadError, match="`optimizer` raised ValueError: mine"):
            hotlap.train(target, out=tmp_path / precision, settings={"precision": precision}, **GIVEN)


def test_buffers_too_large_to_copy_are_told_to_have_changed() -> None:
    from hotlap.training.buffers import Buffers

    models = torch.nn.Module(), torch.nn.Module()
    for model, count in zip(models, (3, 1_000_001), strict=True):
        model.register_buffer("buffer", torch.zeros(count))
    kept = [Buffers(model) for model in models]
    for one, model in zip(kept, models, strict=True):
        one.keep()
        assert one.put_back()
        model.buffer.add_(1)
    small, large = kept
    assert not large.put_back()
    assert small.put_back()
    assert models[0].buffer.tolist() == [0, 0, 0]
    models[0].buffer = models[0].buffer + 1  # another tensor
    assert not small.put_back()


GROWS = """
import dataclasses, pathlib
MARK = pathlib.Path(__file__ + ".grown")
workload = dataclasses.replace(workload, training=lambda: Rows(160 if MARK.exists() else 150, 3))
"""


def test_what_changed_on_the_way_is_told_after_each_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, out = trainable.write(tmp_path, "rows"), tmp_path / "out"
    stopped(target, out, monkeypatch, 4, {"epochs": 2})
    with monkeypatch.context() as patch:
        killed_after(patch, 4)
        with pytest.raises(Killed):
            hotlap.train(target, out=out, settings={"clip": 0.01}, resume=True, **GIVEN)
    result = hotlap.train(target, out=out, settings={"ema": 0.9}, resume=True, **GIVEN)
    words = ": the weights are not those of one run"
    told = [f"resumed with other settings ({change}){words}" for change in ("clip None -> 0.01", "ema None -> 0.9")]
    assert [warning for warning in result["warnings"] if warning.endswith(words)] == told
    assert hotlap.train(target, out=out, resume=True, **GIVEN)["warnings"] == result["warnings"]


REFUSED = ({"epochs": 1}, {"layout": "channels_last"}, {"warmup": 1000}, {"pin": True})


@pytest.mark.parametrize("settings", REFUSED, ids=str)
def test_a_refused_resume_changes_nothing(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, out = trainable.write(tmp_path, "rows"), tmp_path / "out"
    stopped(target, out, monkeypatch, 12, {"epochs": 2})
    before = all_of(out)
    with pytest.raises((InputError, OutputError)):
        hotlap.train(target, out=out, settings=settings, resume=True, **GIVEN)
    assert all_of(out) == before
    hotlap.train(target, out=out, resume=True, **GIVEN)
    hotlap.train(target, out=tmp_path / "whole", settings={"epochs": 2}, **GIVEN)
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


def all_of(folder: Path) -> dict[str, bytes]:
    """Every file's content by its name, but for the charts'."""
    files = [one for one in folder.rglob("*") if one.is_file() and not {"tensorboard", "mlflow"} & set(one.parts)]
    return {str(one.relative_to(folder)): one.read_bytes() for one in files}


@pytest.mark.parametrize("settings", REFUSED[1:], ids=str)
def test_a_refused_run_leaves_a_folder_that_was_empty_empty(settings: dict[str, Any], tmp_path: Path) -> None:
    target, out = trainable.write(tmp_path, "rows"), tmp_path / "out"
    out.mkdir()
    with pytest.raises(InputError):
        hotlap.train(target, out=out, settings=settings, **GIVEN)
    assert list(out.iterdir()) == []
    hotlap.train(target, out=out, settings={"epochs": 1}, **GIVEN)


def test_a_run_that_had_no_room_before_its_first_step_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, out = trainable.write(tmp_path, "rows"), tmp_path / "out"

    def full(*given: object, **named: object) -> None:
        raise OutputError("no room; make room and go on with --resume")

    with monkeypatch.context() as patch:
        patch.setattr(run, "Records", full)
        with pytest.raises(OutputError, match="go on with --resume"):
            hotlap.train(target, out=out, settings={"epochs": 1}, **GIVEN)
    hotlap.train(target, out=out, resume=True, **GIVEN)


def test_a_finished_result_outlives_a_refused_resume(tmp_path: Path) -> None:
    target, out = trainable.write(tmp_path, "rows", add=GROWS), tmp_path / "out"
    hotlap.train(target, out=out, settings={"epochs": 1}, **GIVEN)
    kept = {name: (out / name).read_bytes() for name in ("result.json", "settings.json", "model.safetensors")}
    Path(f"{target}.grown").touch()
    with pytest.raises(OutputError, match="trained on 150 examples"):
        hotlap.train(target, out=out, settings={"epochs": 3}, resume=True, **GIVEN)
    assert {name: (out / name).read_bytes() for name in kept} == kept


def test_a_run_that_was_refused_is_none(tmp_path: Path) -> None:
    target, out = trainable.write(tmp_path, "rows"), tmp_path / "out"
    with pytest.raises(InputError, match="no weight has 4 axes"):
        hotlap.train(target, out=out, settings={"layout": "channels_last"}, **GIVEN)
    assert not out.exists()
    hotlap.train(target, out=out, settings={"epochs": 1}, **GIVEN)


DIVERGES = """
import dataclasses
def plain():
    torch.manual_seed(0)
    return nn.Linear(6, 3)
workload = dataclasses.replace(
    workload, model=plain, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=RATE),
    loss=lambda outputs, labels: functional.mse_loss(outputs, functional.one_hot(labels, 3).float()),
)
"""


RISES = """
import dataclasses
def curved():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 32), nn.GELU(), nn.Linear(32, 3))
workload = dataclasses.replace(
    workload, model=curved, epochs=6, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=4 / 30),
    loss=lambda outputs, labels: 30 * functional.mse_loss(outputs, functional.one_hot(labels, 3).float()),
)
"""
"""It learns while the rate is small, and diverges within ten steps once the rise has made it too high."""


def test_a_change_that_the_sentence_names_saves_a_run_that_diverged(tmp_path: Path) -> None:
    target, out = trainable.write(tmp_path, "rows", add=RISES), tmp_path / "out"
    words = (
        r"(?:loss is|gradients are) \S+ in step (\d+) .*; look at that batch; --resume with a change such as --set "
        r"clip=1 goes back to step (\d+); where that is too late, start over with --force$"
    )
    with pytest.raises(TrainingStopped) as caught:
        hotlap.train(target, out=out, settings={"checkpoint_seconds": 0, "warmup": 40}, **GIVEN)
    found = re.search(words, str(caught.value))
    assert found is not None, str(caught.value)
    failed, before = int(found[1]), int(found[2])
    losses = losses_of(out)
    assert losses[before - 1] <= losses[0] < min(losses[before:])
    with pytest.raises(TrainingStopped) as again:
        hotlap.train(target, out=out, resume=True, **GIVEN)
    assert str(again.value) == str(caught.value)
    result = hotlap.train(target, out=out, settings={"clip": 1.0}, resume=True, **GIVEN)
    assert result["training"]["resumed_from_step"] == before
    told = f"the numbers were not finite after step {failed - 1}: this run goes on from step {before}"
    assert told in result["warnings"]
    losses = losses_of(out)
    assert len(losses) == 60
    assert max(losses[-10:]) < losses[0] / 2


COUNTS = """
class Counting:
    def __init__(self):
        self.calls = 0
    def __call__(self, outputs, labels):
        self.calls += 1
        return 30 * functional.mse_loss(outputs, functional.one_hot(labels, 3).float())
workload = dataclasses.replace(workload, loss=Counting())
"""


def test_a_change_saves_a_run_whose_state_before_the_failure_was_not_kept(tmp_path: Path) -> None:
    target, out = trainable.write(tmp_path, "rows", add=RISES + COUNTS), tmp_path / "out"
    with pytest.raises(TrainingStopped, match="the last checkpoint before it is kept") as caught:
        hotlap.train(target, out=out, settings={"checkpoint_seconds": 0, "warmup": 40}, **GIVEN)
    before = int(re.findall(r"clip=1 goes back to step (\d+)", str(caught.value))[0])
    newest, _ = checkpoint.newest(out / "checkpoints")
    assert newest is not None
    assert before < newest.step
    result = hotlap.train(target, out=out, settings={"clip": 1.0}, resume=True, **GIVEN)
    assert result["training"]["resumed_from_step"] == before
    assert len(losses_of(out)) == 60
    assert "failure" not in (out / "metrics.jsonl").read_text()


def losses_of(out: Path) -> list[float]:
    """The loss of each step."""
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def test_a_full_disk_leaves_the_sentence_about_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object, **named: object) -> None:
        raise OutputError("no room")

    monkeypatch.setattr(checkpoint, "save", full)
    target = trainable.write(tmp_path, "rows", add=DIVERGES.replace("RATE", "300.0"))
    sentence = r"^the loss is infinite in step 10 .*; the state before it was not kept: no room; look at that batch"
    with pytest.raises(TrainingStopped, match=sentence):
        hotlap.train(target, out=tmp_path / "out", **GIVEN)


def test_a_sound_checkpoint_stays_until_there_is_a_newer_one(tmp_path: Path) -> None:
    for step, sound in enumerate([True, True, False, False, False, True, False]):
        checkpoint.save(tmp_path, checkpoint.Checkpoint(step=step, tensors={}, state={"sound": sound}))
        kept = [int(path.stem[-8:]) for path in sorted(tmp_path.glob("step-*.json"))]
        assert kept == [[0], [0, 1], [1, 2], [1, 2, 3], [1, 3, 4], [4, 5], [5, 6]][step]
    found = checkpoint.before_failure(tmp_path, 7)
    assert found is not None
    assert found.step == 5


def test_a_first_step_that_is_not_finite_says_to_start_over(tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows", add=DIVERGES.replace("RATE", "1e30"))
    with pytest.raises(TrainingStopped, match=r"look at that batch, or start over with --force and a change such as"):
        hotlap.train(target, out=tmp_path / "out", **GIVEN)


def test_a_change_after_a_killed_step_back_stays_on_its_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, out = trainable.write(tmp_path, "rows", add=DIVERGES.replace("RATE", "30.0")), tmp_path / "out"
    with pytest.raises(TrainingStopped):
        hotlap.train(target, out=out, settings={"checkpoint_seconds": 0}, **GIVEN)

    def killed(*given: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_window", killed)
        with pytest.raises(Killed):
            hotlap.train(target, out=out, settings={"clip": 1.0}, resume=True, **GIVEN)
    result = hotlap.train(target, out=out, resume=True, **GIVEN)
    assert result["settings"]["clip"] == 1.0
    assert result["training"]["steps"] == 30


def test_weights_of_a_type_that_no_file_holds_are_told_before_the_first_step(tmp_path: Path) -> None:
    add = """
import dataclasses
class Turned(Net):
    def __init__(self):
        super().__init__()
        self.turn = nn.Parameter(torch.ones(1, dtype=torch.complex128))
workload = dataclasses.replace(workload, model=Turned)
"""
    target = trainable.write(tmp_path, "rows", add=add)
    with pytest.raises(WorkloadError, match="has 'turn' in complex128, which a safetensors file can't hold"):
        hotlap.train(target, out=tmp_path / "out", **GIVEN)


FULL = """
import dataclasses
class Full(nn.Linear):
    def forward(self, rows):
        if self.training:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().forward(rows)
workload = dataclasses.replace(workload, model=lambda: Full(6, 3))
"""


def test_a_pass_that_does_not_fit_says_what_helps(tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows", add=FULL)
    words = r"`model` raised OutOfMemoryError: CUDA out of memory.*; a pass of 16 examples does not fit: give a smaller"
    with pytest.raises(WorkloadError, match=words):
        hotlap.train(target, out=tmp_path / "out", **GIVEN)


OF_THE_FILE = """
import dataclasses
torch.manual_seed(0)
BACK = nn.Linear(6, 8)
BACK.bias.requires_grad_(False)
FIRST = BACK.weight.clone()
def headed():
    torch.manual_seed(1)
    return nn.Sequential(BACK, nn.GELU(), nn.Linear(8, 3))
workload = dataclasses.replace(workload, model=headed)
"""
ANEW = OF_THE_FILE.replace("def headed():", "def headed():\n    BACK = nn.Linear(6, 8)").replace(
    "torch.manual_seed(1)", "BACK.load_state_dict(KEPT)\n    BACK.bias.requires_grad_(False)\n    torch.manual_seed(1)"
)


@pytest.mark.parametrize("settings", [{}, {"workers": 1}], ids=str)
def test_a_module_that_the_file_made_once_is_trained_as_one_that_is_built_anew(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    shared = trainable.write(tmp_path, "rows", add=OF_THE_FILE)
    other = tmp_path / "other"
    other.mkdir()
    kept = "import copy\nKEPT = copy.deepcopy(BACK.state_dict())\n"
    anew = trainable.write(other, "rows", add=ANEW.replace("FIRST =", f"{kept}FIRST ="))
    for target, out in ((shared, tmp_path / "shared"), (anew, tmp_path / "anew")):
        hotlap.train(target, out=out, settings={"epochs": 1, **settings}, **GIVEN)
    found, wanted = (load_file(tmp_path / name / "model.safetensors") for name in ("shared", "anew"))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    torch.manual_seed(0)
    first = torch.nn.Linear(6, 8)
    assert not torch.equal(found["0.weight"], first.weight)
    assert torch.equal(found["0.bias"], first.bias)


REMEMBERS = """
import dataclasses
class Warming:
    def __call__(self, outputs, labels):
        self.calls = getattr(self, "calls", 0) + 1
        return functional.cross_entropy(outputs, labels) * min(1.0, self.calls / 10)
class Batches:
    epoch = 0
    def __init__(self):
        self.epoch = 0
    def __len__(self):
        return 4
    def __iter__(self):
        self.epoch += 1
        for start in range(4):
            rows = drawn(start + 10 * self.epoch, 16, 6)
            yield rows, rows[:, :3].argmax(1)
batches = Batches()
workload = dataclasses.replace(workload, loss=Warming(), training=lambda: batches)
"""


def test_timing_the_own_set_up_first_changes_nothing_that_is_learnt(tmp_path: Path) -> None:
    for name, settings in (("alone", {}), ("timed", {"keep_memory": True})):
        folder = tmp_path / name
        folder.mkdir()
        target = trainable.write(folder, "rows", add=REMEMBERS)
        result = hotlap.train(target, out=folder / "out", settings={"epochs": 2, **settings}, **GIVEN)
        assert result["training"]["steps"] == 8
    alone, timed = ((tmp_path / name / "out" / "model.safetensors").read_bytes() for name in ("alone", "timed"))
    assert alone == timed


SMALL_ONLY = """
import dataclasses
class Small(nn.Linear):
    def forward(self, rows):
        if self.training and WHERE:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(rows)
workload = dataclasses.replace(workload, model=lambda: Small(6, 3))
"""


def test_what_is_timed_first_needs_no_more_memory_than_the_run(tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows", add=SMALL_ONLY.replace("WHERE", "len(rows) > 4"))
    settings = {"epochs": 1, "micro_batch": 4, "fused": True}
    result = hotlap.train(target, out=tmp_path / "out", settings=settings, **GIVEN)
    assert result["baseline"]["name"] == "fp32, micro-batches of 4"
    assert result["warnings"] == []


def test_a_set_up_that_does_not_fit_is_not_timed(tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows", add=SMALL_ONLY.replace("WHERE", "not torch.is_autocast_enabled('cpu')"))
    result = hotlap.train(target, out=tmp_path / "out", settings={"epochs": 1, "precision": "bf16"}, **GIVEN)
    assert "the workload's own set-up was not timed: it does not fit the memory" in result["warnings"]


def test_slow_steps_of_the_own_set_up_are_timed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_target(trainable.write(tmp_path, "rows"))
    steps: list[int] = []
    stepped = Stepper.step

    def counted(self: Stepper, window: Any, total: float) -> Any:
        steps.append(window.number)
        return stepped(self, window, total)

    monkeypatch.setattr(Stepper, "step", counted)
    for seconds, count in ((20.0, 8), (0.0, 1)):
        monkeypatch.setattr(run, "_TIMED_SECONDS", seconds)
        steps.clear()
        assert isinstance(run.median_step_ms(loaded, Settings(batch_size=16), Processes("cpu")), float)
        assert len(steps) == count


GROUPS = """
import dataclasses
import numpy as np
def optimizer(parameters):
    found = torch.optim.SGD(parameters, lr=0.1)
    found.param_groups[0].update(CHANGES)
    return found
workload = dataclasses.replace(workload, optimizer=optimizer)
"""


def test_what_a_group_holds_is_kept_or_refused_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"lr": "np.float32(0.1)", "noise": "np.int64(3)"}
    changes = "{" + ", ".join(f"'{name}': {value}" for name, value in given.items()) + "}"
    target = trainable.write(tmp_path, "rows", add=GROUPS.replace("CHANGES", changes))
    stopped(target, tmp_path / "out", monkeypatch, 12, {"epochs": 2})
    hotlap.train(target, out=tmp_path / "out", resume=True, **GIVEN)
    hotlap.train(target, out=tmp_path / "whole", settings={"epochs": 2}, **GIVEN)
    found, whole = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "whole"))
    assert found == whole
    other = trainable.write(tmp_path, "rows", add=GROUPS.replace("CHANGES", "{'rule': lambda step: 1}"))
    with pytest.raises(WorkloadError, match="`optimizer` keeps 'rule', which no checkpoint can hold: a function"):
        hotlap.train(other, out=tmp_path / "other", **GIVEN)
    assert not (tmp_path / "other").exists()


BUFFERS = """
import dataclasses
class Cached(nn.Linear):
    def __init__(self):
        super().__init__(6, 3)
        self.register_buffer("cache", None)
        self.register_buffer("scale", torch.ones(1, 3).expand(2, 3))
    def forward(self, rows):
        if self.cache is None:
            self.cache = torch.full((3,), 0.5)
        return super().forward(rows) * self.cache * self.scale[0]
workload = dataclasses.replace(workload, model=Cached)
"""


def test_buffers_that_come_late_or_share_memory_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = trainable.write(tmp_path, "rows", add=BUFFERS)
    stopped(target, tmp_path / "out", monkeypatch, 12, {"epochs": 2})
    hotlap.train(target, out=tmp_path / "out", resume=True, **GIVEN)
    hotlap.train(target, out=tmp_path / "whole", settings={"epochs": 2}, **GIVEN)
    found, whole = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "whole"))
    assert found == whole
    hotlap.train(f"{target}@{tmp_path / 'out'}", out=tmp_path / "further", settings={"epochs": 1}, **GIVEN)


SPARSE = """
import dataclasses
class Looked(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(4, 6, sparse=True), nn.Linear(6, 3)
    def forward(self, rows):
        return self.head(self.table((rows[:, 0] > 0).long()))
class Root(torch.autograd.Function):
    @staticmethod
    def forward(context, value):
        return value
    @staticmethod
    def backward(context, gradient):
        return gradient * float("nan")
workload = dataclasses.replace(
    workload, model=Looked, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    loss=lambda outputs, labels: functional.cross_entropy(Root.apply(outputs), labels),
)
"""


def test_nan_gradients_of_a_sparse_embedding_are_told(tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows", add=SPARSE)
    with pytest.raises(TrainingStopped, match=r"the gradients are NaN in step 1 .*, first in layer 'head'"):
        hotlap.train(target, out=tmp_path / "out", **GIVEN)


LAST_IS_NAN = """
import dataclasses
class Spoils(torch.optim.SGD):
    def step(self, closure=None):
        super().step()
        self.taken = getattr(self, "taken", 0) + 1
        if self.taken == LAST:
            with torch.no_grad():
                self.param_groups[0]["params"][0].fill_(float("nan"))
workload = dataclasses.replace(workload, optimizer=lambda parameters: Spoils(parameters, lr=0.1))
"""


def test_weights_that_the_last_step_spoils_are_no_result(tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows", add=LAST_IS_NAN.replace("LAST", "20"))
    out = tmp_path / "out"
    words = r"^the last step \(step 20\) left the weight 'layers\.\S+' NaN or infinite; .* goes back to step 10"
    with pytest.raises(TrainingStopped, match=words):
        hotlap.train(target, out=out, settings={"epochs": 2, "checkpoint_seconds": 1000}, **GIVEN)
    assert not (out / "model.safetensors").exists()
    with pytest.raises(TrainingStopped, match="step 20"):
        hotlap.train(target, out=out, resume=True, **GIVEN)


def test_best_weights_that_are_damaged_are_told_and_looked_for_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, out = trainable.write(tmp_path, "rows"), tmp_path / "out"
    stopped(target, out, monkeypatch, 15, {"epochs": 3, "early_stop": 3})
    best = next((out / "checkpoints").glob("best-*.safetensors"))
    best.write_bytes(best.read_bytes()[:-1] + b"!")
    result = hotlap.train(target, out=out, resume=True, **GIVEN)
    told = "the best weights so far, of step 10, are lost (its digest is another than when it was written)"
    assert any(warning.startswith(told) for warning in result["warnings"])
    assert (out / "model.safetensors").exists()


SWITCHING = """
import dataclasses
class Switching(torch.optim.Optimizer):
    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.1, "training": False})
    def train(self):
        self._switch(True)
    def eval(self):
        self._switch(False)
    @torch.no_grad()
    def _switch(self, training):
        for group in self.param_groups:
            if group["training"] != training:
                for one in group["params"]:
                    if one in self.state:
                        one.lerp_(self.state[one]["mean"], 1 - 1 / 0.7 if training else 0.3)
            group["training"] = training
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            assert group["training"], "call optimizer.train() first"
            for one in group["params"]:
                mean = self.state[one].setdefault("mean", one.clone())
                one.sub_(group["lr"] * one.grad)
                mean.lerp_(one, 0.1)
workload = dataclasses.replace(workload, optimizer=Switching)
"""
"""As an optimizer without a schedule: it is asked for the weights that count."""


def test_an_optimizer_with_weights_to_train_and_others_to_keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = trainable.write(tmp_path, "rows", add=SWITCHING)
    stopped(target, tmp_path / "out", monkeypatch, 15, {"epochs": 3})
    hotlap.train(target, out=tmp_path / "out", resume=True, **GIVEN)
    result = hotlap.train(target, out=tmp_path / "whole", settings={"epochs": 3}, **GIVEN)
    found, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "whole"))
    assert all(torch.equal(found[name], whole[name]) for name in whole)
    newest, _ = checkpoint.newest(tmp_path / "whole" / "checkpoints")
    assert newest is not None
    for name in [name for name in whole if f"optimizer.{name}:mean" in newest.tensors]:
        value, trained, mean = whole[name], newest.tensors[f"model.{name}"], newest.tensors[f"optimizer.{name}:mean"]
        assert torch.equal(value, trained.lerp(mean, 0.3))
        assert not torch.equal(value, trained)
    assert result["best"]["score"] is not None


CENTRES = """
import dataclasses
class Centres(nn.Module):
    def __init__(self):
        super().__init__()
        self.centres = nn.Parameter(torch.zeros(3, 3))
        self.teacher = nn.Linear(3, 3)
    def forward(self, outputs, labels):
        with torch.no_grad():
            self.teacher(outputs)
        return functional.cross_entropy(outputs, labels) + (outputs - self.centres[labels]).square().mean()
workload = dataclasses.replace(workload, loss=Centres())
"""


def test_parameters_of_the_loss_are_named(tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows", add=CENTRES)
    result = hotlap.train(target, out=tmp_path / "out", settings={"epochs": 1}, **GIVEN)
    (warning,) = [one for one in result["warnings"] if "got a gradient" in one]
    assert "(loss.centres): they are not trained" in warning


DRAWING = """
import dataclasses
class Drawing(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.generator = nn.Linear(6, 3), None
    def forward(self, rows):
        return self.layer(changed(self, rows))
def dropped(model, rows):
    return functional.dropout(rows, 0.1, model.training)
def late(model, rows):
    if not model.training:
        return rows
    model.generator = model.generator or np.random.default_rng()
    return rows * model.generator.uniform(0.9, 1.1)
workload = dataclasses.replace(workload, model=Drawing)
"""


def test_a_model_that_draws_in_a_function_is_named_where_a_step_is_cut(tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows", add=f"{DRAWING}changed = dropped")
    for name, changes, named in (("whole", {}, 0), ("cut", {"micro_batch": 4}, 1)):
        result = hotlap.train(target, out=tmp_path / name, settings={"epochs": 1, **changes}, **GIVEN)
        assert len([one for one in result["warnings"] if "the model draws random numbers" in one]) == named


SHAKING = f"""{DRAWING}
class Shaking(torch.optim.SGD):
    def zero_grad(self):
        super().zero_grad()
def shaking(parameters):
    optimizer = Shaking(parameters, lr=0.1)
    def shake(*_):
        for one in optimizer.param_groups[0]["params"]:
            one.grad += torch.randn_like(one)
    optimizer.register_step_pre_hook(shake)
    return optimizer
class Still(Drawing):
    def forward(self, rows):
        return self.layer(rows)
workload = dataclasses.replace(workload, model=Still, optimizer=shaking)
"""


def test_what_a_step_draws_does_not_hang_on_how_it_was_cut(tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows", add=SHAKING)
    for name, changes in (("whole", {}), ("cut", {"micro_batch": 4})):
        hotlap.train(target, out=tmp_path / name, settings={"epochs": 1, **changes}, **GIVEN)
    whole, cut = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.allclose(whole[name], cut[name], atol=1e-5) for name in whole)


def test_a_generator_that_forward_makes_is_named(tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows", add=f"{DRAWING}changed = late")
    result = hotlap.train(target, out=tmp_path / "out", settings={"epochs": 1}, **GIVEN)
    assert [one for one in result["warnings"] if "the first step made random generators" in one]


def test_what_tune_found_is_no_training_to_go_on_with(tmp_path: Path) -> None:
    target, out = trainable.write(tmp_path, "rows"), tmp_path / "out"
    out.mkdir()
    (out / "settings.json").write_text('{"settings": {}, "snippets": {}}')
    with pytest.raises(OutputError, match="holds what hotlap tune found, not a training; train with it: --settings"):
        hotlap.train(target, out=out, resume=True, **GIVEN)


STREAM = """
import dataclasses
from torch.utils.data import DataLoader, IterableDataset
class Endless(IterableDataset):
    def __init__(self):
        self.epoch = 0
    def __iter__(self):
        self.epoch += 1
        rows = drawn(self.epoch, 64, 6)
        yield from zip(rows, rows[:, :3].argmax(1))
loader = DataLoader(Endless(), batch_size=16)
workload = dataclasses.replace(workload, training=lambda: loader)
"""


def test_a_loader_over_a_stream_is_put_back_after_it_was_timed(tmp_path: Path) -> None:
    for name, settings in (("alone", {}), ("timed", {"keep_memory": True})):
        folder = tmp_path / name
        folder.mkdir()
        target = trainable.write(folder, "rows", add=STREAM)
        hotlap.train(target, out=folder / "out", settings={"epochs": 2, **settings}, **GIVEN)
    alone, timed = ((tmp_path / name / "out" / "model.safetensors").read_bytes() for name in ("alone", "timed"))
    assert alone == timed


MASKED = """
import dataclasses
class Masked(nn.Linear):
    def __init__(self):
        super().__init__(6, 3)
        self.mask = nn.Parameter(torch.full((3, 3), float("-inf")).triu(1), requires_grad=False)
        self.late = nn.Linear(2, 2)
        self.late.requires_grad_(False)
    def state_dict(self, *args, **kwargs):
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if "late" not in name}
workload = dataclasses.replace(workload, model=Masked)
"""


def test_what_is_frozen_may_be_infinite_or_left_out(tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows", add=MASKED)
    hotlap.train(target, out=tmp_path / "out", settings={"epochs": 1, "checkpoint_seconds": 0}, **GIVEN)
    newest, _ = checkpoint.newest(tmp_path / "out" / "checkpoints")
    assert newest is not None
    assert newest.state["sound"]


def test_weights_spoiled_by_the_only_steps_there_are_begin_anew(tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows", add=LAST_IS_NAN.replace("LAST", "10"))
    with pytest.raises(TrainingStopped, match=r"^the last step \(step 10\) .*; look at that batch, or start over with"):
        hotlap.train(target, out=tmp_path / "out", settings={"epochs": 1}, **GIVEN)
