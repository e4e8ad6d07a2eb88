"""Opening a workload: every kind of input and output, and every way a model can be wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hotlap.errors import WorkloadError
from hotlap.workload.inputs import call
from hotlap.workload.opened import open_workload
from hotlap.workload.target import load_target


def shapes(specs):
    return [(spec.name, spec.dtype, spec.shape) for spec in specs]


def test_tensor_in_tensor_out(linear):
    it = linear("")
    assert shapes(it.signature.inputs) == [("input", "float32", ("batch", 4))]
    assert shapes(it.signature.outputs) == [("output_0", "float32", ("batch", 3))]
    assert (it.signature.input_kind, it.signature.output_tree) == ("tensor", 0)
    assert it.signature.ranges == {"batch": (1, None)}
    assert it.warnings == ()
    assert not any(parameter.requires_grad for parameter in it.model.parameters())


def test_examples_are_the_same_each_time_and_leave_the_users_randomness_alone(linear):
    it = linear("")
    torch.manual_seed(5)
    np.random.seed(5)
    first = it.example_arrays(3)
    drawn = torch.rand(1), np.random.rand()
    torch.manual_seed(5)
    np.random.seed(5)
    assert (torch.rand(1), np.random.rand()) == drawn
    assert np.array_equal(it.example_arrays(3)[0], first[0])
    assert first[0].shape == (3, 4)


def test_tuple_inputs_and_nested_outputs(opened):
    it = opened(
        "from dataclasses import dataclass\n"
        "@dataclass\nclass Out:\n    total: torch.Tensor\n    parts: tuple\n    loss: torch.Tensor | None = None\n"
        "class M(nn.Module):\n"
        "    def forward(self, a, b):\n        return {'out': Out(a + b, (a, b.long())), 'count': a.sum(1)}\n"
        "w = Workload(model=lambda: M().eval(), \n"
        "    example=lambda batch: (torch.ones(batch, 4), torch.ones(batch, 4)))\n"
    )
    assert [spec.name for spec in it.signature.inputs] == ["a", "b"]
    assert it.signature.input_kind == "tuple"
    tree = {"dict": {"out": {"dataclass": {"total": 0, "parts": {"tuple": [1, 2]}, "loss": None}}, "count": 3}}
    assert it.signature.output_tree == tree
    assert shapes(it.signature.outputs) == [
        ("output_0", "float32", ("batch", 4)),
        ("output_1", "float32", ("batch", 4)),
        ("output_2", "int64", ("batch", 4)),
        ("output_3", "float32", ("batch",)),
    ]


SEQUENCE = """
class M(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 8)
    def forward(self, ids, mask, scale=None):
        states = self.table(ids) * mask[..., None]
        return states, states.mean(1), states[:, ::2], ids.new_ones(3)
"""


def test_dict_inputs_with_a_second_axis_that_varies(opened):
    it = opened(
        SEQUENCE + "def example(batch, length=16):\n"
        "    return {'mask': torch.ones(batch, length), 'ids': torch.ones(batch, length, dtype=torch.long)}\n"
        "axes = {0: 'batch', 1: ('length', 1, 64)}\n"
        "w = Workload(model=lambda: M().eval(), example=example, dynamic={'ids': axes, 'mask': axes})\n"
    )
    assert shapes(it.signature.inputs) == [
        ("ids", "int64", ("batch", "length")),
        ("mask", "float32", ("batch", "length")),
    ]
    assert [spec.shape for spec in it.signature.outputs] == [
        ("batch", "length", 8),
        ("batch", 8),
        ("batch", "out2_dim1", 8),
        (3,),
    ]
    assert it.signature.ranges == {"batch": (1, None), "length": (1, 64)}
    assert it.example_arrays(3, length=5)[0].shape == (3, 5)


def test_an_axis_that_example_can_not_be_asked_for_is_cut(opened):
    it = opened(
        SEQUENCE + "def example(batch):\n"
        "    return torch.ones(batch, 16, dtype=torch.long), torch.ones(batch, 16)\n"
        "axes = {0: 'batch', 1: 'length'}\n"
        "w = Workload(model=lambda: M().eval(), example=example, dynamic={'ids': axes, 'mask': axes})\n"
    )
    assert it.signature.outputs[0].shape == ("batch", "length", 8)
    assert it.signature.ranges["length"] == (1, None)


def test_an_axis_without_a_default_gets_the_largest_size_of_its_range(opened):
    it = opened(
        SEQUENCE + "def example(batch, length):\n"
        "    return torch.ones(batch, length, dtype=torch.long), torch.ones(batch, length)\n"
        "axes = {0: 'batch', 1: ('length', 2, 24)}\n"
        "w = Workload(model=lambda: M().eval(), example=example, dynamic={'ids': axes, 'mask': axes})\n"
    )
    assert it.example_arrays(2)[0].shape == (2, 24)


def test_sizes_that_only_multiples_work_for_are_found(opened):
    it = opened(
        "class M(nn.Module):\n"
        "    def forward(self, x):\n        assert x.shape[2] % 8 == 0\n        return x.unfold(2, 8, 8).mean(3)\n"
        "w = Workload(model=lambda: M().eval(), example=lambda batch, side=16: torch.ones(batch, 1, side),\n"
        "    dynamic={'x': {0: 'batch', 2: ('side', 8, 64)}})\n"
    )
    assert it.signature.outputs[0].shape == ("batch", 1, "out0_dim2")


def test_batch_on_another_axis(opened):
    it = opened(
        "w = Workload(model=lambda: nn.LSTM(4, 5).eval(), example=lambda batch: torch.ones(7, batch, 4),\n"
        "    dynamic={'input': {1: 'batch'}})\n"
    )
    assert it.signature.inputs[0].shape == (7, "batch", 4)
    assert [spec.shape for spec in it.signature.outputs] == [(7, "batch", 5), (1, "batch", 5), (1, "batch", 5)]
    assert it.signature.output_tree == {"tuple": [0, {"tuple": [1, 2]}]}


def test_an_input_listed_without_axes_does_not_vary(opened):
    it = opened(
        "class M(nn.Module):\n    def forward(self, x, grid): return x + grid\n"
        "w = Workload(model=lambda: M().eval(), \n"
        "    example=lambda batch: (torch.ones(batch, 4), torch.ones(2, 4)[:1]),\n"
        "    dynamic={'grid': {}})\n"
    )
    assert [spec.shape for spec in it.signature.inputs] == [("batch", 4), (1, 4)]


def test_training_mode_is_left_and_said(opened):
    it = opened(
        "class M(nn.Sequential):\n    pass\n"
        "w = Workload(model=lambda: M(nn.Linear(4, 3), nn.Dropout(0.5)),\n"
        "    example=lambda batch: torch.ones(batch, 4))\n"
    )
    assert it.warnings == ("the model was left in training mode; hotlap put it into eval mode",)
    assert not it.model[1].training
    assert torch.equal(call(it.model, it.example(2)), call(it.model, it.example(2)))


def test_one_part_left_in_training_mode_is_said_too(opened):
    it = opened(
        "def build():\n    net = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)).eval()\n"
        "    net[1].train()\n    return net\n"
        "w = Workload(model=build, example=lambda batch: torch.ones(batch, 4))\n"
    )
    assert len(it.warnings) == 1


# Errors


def workload(model="nn.Linear(4, 3).eval()", example="torch.ones(batch, 4)", more="", before=""):
    return f"{before}\nw = Workload(model=lambda: {model}, example=lambda batch: {example}, {more})\n"


FORWARD = "class M(nn.Module):\n    def forward(self, x): return {}\n"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "w = Workload(model=nn.Linear(4, 3), example=lambda batch: 1)",
            r"`model` is a module; give a function that builds it: model=lambda: net",
        ),
        ("w = Workload(model=None, example=len)", r"`model` must be a function, not a NoneType"),
        ("w = Workload(model=nn.ReLU, example=torch.ones(2))", r"`example` must be a function, not a Tensor"),
        (workload(more="score=3"), r"`score` must be a function, not a int"),
        (workload(more="batch_size=0"), r"`batch_size` must be a whole number from 1 on, not 0"),
        (workload(more="epochs=1.5"), r"`epochs` must be a whole number from 1 on, not 1\.5"),
        (workload(more="evaluation=list"), r"has `evaluation` but no `score` \(outputs, targets\) to judge it by"),
        (workload(more="metric=max"), r"has `metric` but no `score`, which gives the rows it takes"),
        (workload("'weights.pt'"), r"`model` must give a torch\.nn\.Module; it gave a str"),
        (
            workload("nn.Sequential(nn.ReLU(), nn.LazyLinear(3))"),
            r"`model` has a LazyLinear \(1\) whose weights have no shape yet; call the model once on an example before",
        ),
        (workload("lambda x: x"), r"`model` must give a torch\.nn\.Module; it gave a function"),
        (
            workload("1 / 0"),
            r"`model` raised ZeroDivisionError: division by zero \(.*mine\.py:5: w = Workload\(model=lambda: 1 / 0",
        ),
        (workload(example="batch.size()"), r"`example` raised AttributeError: .*mine\.py:5: "),
        (
            workload(example="'text'"),
            r"`example`: inputs must be a Tensor, or a tuple or dict of Tensors, not a str",
        ),
        (
            workload(example="torch.ones(8, 4)"),
            r"`example` ignores the batch size: example\(2\) gives 'input' of shape \[8, 4\]",
        ),
        (
            workload(example="torch.ones(2, 4)"),
            r"`example` ignores the batch size: example\(3\) gives 'input' of shape \[2, 4\], where axis 0",
        ),
        (
            workload("nn.ReLU().eval()", example="torch.ones(batch, 2 * batch)"),
            r"axis 1 of 'input' has size 4 in example\(2\) and 6 in example\(3\); name it in `dynamic`",
        ),
        (
            workload(example="torch.ones(batch, 4).to(torch.float64 if batch > 2 else torch.float32)"),
            r"`example` gives 'input' as float32 \[2, 4\] for batch 2, but float64 \[3, 4\] for batch 3",
        ),
        (
            workload(example="torch.ones(batch, 4).bfloat16()"),
            r"`example` gives 'input' as torch\.bfloat16 .*cast in",
        ),
        (workload(example="torch.ones(batch, 5)"), r"`model` raised RuntimeError: .*mat1 and mat2 shapes"),
        (
            workload("M()", before=FORWARD.format("x[0].missing")),
            r"`model` raised AttributeError: .*missing.*mine\.py:5: def forward\(self, x\): return x\[0\]\.m",
        ),
        (
            workload("M()", before=FORWARD.format("x / 0 * 0")),
            r"original model gives NaN in output 0 on example\(2\)",
        ),
        (
            workload("M()", before=FORWARD.format("x + torch.rand(4)")),
            r"gives other numbers in output 0 when it is given the same inputs twice; take the randomness, or",
        ),
        (
            workload("M()", before=FORWARD.format("(x, 'label')")),
            r"outputs must be Tensors, .*they hold a str; leave",
        ),
        (workload("M()", before=FORWARD.format("None")), r"the model's outputs hold no Tensor"),
        (
            workload("M()", before=FORWARD.format("tuple(x)")),
            r"outputs change in number, rank or type when axis 'batch' has size 3 in place of 2",
        ),
        (
            workload(more="dynamic={'x': {0: 'batch'}}"),
            r"`dynamic` names 'x', which is no input; the inputs are input",
        ),
        (
            workload(more="dynamic={'input': {2: 'batch'}}"),
            r"`dynamic` gives axis 2 of 'input', which has shape \[2, 4\]",
        ),
        (workload(more="dynamic={'input': {0: 'n'}}"), r"`dynamic` has no axis called 'batch'; name the one that"),
        (workload(more="dynamic=['input']"), r"`dynamic` must be \{input: \{axis: name or .*, not a list"),
        (workload(more="dynamic={'input': 0}"), r"`dynamic` must be \{input: .*; 'input' has a int"),
        (workload(more="dynamic={'input': {0: ('batch', 4, 2)}}"), r"'input' has \('batch', 4, 2\)"),
        (
            workload(more="dynamic={'input': {0: 'batch', 1: 'width'}}"),
            r"`dynamic` lets axis 'width' vary, but no other size works \(what `example` gave was cut .* no 'width'\)",
        ),
        (
            workload(more="dynamic={'input': {0: 'batch', 1: ('width', 4, 4)}}"),
            r"`dynamic` lets axis 'width' vary, but its range holds only 4; leave it out",
        ),
        (
            workload(more="dynamic={'input': {0: 'batch', 1: ('width', 8, 16)}}"),
            r"`example` gives axis 'width' size 4, outside its range in `dynamic`, 8 to 16",
        ),
        (
            "w = Workload(model=nn.ReLU, example=lambda batch, width=4: torch.ones(batch, 4),\n"
            "    dynamic={'input': {0: 'batch', 1: 'width'}})\n",
            r"no other size works: the workload's `example` ignores the size of axis 'width': example\(width=8\)",
        ),
        (
            "w = Workload(model=nn.ReLU, example=lambda batch, width: torch.ones(batch, width))\n",
            r"`example` needs 'width': give it a default size, or a range in `dynamic`",
        ),
        (
            "class M(nn.Module):\n    def forward(self, a, b): return a + b\n"
            "w = Workload(model=M, example=lambda batch: (torch.ones(batch, 4), torch.ones(batch, 1)),\n"
            "    dynamic={'a': {0: 'batch', 1: 'n'}, 'b': {0: 'batch', 1: 'n'}})\n",
            r"axis 'n' has size 4 in one input and 1 in 'b'; give them two names in `dynamic`",
        ),
        (
            "class M(nn.Module):\n    def forward(self, a, b): return a + b\n"
            "w = Workload(model=M, example=lambda batch: (torch.ones(batch, 4), torch.ones(batch, 4)),\n"
            "    dynamic={'a': {0: 'batch', 1: ('n', 1, 8)}, 'b': {0: 'batch', 1: ('n', 1, 9)}})\n",
            r"`dynamic` gives axis 'n' two ranges; give it one",
        ),
    ],
)
def test_what_is_wrong_is_said_with_the_field(opened, body, message):
    with pytest.raises(WorkloadError, match=message) as caught:
        opened(body)
    assert "\n" not in str(caught.value)


def test_a_decoders_generate_is_refused_by_name(opened):
    decoder = "class Decoder(nn.Module):\n    def generate(self): return self\n"
    for model in ("lambda: Decoder().generate", "Decoder().generate"):
        with pytest.raises(WorkloadError, match=r"`model` is `generate`, .*one forward pass here; give the module"):
            opened(f"{decoder}w = Workload(model={model}, example=lambda batch: torch.ones(batch, 4))\n")


def test_a_command_says_what_it_needs_and_why(linear):
    message = (
        r"^hotlap tune needs `training` \(the data that it trains on\), `loss` \(what training makes smaller\), "
        r"which the workload in .*mine\.py:w lacks$"
    )
    loaded = linear("").loaded
    with pytest.raises(WorkloadError, match=message):
        open_workload(loaded, needs=("training", "loss"), command="tune")


def test_masked_logits_may_be_infinite(tmp_path: Path) -> None:
    path = tmp_path / "masked.py"
    path.write_text(
        "import torch\nfrom hotlap import Workload\n\n"
        "class Masked(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x.masked_fill(x < 0, float('-inf'))\n\n"
        "workload = Workload(model=Masked, example=lambda batch: torch.linspace(-1, 1, 4).repeat(batch, 1))\n"
    )
    assert open_workload(load_target(str(path))).signature.outputs[0].shape == ("batch", 4)
