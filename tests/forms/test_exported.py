"""What torch.export captures, and where it says that it did not capture all of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hotlap.core import Context, Model, Signature, TensorSpec
from hotlap.errors import Unsupported
from hotlap.forms.exported import convert


class Ways(nn.Module):
    """Another way for some sizes: what `asks` says of the input."""

    def __init__(self, asks: Any) -> None:
        super().__init__()
        self.asks = asks

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        return numbers * 2 if self.asks(numbers) else numbers.flip(1)


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 3, batch_first=True, bidirectional=True)

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        return self.lstm(numbers)[0]  # type: ignore[no-any-return]


def captured(module: nn.Module, shape: tuple[int | str, ...], ranges: Any = None) -> Any:
    example = np.zeros([2 if size == "batch" else 6 if isinstance(size, str) else size for size in shape], np.float32)
    spec = TensorSpec(name="numbers", dtype="float32", shape=shape)
    signature = Signature(inputs=(spec,), outputs=(), input_kind="tensor", output_tree=0, ranges=ranges or {})
    context = Context(folder=Path(), example=[example], calibration=None, seed=0, threads=1)
    return convert(Model(form="module", value=module.eval(), signature=signature), context).value


@pytest.mark.parametrize(
    ("asks", "way"),
    [
        (lambda x: x.shape[0] < 4, r"another at batch 8: numbers.size\(\)\[0\] <= 3"),
        (lambda x: x.shape[0] % 2 == 0, r"another at batch 3: .* % 2 == 0"),
        (lambda x: x.shape[0] < 500, r"another at batch 1000: .* <= 499"),
    ],
)
def test_a_model_that_takes_another_way_for_other_batches_is_not_captured(asks: Any, way: str) -> None:
    with pytest.raises(Unsupported, match=f"torch.export follows one way through the model only, and it takes {way}"):
        captured(Ways(asks), ("batch", 5))


def test_an_axis_that_may_be_longer_than_the_way_taken_is_not_captured() -> None:
    short = Ways(lambda x: x.shape[1] < 12)
    with pytest.raises(Unsupported, match="takes another at batch 17, length 19"):
        captured(short, ("batch", "length"), {"length": (6, 32)})
    assert captured(short, ("batch", "length"), {"length": (4, 11)}) is not None


def test_a_model_that_takes_one_way_is_captured() -> None:
    program = captured(Ways(lambda x: x.shape[1] == 5), ("batch", 5))
    assert program.module()(torch.ones(9, 5))[0].shape == (9, 5)


def test_an_axis_that_cant_be_left_open_is_named_with_what_to_do() -> None:
    with pytest.raises(Unsupported, match=r"code specialized it to be a constant.*; leave that axis out of `dynamic`$"):
        captured(Reader(), ("batch", "length", 4), {"length": (1, 64)})
