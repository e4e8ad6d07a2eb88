"""The score while a model trains: on data that may choose a stop, and apart from it on data that chooses nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hotlap.errors import WorkloadError
from hotlap.training.preparing import modes_of, set_modes, to_device
from hotlap.training.processes import let_go_of_whole_weights
from hotlap.training.settings import Settings
from hotlap.training.stepping import in_fp32
from hotlap.workload import roles, scoring
from hotlap.workload.evaluation import Limits
from hotlap.workload.inputs import call
from hotlap.workload.opened import Opened
from hotlap.workload.roles import Role
from hotlap.workload.user_code import running

if TYPE_CHECKING:
    import torch


_LIMITS = Limits(max_examples=10_000_000)
"""Past that `evaluation` counts as endless."""


def check_both_parts(opened: Opened, settings: Settings) -> None:
    """Raise WorkloadError where `evaluation` has no example to choose a stop by, or none to score the result."""
    parts: tuple[Role, ...] = ("selection", "confirmation")
    found = (next(roles.evaluation_rows(opened, part, seed=settings.seed, limits=_LIMITS), None) for part in parts)
    if any(one is None for one in found):
        raise WorkloadError(
            "settings: early_stop needs examples to stop by, and others to score the result; `evaluation` has too "
            "few, or batches that can't be cut: give more examples, or smaller batches"
        )


def role_of_the_result(settings: Settings) -> Role:
    """Which evaluation examples the result's score is of: all, or where some of them choose a stop, the others."""
    return "confirmation" if settings.early_stop else "all"


def count_scored(opened: Opened, settings: Settings) -> int:
    """The evaluation examples that the result's score is of; 0 where there is no evaluation."""
    if opened.workload.evaluation is None:
        return 0
    role = role_of_the_result(settings)
    return sum(len(batch.rows) for batch in roles.evaluation_rows(opened, role, seed=settings.seed, limits=_LIMITS))


def score(opened: Opened, model: torch.nn.Module, settings: Settings, role: Role) -> float | None:
    """The workload's score of `model` on the evaluation examples of that role, in fp32 and eval mode.

    None where the workload has no evaluation. The model is in training mode again afterwards. Raises WorkloadError
    as `scoring.score_batch` does.
    """
    import torch

    if opened.workload.evaluation is None:
        return None
    modes = modes_of(model)
    judged, found = replace(opened, model=model), list[Any]()
    try:
        model.eval()
        for batch in roles.evaluation_rows(opened, role, seed=settings.seed, limits=_LIMITS):
            with torch.no_grad(), running("model"):
                outputs = call(model, to_device(batch.inputs, settings))
            outputs = in_fp32(to_device(outputs, replace(settings, device="cpu", layout="contiguous")))
            found.extend(scoring.score_batch(judged, outputs, batch.targets, rows=batch.rows))
    finally:
        set_modes(modes)
        let_go_of_whole_weights(model)
    return scoring.metric_value(opened, found) if found else None
