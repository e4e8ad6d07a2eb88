"""Counts against known figures, against loops written out, and against torch's own counter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import scaled_dot_product_attention as attention
from torch.utils.flop_counter import FlopCounterMode

from hotlap.profiling.count import Counted, count
from hotlap.profiling.modules import module_names


def counted(model: nn.Module, *inputs: Any) -> Counted:
    return count(model.eval(), lambda: model(*inputs))


def total(model: nn.Module, *inputs: Any) -> int:
    return sum(work.multiply_adds for work in counted(model, *inputs).work)


class Call(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs)


class Basic(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(inner, outer, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))


def resnet18() -> nn.Module:
    """He et al. (2015), without the normalizations, which have no multiply-adds."""
    blocks = [
        Basic(inner, outer, stride)
        for inner, outer, stride in (
            (64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1),
            (128, 256, 2), (256, 256, 1), (256, 512, 2), (512, 512, 1),
        )
    ]  # fmt: skip
    return nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.MaxPool2d(3, 2, 1),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(512, 1000),
    )


def test_resnet_18_has_the_figure_that_papers_give() -> None:
    with torch.device("meta"):
        assert total(resnet18(), torch.zeros(1, 3, 224, 224)) == pytest.approx(1.81e9, rel=0.005)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_convolutions_against_torchs_own_counter(data: st.DataObject) -> None:
    groups = data.draw(st.integers(1, 3))
    inner, outer = groups * data.draw(st.integers(1, 3)), groups * data.draw(st.integers(1, 3))
    kind = data.draw(st.sampled_from([nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d]))
    axes = 1 if "1d" in kind.__name__ else 2
    model = kind(
        inner,
        outer,
        data.draw(st.integers(1, 3)),
        stride=data.draw(st.integers(1, 2)),
        padding=data.draw(st.integers(0, 1)),
        groups=groups,
    ).eval()
    image = torch.zeros(data.draw(st.integers(1, 3)), inner, *[data.draw(st.integers(3, 6))] * axes)
    with FlopCounterMode(display=False) as reference, torch.no_grad():
        model(image)
    assert 2 * total(model, image) == reference.get_total_flops()


@pytest.mark.parametrize(
    ("function", "shapes", "expected"),
    [
        (lambda a, b: a @ b, [(3, 4, 5), (3, 5, 6)], 3 * 4 * 5 * 6),
        (lambda a, b: a @ b, [(2, 3, 4, 5), (5, 6)], 2 * 3 * 4 * 5 * 6),
        (lambda a, b: torch.einsum("bij,bkj->bik", a, b), [(2, 3, 4), (2, 5, 4)], 2 * 3 * 4 * 5),
        (lambda a, b: torch.tensordot(a, b, 1), [(3, 4), (4, 5)], 60),
        (torch.mv, [(3, 4), (4,)], 12),
        (torch.dot, [(7,), (7,)], 7),
        (torch.addmm, [(3, 5), (3, 4), (4, 5)], 60),
        (torch.baddbmm, [(2, 3, 5), (2, 3, 4), (2, 4, 5)], 120),
        (torch.addbmm, [(3, 5), (2, 3, 4), (2, 4, 5)], 120),
        (attention, [(2, 4, 6, 8), (2, 4, 7, 8), (2, 4, 7, 3)], 2 * 4 * 6 * 7 * (8 + 3)),
        (nn.functional.bilinear, [(2, 3), (2, 4), (5, 3, 4)], 2 * 5 * 3 * 4),
        (torch.relu, [(4, 4)], 0),
    ],
)  # fmt: skip
def test_products(function: Any, shapes: list[tuple[int, ...]], expected: int) -> None:
    assert total(Call(function), *(torch.zeros(shape) for shape in shapes)) == expected


def test_recurrent_layers_use_each_matrix_once_a_step() -> None:
    rows = torch.zeros(2, 5, 8)
    assert total(nn.LSTM(8, 16, 2, batch_first=True), rows) == 10 * 4 * 16 * (8 + 16 + 16 + 16)
    assert total(nn.GRU(8, 16, bidirectional=True), rows) == 10 * 2 * 3 * 16 * (8 + 16)
    assert total(nn.RNN(8, 16), rows) == 10 * 16 * (8 + 16)
    assert total(nn.LSTMCell(8, 16), rows[0]) == 5 * 4 * 16 * (8 + 16)
    packed = nn.utils.rnn.pack_padded_sequence(torch.zeros(5, 2, 8), [5, 3])
    assert total(nn.LSTM(8, 16), packed) == 8 * 4 * 16 * (8 + 16)


def test_the_transformer_layers_fast_path_counts_as_its_parts_do() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    rows = torch.zeros(2, 5, 8)
    fast = total(layer, rows)
    assert fast == 10 * (4 * 8 * 8 + 2 * 8 * 16) + 2 * 2 * 5 * 5 * 8
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        parts = total(layer, rows)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert fast == parts


def test_work_belongs_to_the_module_that_does_it() -> None:
    model = nn.Sequential(nn.Linear(4, 3), Call(lambda x: x @ torch.ones(3, 2)))
    names = [module.name for module in module_names(model)]
    found = {names[work.module]: work.multiply_adds for work in counted(model, torch.zeros(5, 4)).work}
    assert found == {"0": 60, "1": 30}


def test_bytes_are_those_of_weights_inputs_and_outputs() -> None:
    (work,) = counted(nn.Linear(4, 3), torch.zeros(5, 4)).work
    assert work.weight_bytes == 4 * (4 * 3 + 3)
    assert work.activation_bytes == 4 * (5 * 4 + 5 * 3)
    (looked_up,) = counted(nn.Embedding(1000, 4), torch.zeros(2, 3, dtype=torch.long)).work
    assert looked_up.weight_bytes == 0
    assert looked_up.activation_bytes == 8 * 6 + 2 * 4 * 6 * 4, "rows that are read and written, and their numbers"
    (in_place,) = counted(Call(torch.relu_), torch.zeros(10)).work
    assert in_place.activation_bytes == 2 * 40
    (expanded,) = counted(Call(lambda x: x + 1), torch.zeros(1).expand(10)).work
    assert expanded.activation_bytes == 4 + 40


def test_a_view_moves_nothing() -> None:
    assert counted(Call(lambda x: x.t().unsqueeze(0)[:, 1:]), torch.zeros(3, 4)).work == ()


def test_the_peak_holds_what_is_alive_at_once() -> None:
    chain = nn.Sequential(*(nn.ReLU() for _ in range(6)))
    values = torch.zeros(1000)
    assert counted(chain, values).peak_activation_bytes == 3 * 4000, "inputs stay; of the rest two at a time"
    kept = Call(lambda x: sum([torch.relu(x), torch.neg(x), torch.abs(x), torch.exp(x)]))
    assert counted(kept, values).peak_activation_bytes >= 5 * 4000


def test_weights_are_counted_once_and_are_no_activations() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64))
    found = counted(model, torch.zeros(2, 64))
    buffers = 64 * 4 + 64 * 4 + 8
    assert found.weight_bytes == 4 * (64 * 64 + 64 + 64 + 64) + buffers
    assert found.peak_activation_bytes == 3 * 4 * 2 * 64


def test_convolution_against_loops() -> None:
    batch, inner, outer, side, kernel = 2, 3, 4, 5, 3
    multiplied = 0
    for _ in range(batch * outer * inner):
        for row in range(side - kernel + 1):
            for column in range(side - kernel + 1):
                for y in range(row, row + kernel):
                    for x in range(column, column + kernel):
                        assert y < side
                        assert x < side
                        multiplied += 1
    assert total(nn.Conv2d(inner, outer, kernel), torch.zeros(batch, inner, side, side)) == multiplied
