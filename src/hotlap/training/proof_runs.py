"""One training of a proof, in a process of its own: what `proof_trial` calls there."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hotlap.core import Json
from hotlap.errors import TrainingStopped
from hotlap.training import preparing, validation
from hotlap.training.making import look_at_casts, make_parts
from hotlap.training.processes import Processes
from hotlap.training.records import CHARTS
from hotlap.training.run import train_model
from hotlap.training.schedule import rate_factor
from hotlap.training.settings import Settings
from hotlap.training.stepping import NotFinite
from hotlap.workload.opened import Opened, open_workload
from hotlap.workload.target import load_target

_NEEDS = ("training", "loss")


def short(state: dict[str, Any], *, target: str, settings: Json, seed: int, examples: int) -> Json:
    """Train from the first weights on `examples` examples; the loss of each step and how many examples it had.

    It goes through the whole schedule of the learning rate, so much faster. Losses (float64 [steps]) are those of each
    batch before the weights have learnt from it. A run that diverges ends with an infinite one. `seconds` is without
    making the model.
    """
    chosen = replace(Settings(**settings), seed=seed)
    opened = _opened(state, target, chosen)
    parts = make_parts(opened, chosen, Path(), Processes(chosen.device), _nobody)
    look_at_casts(parts)
    if chosen.compile:
        # A compiled form keeps what it was compiled for; each seed has a model of its own.
        import torch

        torch._dynamo.reset()
    preparing.compile_model(parts.model, chosen)
    windows = parts.source.windows
    steps = windows * chosen.epochs if windows is not None else None
    losses, counts = list[float](), list[int]()
    began = time.monotonic()
    try:
        for epoch in range(chosen.epochs):
            for window in parts.source.epoch(epoch, 0):
                place = len(losses) if steps is None else int(steps * min(1.0, sum(counts) / examples))
                factor = rate_factor(chosen.schedule, place, steps=steps, warmup=chosen.warmup)
                preparing.set_rate(parts.optimizer, factor)
                weight = sum(one.weight for one in window.micro_batches)
                if not weight:
                    continue
                counts.append(window.rows)
                losses.append(parts.stepper.step(window, weight).loss)
                if sum(counts) >= examples:
                    return _curve(losses, counts, began)
    except NotFinite:
        return _curve([*losses, float("inf")], counts, began)
    finally:
        parts.source.close()
    return _curve(losses, counts, began)


def full(state: dict[str, Any], *, target: str, settings: Json, seed: int, folder: str) -> Json:
    """Train to the end. The score after each epoch, and the seconds of training until then; the loss as in `short`.

    `score` is on examples that chose nothing, `scored` of them; None where the workload has no evaluation, or the run
    diverged. `score_before` is that of the first weights on the same examples. Raises LoaderDied.
    """
    chosen = replace(Settings(**settings), seed=seed)
    scored = validation.count_scored(_opened(state, target, chosen), chosen)
    os.environ[CHARTS] = "none"  # They are kept for a judgement only.
    lines: list[Json] = []
    try:
        trained = train_model(
            load_target(target), chosen, _fresh(folder), Processes(chosen.device), resume=False, tell=lines.append
        )
    except TrainingStopped:
        nothing: Json = {"score": None, "score_before": None, "scores": [], "score_seconds": [], "scored": scored}
        return {**nothing, **_of_lines(lines, diverged=True)}
    scores, seconds, spent = list[float](), list[float](), 0.0
    for line in lines:
        if line["event"] == "step":
            spent += line["ms"] / 1000
        elif line["event"] == "score":
            scores.append(line["score"])
            seconds.append(spent)
    return {
        "score": trained.score,
        "score_before": trained.score_before,
        "scores": scores,
        "score_seconds": seconds,
        "scored": scored,
        **_of_lines(lines, diverged=False),
    }


def _opened(state: dict[str, Any], target: str, settings: Settings) -> Opened:
    if "opened" not in state:
        import torch

        torch.set_num_threads(settings.threads)
        state["opened"] = open_workload(load_target(target), needs=_NEEDS, command="tune")
    opened: Opened = state["opened"]
    return opened


def _of_lines(lines: list[Json], *, diverged: bool) -> Json:
    steps = [line for line in lines if line["event"] == "step" and line["loss"] is not None]
    losses, counts = [line["loss"] for line in steps], [line["examples"] for line in steps]
    if diverged:
        losses, counts = [*losses, float("inf")], [*counts, 1]
    seconds = sum(line["ms"] for line in steps) / 1000
    return {"losses": np.asarray(losses, np.float64), "examples": np.asarray(counts, np.int64), "seconds": seconds}


def _curve(losses: list[float], counts: list[int], began: float) -> Json:
    return {
        "losses": np.asarray(losses, np.float64),
        "examples": np.asarray(counts, np.int64),
        "seconds": time.monotonic() - began,
    }


def _fresh(folder: str) -> Path:
    path = Path(folder)
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def _nobody(event: Json) -> None:
    """Nobody watches."""
