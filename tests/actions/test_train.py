"""`train` as a person calls it: what it writes, what it refuses, and that `optimize` takes what it made."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trainable
from safetensors.numpy import load_file
from typer.testing import CliRunner

import hotlap
import hotlap.actions.train as training
from hotlap.cli.main import build_app, run
from hotlap.errors import InputError, OutputError, TrainingStopped, WorkloadError
from hotlap.report.schema import violations
from hotlap.training.loop import Loop
from hotlap.training.settings import read_settings
from hotlap.workload.opened import open_workload
from hotlap.workload.target import load_target

ROOT = Path(__file__).parents[2]
GIVEN: dict[str, Any] = {"threads": 1, "device": "cpu"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Any]:
    folder = tmp_path_factory.mktemp("trained")
    target = trainable.write(folder, "rows")
    return target, folder / "out", hotlap.train(target, out=folder / "out", settings={"epochs": 8}, **GIVEN)


def test_it_writes_all_that_is_promised(trained: tuple[str, Path, Any]) -> None:
    _, out, result = trained
    assert violations(result) == []
    assert json.loads((out / "result.json").read_text()) == result
    assert result["kind"] == "train"
    assert result["training"]["steps"] == 8 * 10
    settings = json.loads((out / "settings.json").read_text())["settings"]
    assert settings["epochs"] == 8
    assert settings["batch_size"] == 16
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 81))
    assert len([line for line in lines if "score" in line]) == 8
    assert sorted(path.name for path in (out / "checkpoints").iterdir())[-1] == "step-00000080.safetensors"
    assert not (out / "work").exists()


def test_it_learns(trained: tuple[str, Path, Any]) -> None:
    _, out, result = trained
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    assert result["best"]["score"] > result["training"]["score_before"] + 0.2


def test_the_score_is_that_of_the_weights_it_wrote(trained: tuple[str, Path, Any]) -> None:
    target, out, result = trained
    opened = open_workload(load_target(f"{target}@{out}"))
    scores = [opened.workload.score(opened.model(x), y).mean().item() for x, y in opened.workload.evaluation()]
    assert sum(scores) / len(scores) == pytest.approx(result["best"]["score"])


def test_it_goes_on_from_weights_of_another_run(trained: tuple[str, Path, Any], tmp_path: Path) -> None:
    target, out, result = trained
    again = hotlap.train(f"{target}@{out}", out=tmp_path / "more", settings={"epochs": 1}, **GIVEN)
    assert again["training"]["score_before"] == result["best"]["score"]


LOADER = """
import dataclasses
from torch.utils.data import DataLoader
workload = dataclasses.replace(workload, training=lambda: DataLoader(Rows(150, 3), batch_size=8, shuffle=True))
"""


@pytest.mark.parametrize(("accumulation", "rows"), [(1, 8), (2, 16)])
def test_the_batch_of_the_result_is_that_of_a_loader_of_the_users(accumulation: int, rows: int, tmp_path: Path) -> None:
    target, out = trainable.write(tmp_path, "rows", add=LOADER), tmp_path / "out"
    result = hotlap.train(target, out=out, settings={"epochs": 1, "accumulation": accumulation}, **GIVEN)
    assert (result["batch"], violations(result)) == (rows, [])
    # No step is left to compute, and what the first process wrote is told again.
    (out / "result.json").unlink()
    assert hotlap.train(target, out=out, resume=True, **GIVEN)["batch"] == rows
    # Not even that is there.
    for name in ("result.json", "metrics.jsonl"):
        (out / name).unlink()
    (out / "metrics.jsonl").touch()
    unknown = hotlap.train(target, out=out, resume=True, **GIVEN)
    assert "batch" not in unknown
    assert violations(unknown) == []


def test_the_batch_of_a_resumed_run_is_not_that_of_its_last_steps(tmp_path: Path) -> None:
    """An epoch has steps of 64, 64 and 22 examples, and the last alone is left to compute."""
    target = trainable.write(tmp_path, "rows", add=LOADER.replace("batch_size=8", "batch_size=64"))

    def interrupt(event: Any) -> None:
        if event["event"] == "step" and event["step"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        hotlap.train(target, out=tmp_path / "out", settings={"epochs": 1}, progress=interrupt, **GIVEN)
    result = hotlap.train(target, out=tmp_path / "out", resume=True, **GIVEN)
    assert (result["training"]["resumed_from_step"], result["batch"]) == (2, 64)


def test_a_folder_that_exists_is_refused(trained: tuple[str, Path, Any]) -> None:
    target, out, _ = trained
    with pytest.raises(OutputError, match="exists; go on with --resume, start over with --force"):
        hotlap.train(target, out=out, **GIVEN)


def test_what_a_place_in_the_data_depends_on_stays(trained: tuple[str, Path, Any]) -> None:
    target, out, _ = trained
    with pytest.raises(OutputError, match="--resume: that run had seed 0, this one 1, and its place in the data"):
        hotlap.train(target, out=out, resume=True, seed=1, **GIVEN)


@pytest.mark.parametrize(("chosen", "threads"), [(None, 1), (3, 3)], ids=["shared anew", "as chosen"])
def test_another_number_of_processes_shares_the_cores_anew(
    chosen: int | None, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, out = trainable.write(tmp_path, "rows"), tmp_path / "out"
    monkeypatch.setattr(training, "share_of", lambda cores: 2)
    hotlap.train(target, out=out, settings={"epochs": 1}, threads=chosen, device="cpu")
    kept = json.loads((out / "settings.json").read_text())
    assert (kept["settings"]["threads"], kept["threads_chosen"]) == (chosen or 2, chosen is not None)
    (out / "settings.json").write_text(json.dumps({**kept, "processes": 2}))
    monkeypatch.setattr(training, "share_of", lambda cores: 1)
    assert "threads" not in read_settings(out / "settings.json") or chosen
    more = hotlap.train(target, out=out, settings={"epochs": 2}, resume=True, device="cpu")
    assert more["settings"]["threads"] == threads
    assert json.loads((out / "settings.json").read_text())["processes"] == 1
    assert hotlap.train(target, out=out, resume=True, device="cpu")["settings"]["threads"] == threads


def test_a_workload_that_changed_is_refused(tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows")
    hotlap.train(target, out=tmp_path / "out", settings={"epochs": 1}, **GIVEN)
    trainable.write(tmp_path, "rows", add="\n# another\n")
    with pytest.raises(OutputError, match="--resume: the workload has changed since that run"):
        hotlap.train(target, out=tmp_path / "out", resume=True, **GIVEN)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"precison": "bf16"}, "settings: there is no 'precison'; there are batch_size, epochs"),
        ({"precision": "int8"}, "settings: precision is 'int8'; give one of fp32, bf16, fp16"),
        ({"batch_size": 2.5}, "settings: batch_size is 2.5; give a whole number"),
        ({"batch_size": True}, "settings: batch_size is True; give a whole number"),
        ({"micro_batch": 0}, "settings: micro_batch is 0; it must be from 1 on"),
        ({"ema": 1.0}, "settings: ema is 1.0; it must be from 0 up to but not 1"),
        ({"clip": 0}, "settings: clip is 0; give a norm above 0"),
        ({"clip": float("inf")}, "settings: clip is inf; give a norm above 0"),
        ({"workers": 1_000_000}, "settings: workers is 1000000; it must be from 0 to 1024"),
        ({"epochs": 10**400}, "settings: epochs is too large; it must be from 1 to 2147483647"),
        ({"seed": -(10**400)}, "settings: seed is below 0; it must be from 0 on"),
        ({"length_buckets": 17, "trim": True}, "settings: length_buckets is 17; it must be from 1 to 16"),
        ({"checkpoint_seconds": float("nan")}, "settings: checkpoint_seconds is nan; give seconds from 0 on"),
        ({"warmup": 31}, "settings: warmup is 31 steps, and the whole training has 30; give fewer"),
        ({"layout": "channels_last"}, "layout=channels_last does nothing here: no weight has 4 axes"),
        ({"checkpointing": True}, "settings: checkpointing=true needs layers that repeat"),
        ({"pin": True}, "settings: pin=true is for copies to a CUDA device"),
        (
            {"accumulation": 3},
            "settings: accumulation=3: `training` is a Dataset, whose steps have batch_size examples",
        ),
    ],
)
def test_settings_that_can_not_be(settings: Any, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        hotlap.train(trainable.write(tmp_path, "rows"), out=tmp_path / "out", settings=settings, **GIVEN)
    assert sentence in str(caught.value)
    assert not (tmp_path / "out" / "result.json").exists()


def test_more_threads_than_any_machine_has_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="settings: threads is 100000; it must be from 1 to 1024"):
        hotlap.train(trainable.write(tmp_path, "rows"), out=tmp_path / "out", threads=100_000, device="cpu")


def test_complex_parameters_have_no_fused_form(tmp_path: Path) -> None:
    add = """
class Turned(Net):
    def __init__(self):
        super().__init__()
        self.turn = nn.Parameter(torch.ones(6, dtype=torch.complex64))

    def forward(self, rows):
        return self.layers((rows * self.turn).real)

import dataclasses
workload = dataclasses.replace(workload, model=Turned)
"""
    target = trainable.write(tmp_path, "rows", add=add)
    with pytest.raises(InputError, match="fused=true: AdamW has no fused form for complex parameters; leave it out"):
        hotlap.train(target, out=tmp_path / "out", settings={"fused": True}, **GIVEN)


def test_an_optimizer_without_a_fused_form(tmp_path: Path) -> None:
    add = "\nimport dataclasses\nworkload = dataclasses.replace(workload, optimizer=lambda p: torch.optim.NAdam(p))\n"
    with pytest.raises(InputError, match="fused=true: NAdam has no fused form"):
        hotlap.train(
            trainable.write(tmp_path, "rows", add=add), out=tmp_path / "out", settings={"fused": True}, **GIVEN
        )


def test_what_an_iterable_decides_by_itself(tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "tokens")
    with pytest.raises(InputError, match="settings: micro_batch, workers can't be set: `training` gives batches"):
        hotlap.train(target, out=tmp_path / "out", settings={"workers": 2, "micro_batch": 4}, **GIVEN)


def test_early_stop_needs_a_score(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="early_stop needs a score to stop by"):
        hotlap.train(trainable.write(tmp_path, "tokens"), out=tmp_path / "out", settings={"early_stop": 1}, **GIVEN)


@pytest.mark.parametrize("field", ["training", "loss"])
def test_fields_that_training_needs(field: str, tmp_path: Path) -> None:
    add = f"\nimport dataclasses\nworkload = dataclasses.replace(workload, {field}=None)\n"
    with pytest.raises(WorkloadError, match=f"hotlap train needs `{field}`"):
        hotlap.train(trainable.write(tmp_path, "rows", add=add), out=tmp_path / "out", **GIVEN)


def test_hooks_of_an_optimizer_stay_in_its_fused_form(tmp_path: Path) -> None:
    add = """
import dataclasses

def clamped(parameters):
    optimizer = torch.optim.SGD(parameters, lr=0.5)
    def clamp(optimizer, given, named):
        with torch.no_grad():
            for parameter in optimizer.param_groups[0]["params"]:
                parameter.clamp_(-0.01, 0.01)
    optimizer.register_step_post_hook(clamp)
    return optimizer

workload = dataclasses.replace(workload, optimizer=clamped, epochs=1)
"""
    target = trainable.write(tmp_path, "rows", add=add)
    for form in ("fused", "foreach"):
        hotlap.train(target, out=tmp_path / form, settings={form: True}, **GIVEN)
        found = load_file(tmp_path / form / "model.safetensors")
        assert max(abs(found[name]).max() for name in found if name.endswith("weight")) <= 0.0100001


CHANGED = {
    "rows of an iterable": ("training=lambda: list(Rows(20, 3))", "an iterable must give batches"),
    "no weight": ("loss_weight=lambda labels: 0", "`loss_weight` gave 0 for every batch"),
    "a loss cut off": ("loss=lambda o, y: functional.cross_entropy(o.detach(), y)", "`loss` does not depend on the"),
    "a loss of something else": (
        "loss=lambda o, y: torch.ones((), requires_grad=True) * 2", "gave no trained parameter a gradient"
    ),
    "a single number first": ("training=lambda: [((torch.tensor(1.0), drawn(1, 4, 6)), torch.zeros(4))]", "axis 0"),
    "LBFGS": ("optimizer=torch.optim.LBFGS", "is LBFGS, which computes the loss several times"),
    "all frozen": ("model=lambda: one.requires_grad_(False)", "leave those that are to be trained unfrozen"),
    "a row that raises": ("training=lambda: Bad(150, 3)", "raised ValueError: torn"),
    "its number": ("training=lambda: Bad(150, 3)", "at example 77"),
    "a last batch of one": ("training=lambda: Rows(33, 3), batch_size=32", "this pass has one example"),
    "what is kept from batch to batch": ("model=Carrying", "detach what the model keeps from one batch"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGED)
def test_what_is_wrong_is_said_in_one_sentence(name: str, tmp_path: Path) -> None:
    change, sentence = CHANGED[name]
    add = f"""
import dataclasses
one = model()

class Bad(Rows):
    def __getitem__(self, index):
        if index == 77:
            raise ValueError("torn")
        return super().__getitem__(index)

class Carrying(Net):
    kept = 0.0
    def forward(self, rows):
        outputs = self.layers(rows) + self.kept
        if self.training:
            self.kept = outputs.mean()
        return outputs

workload = dataclasses.replace(workload, {change})
"""
    with pytest.raises(WorkloadError) as caught:
        hotlap.train(trainable.write(tmp_path, "rows", add=add), out=tmp_path / "out", **GIVEN)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


POISON = """
class Poisoned(Rows):
    def __getitem__(self, index):
        row, label = super().__getitem__(index)
        return (row * float("inf") if index == 77 else row), label

import dataclasses
workload = dataclasses.replace(workload, training=lambda: Poisoned(150, 3))
"""
BROKEN = """
class Broken(Net):
    def __init__(self):
        super().__init__()
        self.count = 0

    def forward(self, rows):
        hidden = self.layers[:4](rows)
        self.count += self.training
        return self.layers[4](hidden / (0.0 if self.count >= 12 else 1.0))

import dataclasses
workload = dataclasses.replace(workload, model=Broken)
"""


def test_a_batch_that_is_not_finite_is_named_and_the_good_state_kept(tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows", add=POISON)
    with pytest.raises(TrainingStopped) as caught:
        hotlap.train(target, out=tmp_path / "out", **GIVEN)
    sentence = str(caught.value)
    assert "the loss is NaN in step" in sentence
    assert "77" in sentence
    assert "whose inputs are not finite" in sentence
    way_on = "; mend the data of that batch (not in FILE.py) and go on with --resume, or start over with --force"
    assert sentence.endswith(way_on)


def test_a_layer_that_gives_nan_is_named_and_the_state_before_it_kept(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    target = trainable.write(tmp_path, "rows", add=BROKEN)
    with pytest.raises(
        TrainingStopped, match=r"NaN in step 12 \(epoch 2, batch 2, examples .*first in layer 'layers.4'"
    ):
        hotlap.train(target, out=tmp_path / "out", settings={"checkpoint_seconds": 0}, **GIVEN)
    kept = load_file(tmp_path / "out" / "checkpoints" / "step-00000011.safetensors")
    assert all((value == value).all() for value in kept.values())
    assert not (tmp_path / "out" / "model.safetensors").exists()


COUNTED = """
class Counted(Net):
    calls = 0

    def forward(self, rows):
        self.calls += self.training
        return self.layers(rows) * (float("nan") if self.calls == 12 else 1.0)

import dataclasses
workload = dataclasses.replace(workload, model=Counted)
"""
WITH_GRADIENTS = """
class Learning(Net):
    def forward(self, rows):
        return self.layers(rows) * (float("nan") if torch.is_grad_enabled() else 1.0)

import dataclasses
workload = dataclasses.replace(workload, model=Learning)
"""
LOSS = """
import dataclasses
workload = dataclasses.replace(workload, loss=lambda outputs, labels: outputs.sum() / 0.0)
"""


@pytest.mark.parametrize(
    ("add", "told"),
    [
        (COUNTED, "the same pass once more was finite: perhaps something is kept from pass to pass"),
        (WITH_GRADIENTS, "first in layer 'Learning'"),
        (LOSS, "although the model's outputs are finite: in the workload's `loss`"),
    ],
)
def test_the_loss_is_blamed_only_where_it_is_at_fault(add: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingStopped, match=told):
        hotlap.train(trainable.write(tmp_path, "rows", add=add), out=tmp_path / "out", **GIVEN)


def test_numbers_that_are_not_finite_while_the_usual_set_up_is_timed(tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "rows", add=POISON)
    with pytest.raises(TrainingStopped, match="the loss is NaN in step"):
        hotlap.train(target, out=tmp_path / "out", settings={"fused": True, "micro_batch": 8}, **GIVEN)


@pytest.mark.slow
def test_memory_that_is_kept_changes_no_byte(tmp_path: Path) -> None:
    """In a process of its own, where it can't be undone."""
    target, out = trainable.write(tmp_path, "rows"), tmp_path / "out"
    train = [sys.executable, "-m", "hotlap", "train", target, "--out", str(out), "--device", "cpu", "--threads", "1"]
    subprocess.run([*train, "--quiet", "--set", "keep_memory=true"], check=True)
    hotlap.train(target, out=tmp_path / "plain", **GIVEN)
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "plain" / "model.safetensors").read_bytes()
    told = json.loads((out / "result.json").read_text())
    assert told["best"]["name"] == "fp32, kept memory"
    assert told["baseline"]["name"] == "fp32"


def test_a_full_disk_leaves_what_there_was_and_says_so(tmp_path: Path) -> None:
    target, out = trainable.write(tmp_path, "rows"), tmp_path / "out"
    train = shlex.join([sys.executable, "-m", "hotlap", "train", target, "--out", str(out), "--device", "cpu"])
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 4; exec {train} --quiet --threads 1 --set checkpoint_seconds=0"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert re.search(r"can't be written \(.*File too large.*make room and go on with --resume", done.stderr)
    assert not (out / "model.safetensors").exists()
    given: dict[str, Any] = {"settings": {"checkpoint_seconds": 0}, "threads": 1, "device": "cpu"}
    hotlap.train(target, out=out, resume=True, **given)
    hotlap.train(target, out=tmp_path / "whole", **given)
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


def test_a_folder_that_is_removed_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, waiting = tmp_path / "out", Loop._judge

    def removed(self: Loop, epoch: int) -> Any:
        shutil.rmtree(out)
        return waiting(self, epoch)

    monkeypatch.setattr(Loop, "_judge", removed)
    with pytest.raises(OutputError, match="has --out been removed meanwhile"):
        hotlap.train(trainable.write(tmp_path, "rows"), out=out, **GIVEN)


def test_training_without_evaluation_says_so(tmp_path: Path) -> None:
    target = trainable.write(tmp_path, "tokens")
    done = CliRunner().invoke(build_app(), ["train", target, "--out", str(tmp_path / "out"), "--threads", "1"])
    assert done.exit_code == 0, done.output
    assert "no score: the workload has no evaluation" in done.output
    assert json.loads((tmp_path / "out" / "result.json").read_text())["best"]["score"] is None


def test_the_command_line_names_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = trainable.write(tmp_path, "rows")
    (tmp_path / "mine.json").write_text('{"settings": {"precision": "bf16", "epochs": 5}}')
    words = ["train", target, "--out", str(tmp_path / "out"), "--settings", str(tmp_path / "mine.json")]
    assert run([*words, "--set", "epochs=1", "--set", "clip=1.5", "--threads", "1", "--json", "--device", "cpu"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {"precision": "bf16", "epochs": 1, "clip": 1.5}.items() <= result["settings"].items()
    assert result["baseline"]["name"] == "fp32"
    assert result["best"]["name"] == "bf16"


def test_a_setting_is_written_name_equals_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "x.py", "--out", str(tmp_path / "out"), "--set", "bf16"]) == 2
    assert "--set bf16: write it as name=value" in capsys.readouterr().err
