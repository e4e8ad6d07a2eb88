"""Data has three roles that never mix: calibration, selection, confirmation.

Evaluation data is split into selection, which the search sees, and confirmation, which judges the winner and chose
nothing. Calibration data is never taken from it.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from hotlap.core import Array, Signature
from hotlap.errors import WorkloadError
from hotlap.workload.evaluation import END, MAX_EXAMPLES, Limits, Read, read_evaluation
from hotlap.workload.inputs import restore_inputs, to_arrays
from hotlap.workload.opened import Opened
from hotlap.workload.rows import CannotCut, cut_inputs, cut_targets, read_inputs, row_digests, update_digest
from hotlap.workload.user_code import running
from hotlap.workload.workload import Inputs

Role = Literal["selection", "confirmation", "all"]
_BLOCK, _SELECTION = 10, 3
"""Three of every ten examples choose; seven confirm, since what is reported needs the narrower interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Some examples of one evaluation batch. `rows` [n] int64 are their places among all evaluation examples."""

    inputs: Inputs
    targets: Any
    rows: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationFacts:
    """What one full pass over the evaluation data found.

    `digest` covers inputs and targets in their order. `distinct` counts different inputs. `seconds` is what the
    user's code took for one pass. `whole_batches` counts batches whose targets can't be cut, which keep together.
    """

    examples: int
    distinct: int
    selection: int
    confirmation: int
    batches: int
    whole_batches: int
    digest: str
    seconds: float
    row_digests: frozenset[int]


def evaluation_rows(opened: Opened, role: Role, *, seed: int, limits: Limits | None = None) -> Iterator[Batch]:
    """The evaluation examples of one role, in batches cut from the user's.

    The split depends on `seed` and the examples' order alone. Equal inputs get one role. Raises WorkloadError where
    `evaluation` misbehaves or passes `limits`.
    """
    split = _Split(seed)
    for read in read_evaluation(opened, limits or Limits()):
        roles, _ = split.assign(opened, read)
        keep = [index for index, name in enumerate(roles) if role in ("all", name)]
        if not keep:
            continue
        tensors, targets = read.tensors, read.targets
        if len(keep) < read.count:
            tensors = cut_inputs(tensors, opened.signature, keep)
            targets = cut_targets(targets, read.count, keep)
        rows = read.first + np.asarray(keep, dtype=np.int64)
        yield Batch(inputs=restore_inputs(tensors, opened.signature), targets=targets, rows=rows)


def check_evaluation(
    opened: Opened, *, seed: int, max_examples: int = MAX_EXAMPLES, seconds: float | None = None
) -> EvaluationFacts:
    """Read all evaluation data once, and again to see that it is the same.

    The second pass stops early where both would take more than `seconds`. Raises WorkloadError where the data is
    empty, endless, too little to split, or differs between the passes.
    """
    limits = Limits(max_examples=max_examples, seconds=seconds)
    split, counts = _Split(seed), {"selection": 0, "confirmation": 0}
    digest, marks, examples, whole, spent = hashlib.sha256(), [], 0, 0, 0.0
    for read in read_evaluation(opened, limits):
        roles, uncut = split.assign(opened, read)
        for role in roles:
            counts[role] += 1
        examples, whole, spent = examples + read.count, whole + uncut, read.seconds
        marks.append(_mark(digest, opened, read))
    if not examples:
        raise WorkloadError(
            "the workload's `evaluation` is empty; it must give at least two (inputs, targets) examples"
        )
    _check_again(opened, limits, marks, examples, spent)
    if not all(counts.values()):
        raise WorkloadError(
            f"the workload's `evaluation` gives {examples} examples that can't be split into those that choose and "
            "those that confirm: "
            + (
                "its targets keep each batch together; give more batches"
                if whole
                else "they all have the same inputs; give at least two different ones"
            )
        )
    return EvaluationFacts(
        examples=examples,
        distinct=len(split.digests),
        selection=counts["selection"],
        confirmation=counts["confirmation"],
        batches=len(marks),
        whole_batches=whole,
        digest=digest.hexdigest(),
        seconds=spent,
        row_digests=frozenset(split.digests),
    )


def calibration_arrays(
    opened: Opened, *, seed: int, examples: int = 256, facts: EvaluationFacts | None = None
) -> tuple[Callable[[], Iterable[list[Array]]] | None, int, str | None]:
    """Calibration inputs: a function that gives them anew each time, how many examples, and what to say of them.

    They come from `calibration`, or by a seeded draw from `training`. Examples that evaluation holds too are left
    out and counted. `facts` saves a pass over the evaluation data. None and the reason where there are none.
    """
    workload = opened.workload
    field = "calibration" if workload.calibration else "training"
    if workload.calibration is None and workload.training is None:
        return None, 0, "the workload has neither `calibration` nor `training`, and random inputs are never used"
    held = facts.row_digests if facts else _evaluation_digests(opened)
    batches: list[list[Array]] = []
    count = left_out = 0
    source = _calibration(opened) if workload.calibration else _training(opened, seed, examples)
    for inputs in source:
        tensors, rows = read_inputs(inputs, opened.signature, field)
        spoilt = _not_finite(tensors, opened.signature)
        if spoilt:
            return None, 0, f"the workload's `{field}` gives NaN or Inf in `{spoilt}`, which has no range"
        digests = row_digests(tensors, opened.signature, rows)
        keep = [index for index, digest in enumerate(digests) if digest not in held]
        left_out += rows - len(keep)
        keep = keep[: examples - count]
        if keep:
            batches.append(to_arrays(cut_inputs(tensors, opened.signature, keep)))
            count += len(keep)
        # An endless source that evaluation holds too would never fill up.
        if count >= examples or left_out > 4 * examples:
            break
    note = f"{left_out} examples of `{field}` left out, since `evaluation` holds them too" if left_out else None
    if not count:
        return None, 0, note or f"the workload's `{field}` is empty"
    return lambda: iter(batches), count, note


def _not_finite(tensors: Any, signature: Signature) -> str | None:
    """The name of the first input that holds NaN or Inf; None where none does."""
    for spec, array in zip(signature.inputs, to_arrays(tensors), strict=True):
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            return spec.name
    return None


def is_map_style(training: Any) -> bool:
    """Whether training data is a Dataset of single examples; else it is an iterable of batches."""
    from torch.utils.data import DataLoader, Dataset, IterableDataset

    if isinstance(training, IterableDataset | DataLoader | list | tuple):
        return False
    return isinstance(training, Dataset) or (hasattr(training, "__getitem__") and hasattr(training, "__len__"))


class _Split:
    """Gives each distinct example its role, in the order in which they come."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._roles: dict[int, bool] = {}
        self.digests: set[int] = set()

    def assign(self, opened: Opened, read: Read) -> tuple[list[str], bool]:
        """The role of each row, and whether the batch had to stay whole."""
        digests = row_digests(read.tensors, opened.signature, read.count)
        self.digests.update(digests)
        try:
            cut_targets(read.targets, read.count, [0])
        except CannotCut:
            whole = hash(tuple(digests))
            return [self._role(whole)] * read.count, True
        return [self._role(digest) for digest in digests], False

    def _role(self, digest: int) -> str:
        if digest not in self._roles:
            block, place = divmod(len(self._roles), _BLOCK)
            self._roles[digest] = place in _choosing(self._seed, block)
        return "selection" if self._roles[digest] else "confirmation"


@lru_cache(maxsize=1024)
def _choosing(seed: int, block: int) -> frozenset[int]:
    """Which places of a block of ten are selection; of the very first two exactly one, so that two examples do."""
    draw = random.Random(f"{seed}:{block}")
    if block:
        return frozenset(draw.sample(range(_BLOCK), _SELECTION))
    return frozenset([draw.randrange(2), *draw.sample(range(2, _BLOCK), _SELECTION - 1)])


def _mark(digest: Any, opened: Opened, read: Read) -> tuple[int, bytes]:
    """Add a batch to the running digest; how many examples it had and where the digest stands."""
    for tensor in to_arrays(read.tensors):
        digest.update(f"{tensor.dtype}{tensor.shape}".encode())
        digest.update(tensor.tobytes())
    update_digest(digest, read.targets)
    return read.count, digest.digest()[:8]


def _check_again(opened: Opened, limits: Limits, marks: list[tuple[int, bytes]], examples: int, spent: float) -> None:
    """The second pass; where time is short, of the beginning only."""
    digest, again = hashlib.sha256(), 0
    enough = None if limits.seconds is None else limits.seconds - spent
    batch = 0
    for read in read_evaluation(opened, limits):
        if batch == len(marks):
            raise _other_count(examples, "more")
        if _mark(digest, opened, read) != marks[batch]:
            raise WorkloadError(
                f"the workload's `evaluation` differs between two passes (first in batch {batch}); take the "
                "shuffling and the randomness out, or seed them"
            )
        again, batch = again + read.count, batch + 1
        if enough is not None and read.seconds > enough:
            return
    if batch < len(marks):
        raise _other_count(examples, again)


def _other_count(first: int, second: int | str) -> WorkloadError:
    return WorkloadError(
        f"the workload's `evaluation` gives {first} examples the first time and {second} the second; give a fresh "
        "iterable each time"
    )


def _evaluation_digests(opened: Opened) -> frozenset[int]:
    if opened.workload.evaluation is None:
        return frozenset()
    return frozenset(
        digest
        for read in read_evaluation(opened, Limits())
        for digest in row_digests(read.tensors, opened.signature, read.count)
    )


def _calibration(opened: Opened) -> Iterator[Inputs]:
    assert opened.workload.calibration is not None
    yield from _guarded(opened.workload.calibration, "calibration")


def _guarded(make: Callable[[], Iterable[Any]], field: str) -> Iterator[Any]:
    with running(field):
        iterator = iter(make())
    while True:
        with running(field):
            item = next(iterator, END)
        if item is END:
            return
        yield item


def _training(opened: Opened, seed: int, examples: int) -> Iterator[Inputs]:
    """Inputs of training data: a seeded draw from a Dataset, the first batches of an iterable."""
    assert opened.workload.training is not None
    with running("training"):
        training = opened.workload.training()
    if is_map_style(training):
        yield from _drawn(training, seed, examples)
        return
    for batch in _guarded(lambda: training, "training"):
        yield pair(batch)[0]


def _drawn(training: Any, seed: int, examples: int) -> Iterator[Inputs]:
    from torch.utils.data import default_collate

    with running("training"):
        size = len(training)
    # More than are wanted, since some may be left out; in small batches, since they are held in memory.
    chosen = random.Random(seed).sample(range(size), min(size, 4 * examples))
    for first in range(0, len(chosen), 16):
        items = []
        for index in chosen[first : first + 16]:
            with running("training"):
                item = training[index]
            items.append(pair(item)[0])
        try:
            batches = [default_collate(items)]
        except RuntimeError:  # sizes differ, so each example is a batch of its own
            batches = [default_collate([item]) for item in items]
        yield from batches


def pair(item: Any) -> tuple[Any, Any]:
    """(inputs, targets) of what `training` gave. Raises WorkloadError for anything else."""
    if isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    given = f"a {type(item).__name__}" + (f" of {len(item)}" if isinstance(item, tuple | list) else "")
    raise WorkloadError(f"the workload's `training` must give (inputs, targets) pairs; it gave {given}")
