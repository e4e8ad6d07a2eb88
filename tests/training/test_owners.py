"""Whatever way a function of the user's keeps something, it is found, and can be put back."""

import copy
import functools
import itertools

import numpy as np
import pytest
import torch

from hotlap.training.encoding import can_be_kept
from hotlap.training.owners import owners_of, put, values_of, written_over

COUNT = 0
COUNTS = {"all": 0}
TENSOR = torch.zeros(())


class Object:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> int:
        self.count += 1
        return self.count


class Module(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.deep = torch.nn.ModuleList([torch.nn.ModuleList()])
        self.deep[0].object = Object()

    def forward(self) -> int:
        return self.deep[0].object()


OBJECT = Object()


def in_an_attribute() -> int:
    in_an_attribute.count = getattr(in_an_attribute, "count", 0) + 1
    return in_an_attribute.count


def in_a_default(counts: list[int] = [0]) -> int:  # noqa: B006
    counts[0] += 1
    return counts[0]


def in_a_keyword(*, counts: dict[str, int] = {"all": 0}) -> int:  # noqa: B006
    counts["all"] += 1
    return counts["all"]


def in_a_variable() -> int:
    global COUNT
    COUNT += 1
    return COUNT


def in_a_dict_of_the_file() -> int:
    COUNTS["all"] += 1
    return COUNTS["all"]


def in_a_tensor_of_the_file() -> int:
    TENSOR.add_(1)
    return int(TENSOR)


def in_an_object_of_the_file() -> int:
    return OBJECT()


def through_another() -> int:
    return in_a_variable()


def in_what_it_closes_over():
    count = 0

    def function() -> int:
        nonlocal count
        count += 1
        return count

    return function


FUNCTIONS = {
    "an object": Object(),
    "a module": Module(),
    "a bound method": Object().__call__,
    "a partial function": functools.partial(lambda one: one(), Object()),
    "a lambda around an object": (lambda one: lambda: one())(Object()),
    "an attribute": in_an_attribute,
    "a default": in_a_default,
    "a keyword's default": in_a_keyword,
    "a variable": in_a_variable,
    "a dict of the file": in_a_dict_of_the_file,
    "a tensor of the file": in_a_tensor_of_the_file,
    "an object of the file": in_an_object_of_the_file,
    "another function": through_another,
    "what it closes over": in_what_it_closes_over(),
    "a hook of its own number": {7: in_what_it_closes_over()},
}


def kept(owners) -> dict[tuple[str, str], object]:
    return {
        (place, name): copy.deepcopy(value)
        for place, owner in owners.items()
        for name, value in values_of(owner).items()
        if can_be_kept(value)
    }


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_what_it_counts_in_is_found_and_put_back(kind: str) -> None:
    function = FUNCTIONS[kind]
    called = function[7] if isinstance(function, dict) else function
    called()
    owners = owners_of({"loss": function}).by_place
    before = kept(owners)
    second = called()
    called()
    for (place, name), value in before.items():
        put(owners[place], name, value)
    assert called() == second


def test_a_hooks_place_does_not_depend_on_how_many_there_were() -> None:
    places = [list(owners_of({"hooks": {number: Object()}}).by_place) for number in (3, 8)]
    assert places[0] == places[1] == ["hooks.0", "hooks.0.__call__"]


def test_schedulers_are_found_in_one_another() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    steps = torch.optim.lr_scheduler.StepLR(optimizer, 4)
    rise = torch.optim.lr_scheduler.LinearLR(optimizer)
    scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, steps], [2])
    found = owners_of({"hook": lambda: scheduler.step()}, but=[optimizer]).by_place.values()
    assert all(any(one is other for other in found) for one in (scheduler, steps, rise))


def test_the_rest_of_the_world_is_left_alone() -> None:
    def function() -> object:
        return np, torch, pytest, functools, itertools, print, Object, rows

    rows = torch.utils.data.TensorDataset(torch.zeros(2))
    owners = owners_of({"loss": function, "weight": torch.nn.functional.cross_entropy, "none": None})
    assert [*owners.by_place] == ["loss", "loss.rows"]
    assert not owners.iterators


def test_an_iterator_is_named() -> None:
    rates = itertools.cycle([1, 2])
    assert owners_of({"loss": lambda: next(rates)}).iterators == ("loss.rates",)


def test_what_is_kept_elsewhere_is_left_out() -> None:
    model = torch.nn.Linear(2, 2)
    assert [*owners_of({"hook": functools.partial(print, model)}, but=[model]).by_place] == []


def test_a_model_of_many_modules_leaves_room_for_what_is_looked_at() -> None:
    class Loss:
        calls = 0

        def __init__(self) -> None:
            self.kept = torch.nn.Linear(1, 1)

    loss, model = Loss(), torch.nn.Sequential(*(torch.nn.Identity() for _ in range(1500)))
    few = owners_of({"loss": loss}, but=[torch.nn.Sequential()])
    assert owners_of({"loss": loss}, but=[*model.modules()]) == few


def test_what_was_not_looked_at_is_named() -> None:
    few, many = ([Object() for _ in range(count)] for count in (400, 1200))
    assert owners_of({"loss": few}).left is None
    assert owners_of({"loss": [many]}).left == "loss.0.998"


def test_numbers_are_written_over_where_kind_and_shape_are_the_same() -> None:
    own, counts, fixed = torch.zeros(2), np.zeros(2, dtype=np.int64), np.zeros(2)
    fixed.flags.writeable = False
    assert written_over(own, torch.ones(2))
    assert own.tolist() == [1.0, 1.0]
    for one, value in ((own, np.ones(2)), (counts, np.array([0.7, 0.7])), (fixed, np.ones(2)), (None, own)):
        assert not written_over(one, value)
    assert not written_over(torch.zeros(1).expand(2), torch.ones(2))
