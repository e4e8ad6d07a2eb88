"""`hotlap init` writes a workload that runs as it is, or says what is missing."""

from __future__ import annotations

import re
import sys

import pytest
import torch

from hotlap.actions.init import init
from hotlap.errors import InputError, OutputError, TargetError
from hotlap.workload.opened import open_workload
from hotlap.workload.roles import calibration_arrays, check_evaluation, evaluation_rows
from hotlap.workload.scoring import score_batch
from hotlap.workload.target import load_target

NETS = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, classes=5):
        super().__init__()
        self.layer = nn.Linear(8, classes)
    def forward(self, image):
        return self.layer(image)
class Sized(Net):
    def __init__(self, classes):
        super().__init__(classes)
class Pair(nn.Module):
    def forward(self, ids, mask):
        return ids * mask[:, 0, None]
def model():
    return Net()
net = Net(2)
number = 3
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with the user's networks in nets.py."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "nets.py").write_text(NETS)
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def test_what_is_given_runs_at_once(here):
    result = init("mine.py", model="nets:Net", inputs=["8"])
    assert result.missing is None
    assert result.signature == "image float32 [batch, 8] -> output_0 float32 [batch, 5]"
    assert result.next_steps[0] == "hotlap profile mine.py"
    assert result.next_steps[-1] == "hotlap optimize mine.py --out runs/mine"
    assert load_target("mine.py").name == "mine"


@pytest.mark.parametrize("model", ["nets:Net", "nets.py:Net", "nets:model", "nets:net", "nets.py:model"])
def test_every_form_of_model(here, model):
    assert init("mine.py", model=model, inputs=["8"]).missing is None


@pytest.mark.parametrize("model", ["nets:Net", "nets.py:Net"])
def test_the_file_finds_the_model_from_another_folder(here, monkeypatch, model):
    (here / "workloads").mkdir()
    (here / "elsewhere").mkdir()
    assert init("workloads/mine.py", model=model, inputs=["8"]).missing is None
    monkeypatch.chdir(here / "elsewhere")
    del sys.modules["nets"]
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(here))])
    assert open_workload(load_target("../workloads/mine.py")).signature.outputs[0].shape == ("batch", 5)


@pytest.mark.parametrize(
    ("inputs", "kinds"),
    [
        (["4", "int64:6"], [("float32", (2, 4)), ("int64", (2, 6))]),
        (["ids:int64:4", "mask:bool:6"], [("int64", (2, 4)), ("bool", (2, 6))]),
        (["ids:3x4", "mask:float16:4,4"], [("float32", (2, 3, 4)), ("float16", (2, 4, 4))]),
        (["uint8:4", "int32:2"], [("uint8", (2, 4)), ("int32", (2, 2))]),
    ],
)
def test_inputs(here, inputs, kinds):
    result = init("mine.py", model="nets:Pair", inputs=inputs)
    assert result.missing is None
    arrays = open_workload(load_target("mine.py")).example_arrays(2)
    assert [(array.dtype.name, array.shape) for array in arrays] == kinds


def test_an_input_of_one_number_an_example(here):
    (here / "nets.py").write_text("from torch import nn\nNet = nn.ReLU\n")
    result = init("mine.py", model="nets:Net", inputs=["int64:"])
    assert result.signature == "input int64 [batch] -> output_0 int64 [batch]"


@pytest.mark.parametrize("name", ['it is "mine".safetensors', "mine.pt"])
def test_weights(here, name):
    from safetensors.torch import save_file

    weights = {"layer.weight": torch.full((5, 8), 0.5), "layer.bias": torch.zeros(5)}
    (here / "saved").mkdir()
    (save_file if name.endswith(".safetensors") else torch.save)(weights, here / "saved" / name)
    assert init("mine.py", model="nets:Net", inputs=["8"], weights=f"saved/{name}").missing is None
    assert torch.equal(open_workload(load_target("mine.py")).model.layer.weight, weights["layer.weight"])


def test_nothing_given_says_what_is_missing_and_where(here):
    result = init("mine.py")
    assert result.signature is None
    assert re.fullmatch(
        r"the workload's `model` raised NotImplementedError: build the model here \(mine\.py:\d+: raise .*\)",
        result.missing,
    )
    assert result.next_steps[0] == "fill in `model` and `example` in mine.py"


def test_a_missing_example_is_said(here):
    result = init("mine.py", model="nets:Net")
    assert "`example` raised NotImplementedError: give example inputs with `batch` rows" in result.missing
    assert result.next_steps[0] == "fill in `example` in mine.py"


def test_weights_without_a_model(here):
    torch.save({}, here / "mine.pt")
    init("mine.py", weights="mine.pt", inputs=["8"])
    text = (here / "mine.py").read_text()
    assert 'torch.load(Path(__file__).resolve().parent / "mine.pt"' in text
    assert "from pathlib import Path\n" in text


def test_arguments_that_the_model_still_needs_are_named(here):
    result = init("mine.py", model="nets:Sized", inputs=["8"])
    assert "net = Sized()  # fill in: classes" in (here / "mine.py").read_text()
    assert "missing 1 required positional argument: 'classes'" in result.missing
    assert result.next_steps[0] == "mend that in mine.py"


def test_every_commented_line_works_once_filled_in(here):
    init("mine.py", model="nets:Net", inputs=["8"])
    text = (here / "mine.py").read_text()
    data = "[(torch.randn(10, 8, generator=torch.Generator().manual_seed({})), torch.arange(10) % 5)]"
    text = text.replace('raise NotImplementedError("give the held-out data")', f"return {data.format(0)}")
    text = text.replace('raise NotImplementedError("give the training data")', f"return {data.format(1)}")
    text, count = re.subn(r"^    # (\w+=.*,)$", r"    \1", text, flags=re.MULTILINE)
    assert count == 9
    text = text.replace('dynamic={"ids": {0: "batch", 1: ("length", 1, 512)}}', 'dynamic={"image": {0: "batch"}}')
    (here / "mine.py").write_text(text)
    opened = open_workload(load_target("mine.py"), needs=("evaluation", "score", "training", "loss"))
    assert check_evaluation(opened, seed=0).examples == 10
    assert calibration_arrays(opened, seed=0)[1] == 10
    (batch,) = evaluation_rows(opened, "all", seed=0)
    outputs = opened.model(batch.inputs)
    assert len(score_batch(opened, outputs, batch.targets)) == 10
    assert opened.workload.loss(outputs, batch.targets).ndim == 0
    assert opened.workload.optimizer(torch.nn.Linear(2, 2).parameters())
    assert opened.workload.slices(batch.inputs, batch.targets)[:2] == ["class 0", "class 1"]


def test_nothing_is_overwritten(here):
    (here / "mine.py").write_text("precious")
    with pytest.raises(OutputError, match=r"^mine\.py exists, and hotlap init overwrites nothing; give another path$"):
        init("mine.py")
    assert (here / "mine.py").read_text() == "precious"


def test_nothing_is_written_where_an_option_is_wrong(here):
    before = sorted(here.iterdir())
    for options in ({"model": "nets:Gone"}, {"inputs": ["?"]}, {"weights": "gone.pt"}):
        with pytest.raises(InputError):
            init("mine.py", **options)
    assert [entry for entry in sorted(here.iterdir()) if entry.name != "__pycache__"] == before


@pytest.mark.parametrize(
    ("path", "options", "error", "message"),
    [
        ("mine.txt", {}, InputError, r"mine\.txt is no Python file; give a path that ends in \.py"),
        ("my model.py", {}, InputError, r"give the file a name of letters, digits and '_'"),
        ("json.py", {}, InputError, r"json\.py would hide the module 'json' from the code beside it"),
        ("gone/mine.py", {}, OutputError, r"there is no folder gone; make it first"),
        ("mine.py", {"inputs": ["3x"]}, InputError, r"--input 3x: write it as \[NAME:\]\[DTYPE:\]SHAPE"),
        ("mine.py", {"inputs": ["a:b:3"]}, InputError, r"--input a:b:3: write it as"),
        ("mine.py", {"inputs": ["a:complex64:3"]}, InputError, r"types are float32, float16, int64"),
        ("mine.py", {"inputs": ["a:3", "4"]}, InputError, r"--input: name all inputs or none"),
        ("mine.py", {"weights": "gone.pt"}, InputError, r"--weights gone\.pt: no such file"),
        ("mine.py", {"weights": "nets.py"}, InputError, r"--weights nets\.py: give a \.safetensors, \.pt, \.pth"),
        (
            "mine.py",
            {"model": "nets"},
            InputError,
            r"--model nets: write it as package\.module:NAME or FILE\.py:NAME",
        ),
        ("mine.py", {"model": "nets:Gone"}, TargetError, r"--model nets:Gone: nets has nothing called 'Gone'"),
        ("mine.py", {"model": "nets:number"}, TargetError, r"--model nets:number is of type int; give a class"),
        ("mine.py", {"model": "gone:Net"}, TargetError, r"gone can't be imported: ModuleNotFoundError"),
        ("mine.py", {"model": "gone.py:Net"}, TargetError, r"--model gone\.py:Net: no such file: gone\.py"),
    ],
)
def test_what_can_not_be_used(here, path, options, error, message):
    with pytest.raises(error, match=message):
        init(path, **options)
    assert not (here / path).exists()
