"""What is not a number is never taken for no difference."""

import math

import torch

from hotlap.training import comparing


def test_the_largest_difference_and_what_is_none() -> None:
    assert comparing.furthest(0.0, 0.2, 0.1) == 0.2
    for place in range(3):
        assert comparing.furthest(*(math.nan if one == place else 0.0 for one in range(3))) == math.inf


def test_gradients_that_are_nan_on_both_sides_are_apart() -> None:
    broken = [torch.tensor([1.0, math.nan])]
    assert comparing.furthest(0.0, comparing.of_tensors(broken, broken)) == math.inf


def test_sparse_gradients_and_those_that_are_not_there() -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(4, 2, sparse=True), torch.nn.Linear(2, 1))
    model[0](torch.tensor([1])).sum().backward()
    found = comparing.gradients_of(model)
    assert [one.is_sparse for one in found] == [False] * 3
    assert comparing.of_tensors(found, found) == 0.0
    assert comparing.of_tensors(found, [torch.zeros(()) for _ in found]) == 1.0


def test_infinities_that_are_the_same_are_no_difference_and_large_ones_hide_none() -> None:
    mask, mean, other = torch.tensor([0.0, -math.inf]), torch.ones(2), torch.full((2,), 1.1)
    assert comparing.of_tensors([mask, mean], [mask, mean]) == 0.0
    assert comparing.of_tensors([mask], [-mask]) == math.inf
    assert comparing.of_each([torch.full((2,), -1e9), mean], [torch.full((2,), -1e9), other]) > 0.09
