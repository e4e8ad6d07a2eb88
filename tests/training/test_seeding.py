"""Every generator that can be seen is seeded by the place, and nothing else is touched."""

import functools
import random

import numpy as np
import pytest
import torch

from hotlap.training.seeding import generator_states, own_generators, put_back, reseed, seed_generators, state_of

KINDS = {
    "torch": torch.Generator,
    "numpy": lambda: np.random.default_rng(0),
    "numpy, another": lambda: np.random.Generator(np.random.SFC64(1)),
    "numpy, old": lambda: np.random.RandomState(0),
    "python": lambda: random.Random(0),
}


def drawn(generator) -> float:
    if isinstance(generator, torch.Generator):
        return torch.rand((), generator=generator).item()
    return generator.normal() if hasattr(generator, "normal") else generator.random()


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_alone_says_what_is_drawn(kind: str) -> None:
    first, second = KINDS[kind](), KINDS[kind]()
    drawn(first)
    for generator in (first, second):
        reseed(generator, 2**64 - 3)
    assert drawn(first) == drawn(second)
    reseed(second, 4)
    assert drawn(first) != drawn(second)


@pytest.mark.parametrize("kind", KINDS)
def test_it_can_be_put_back_to_where_it_stood(kind: str) -> None:
    first, second = KINDS[kind](), KINDS[kind]()
    drawn(first)
    put_back(second, state_of(first))
    assert drawn(first) == drawn(second)


@pytest.mark.parametrize("kind", KINDS)
def test_a_draw_is_noticed(kind: str) -> None:
    generator = KINDS[kind]()
    before = generator_states([generator])
    assert generator_states([generator]) == before
    drawn(generator)
    assert generator_states([generator]) != before


@pytest.mark.parametrize("draw", [random.random, np.random.rand, lambda: torch.rand(()), lambda: torch.randn(3)])
def test_a_draw_from_a_global_one_is_noticed(draw) -> None:
    seed_generators(0, "draws")
    before = generator_states(())
    draw()
    assert generator_states(()) != before


def test_those_of_ones_own_are_seeded_with_the_global_ones_each_in_its_own_way() -> None:
    def found(*place: int) -> list[float]:
        own = [random.Random(1), random.Random(2)]
        seed_generators(5, *place, own=own)
        return [torch.rand(()).item(), *map(drawn, own)]

    assert found(3, 4) == found(3, 4)
    assert len({*found(3, 4), *found(4, 3)}) == 6


class Deep:
    __slots__ = ("kept",)

    def __init__(self, kept) -> None:
        self.kept = kept


class Holder:
    def __init__(self, value) -> None:
        self.value = value


PLACES = {
    "an attribute": lambda one: Holder(one),
    "a slot in a list in a dict": lambda one: Holder({"a": [1, (Deep(one),)]}),
    "a partial function": lambda one: Holder(functools.partial(print, one)),
    "a closure": lambda one: Holder(lambda: one),
    "a bound method": lambda one: Holder(one.random),
    "a ring": lambda one: ring(one),
}


def ring(one) -> Holder:
    holder = Holder([one])
    holder.value.append(holder)
    return holder


@pytest.mark.parametrize("place", PLACES)
def test_a_generator_is_found_once_wherever_it_is(place: str) -> None:
    one = random.Random(0)
    assert own_generators(PLACES[place](one), PLACES[place](one)) == [one]


def test_what_cannot_be_seeded_is_left_out() -> None:
    assert own_generators(Holder([random.SystemRandom(), torch.zeros(3), "text", Holder, random, None])) == []


def test_a_long_list_is_not_gone_through() -> None:
    assert own_generators(Holder(list(range(100_000)))) == []


class Touchy:
    """Says what it is only with a complaint, as torch.distributed.reduce_op does."""

    @property
    def __class__(self):
        raise AssertionError("asked for its class")


def test_what_stands_beside_a_function_is_not_asked_what_it_is() -> None:
    module = {"touchy": Touchy(), "beside": random.Random(5)}
    exec("def function(): ...", module)
    assert own_generators(Holder(module["function"])) == [module["beside"]]
