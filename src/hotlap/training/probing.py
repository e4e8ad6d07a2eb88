"""What reading a few examples of a Dataset tells about it, before any of them is trained on."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from typing import Any

from hotlap.errors import InputError, WorkloadError
from hotlap.training.encoding import encode, same_values
from hotlap.training.seeding import generator_states, own_generators, seed_generators
from hotlap.workload.user_code import running

_LOOKED_AT = 8


def changing(dataset: Any) -> tuple[str, ...]:
    """A warning where reading an example changes the Dataset's own numbers, not only the first time: a resumed run has
    them from the start."""
    if not hasattr(dataset, "__dict__"):
        return ()
    tried = copy.copy(dataset)
    with running("training"):
        tried[0]
        before = plain_values(tried)
        tried[min(1, len(dataset) - 1)]
    after = plain_values(tried)
    changed = [name for name, value in before.items() if after.get(name, value) != value]
    if not changed:
        return ()
    return (
        f"reading an example of `training` changes its {' and its '.join(map(repr, changed))}, which is not kept: what "
        "depends on it is another after --resume, and in each loader process; have it depend on the index instead",
    )


def plain_values(owner: Any) -> dict[str, bool | int | float | str]:
    """The attributes that are plain numbers or texts, by name."""
    values = getattr(owner, "__dict__", {})
    return {name: value for name, value in values.items() if isinstance(value, bool | int | float | str)}


def draws(dataset: Any, generators: Sequence[Any]) -> bool:
    """Whether reading an example moves a random generator, by eight examples drawn from all over the Dataset.

    It is read with seeds of its own for each example then: the same whatever pass or process reads it. To seed for
    every example of every Dataset would cost a tiny model half its speed.
    """
    tried = copy.copy(dataset) if hasattr(dataset, "__dict__") else dataset
    count = len(dataset)
    seed_generators(0, "draws")
    for index in random.Random(0).sample(range(count), min(count, _LOOKED_AT)):
        before = generator_states(generators)
        try:
            with running("training"):
                tried[index]
        except WorkloadError:
            return False  # Reading it for a batch tells more.
        if generator_states(generators) != before or len(own_generators(tried)) > len(generators):
            return True
    return False


def unseeded(dataset: Any) -> tuple[str, ...]:
    """A warning where an example differs although all generators are seeded alike: what it draws from is made anew."""
    tried = copy.copy(dataset) if hasattr(dataset, "__dict__") else dataset
    read = []
    try:
        with running("training"):
            tried[0]  # Some generators are made as it is read for the first time.
            for _ in range(2):
                seed_generators(0, "unseeded", own=own_generators(tried))
                read.append(tried[0])
        first, second = (encode(one, "") for one in read)
    except (InputError, WorkloadError):
        return ()  # What can't be compared, or read: reading it for a batch tells more.
    same = first[0] == second[0] and all(same_values(value, second[1][name]) for name, value in first[1].items())
    if same:
        return ()
    return (
        "reading an example of `training` twice gives two, although every generator that could be found was seeded "
        "alike: a run that goes on is not exactly the one that was stopped; draw from a generator that the Dataset "
        "holds, or from the global ones",
    )
