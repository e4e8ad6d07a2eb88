"""Evaluation data: read batch by batch, each one checked, and with an end that is seen to."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hotlap.errors import WorkloadError
from hotlap.workload.deadline import DeadlinePassed, deadline
from hotlap.workload.opened import Opened
from hotlap.workload.rows import read_inputs
from hotlap.workload.user_code import running

if TYPE_CHECKING:
    import torch

MAX_EXAMPLES = 1_000_000
END = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much evaluation data is read before it counts as endless. `seconds` counts the user's code only."""

    max_examples: int = MAX_EXAMPLES
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """One batch as the user gave it. `first` is the place of its first row, `seconds` what reading took so far."""

    tensors: list[torch.Tensor]
    targets: Any
    count: int
    first: int
    seconds: float


def read_evaluation(opened: Opened, limits: Limits) -> Iterator[Read]:
    """The evaluation batches, empty ones left out; an iterator that hangs is interrupted.

    Raises WorkloadError where one is no (inputs, targets) pair, does not fit the signature, or `limits` are passed.
    """
    evaluation = opened.workload.evaluation
    if evaluation is None:
        raise WorkloadError("the workload has no `evaluation`")
    spent, examples = 0.0, 0
    iterator: Iterator[Any] | None = None
    while True:
        began = time.perf_counter()
        left = None if limits.seconds is None else max(limits.seconds - spent, 1e-3)
        try:
            with deadline(left), running("evaluation"):
                if iterator is None:
                    iterator = iter(evaluation())
                item = next(iterator, END)
        except DeadlinePassed:
            raise _too_long(limits, examples) from None
        spent += time.perf_counter() - began
        if item is END:
            return
        if limits.seconds is not None and spent > limits.seconds:
            raise _too_long(limits, examples)
        inputs, targets = _pair(item)
        tensors, count = read_inputs(inputs, opened.signature, "evaluation")
        if count:
            yield Read(tensors=tensors, targets=targets, count=count, first=examples, seconds=spent)
        examples += count
        if examples > limits.max_examples:
            raise WorkloadError(
                f"the workload's `evaluation` gives more than {limits.max_examples:,} examples; make it finite or "
                "smaller (optimize takes more with --max-evaluation-examples)"
            )


def _pair(item: Any) -> tuple[Any, Any]:
    if isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    given = type(item).__name__ + (f" of {len(item)}" if isinstance(item, tuple | list) else "")
    raise WorkloadError(f"the workload's `evaluation` must give (inputs, targets) pairs; it gave a {given}")


def _too_long(limits: Limits, examples: int) -> WorkloadError:
    return WorkloadError(
        f"the workload's `evaluation` was not through after {limits.seconds:.3g} s and {examples:,} examples; make "
        "it finite or smaller, or allow more time with --budget"
    )
