"""`optimize`: studies the workload, searches, confirms, and hands over an artifact with its evidence."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hotlap import gate, runtimes
from hotlap.actions import begin
from hotlap.actions.finish import finish
from hotlap.artifact.keys import own_key
from hotlap.artifact.sign import read_key
from hotlap.core import Json, Signature
from hotlap.errors import CandidateFailed, InputError
from hotlap.machine.facts import Machine, facts
from hotlap.machine.limits import Limits, limits
from hotlap.measure import pairs, statistics
from hotlap.measure.required import required
from hotlap.measure.worker import Worker
from hotlap.report.schema import read_result
from hotlap.search import noise, space
from hotlap.search.folder import RunFolder, check_keeps
from hotlap.search.journal import Journal
from hotlap.search.run import search
from hotlap.search.setting import Objective, Setting, start_worker
from hotlap.techniques import ModelFacts
from hotlap.workload.target import target_of, weights_of
from hotlap.workload.workload import Workload

_WORK = "hotlap.search.work"
_BATCHES: dict[Objective, int] = {"latency": 1, "throughput": 16, "size": 1}
_MOST_EXAMPLES = 1_000_000
_LEAST_CALLS = pairs.SCREENING.least_pairs + statistics.LOOKS.at[0] * pairs.LONGER.least_pairs
_PROFILE_SHARE, _LEAST_PROFILE_SHARE, _LEAST_PROFILE_SECONDS = 0.4, 0.25, 60.0
"""A profile may take this share of the time left, and in any case the second of the whole budget, up to so many
seconds; it only spares tries, so the search goes on without."""


def optimize(
    target: str | Path | Workload,
    *,
    out: str | Path,
    objective: Objective = "latency",
    batch: int | None = None,
    max_drop: float | str | None = None,
    budget: float = 300.0,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    threads: int | None = None,
    seed: int = 0,
    device: Literal["cpu", "cuda"] | None = None,
    resume: bool = False,
    force: bool = False,
    sign: Path | None = None,
    expires: timedelta | None = None,
    max_evaluation_examples: int = _MOST_EXAMPLES,
    progress: Callable[[Json], None] | None = None,
) -> Json:
    """Find the fastest form of the target's model that keeps its accuracy; give the content of `result.json`.

    target: a Workload, FILE.py, FILE.py:NAME or package.module:NAME. out: the folder for all that is written.
    batch: rows in the measured call (default 1; 16 for throughput). max_drop: absolute, or "1%" of the score.
    budget: seconds. only, skip: techniques, runtimes or precisions. sign: an Ed25519 key. progress: called with
    events for a display. Raises InputError for what the user can mend; nothing half-written is left.
    """
    began = time.monotonic()
    tell = progress or (lambda event: None)
    _check_names(only, skip)
    gate.tolerance(max_drop, None)  # one that can't be understood is told before any work
    machine = facts()
    where = machine.device(device)
    settings: dict[str, Any] = {
        "target": target_of(target),
        "objective": objective,
        "batch": batch or _BATCHES[objective],
        "max_drop": max_drop,
        "threads": threads or machine.cores,
        "device": where,
        "seed": seed,
        "only": sorted(only),
        "skip": sorted(skip),
    }
    # What would only fail once the artifact is written is tried before any work.
    own_key(create=True)
    if sign is not None:
        read_key(sign)
    if force:
        check_keeps(Path(out), weights_of(settings["target"]))
    with RunFolder(Path(out), resume=resume, force=force) as folder:
        if resume and (folder.path / "result.json").exists():
            return read_result(folder.path / "result.json")
        journal = Journal(folder.path / "journal.jsonl")
        try:
            with start_worker(settings["threads"], machine.memory_limit, folder.work) as student:
                tell({"event": "phase", "phase": "opening the workload"})
                study = begin.study_of(student, settings, folder.work, budget, max_evaluation_examples)
                begun = begin.same_run(journal, settings, study["digest"])
                study = begin.with_scores(student, study, settings, folder.work, budget, begun)
                allowed = begin.allowed_drop(study, max_drop)  # before the folder counts as begun
                student.pause()
                begin.note(journal, settings, study)
                tell({"event": "phase", "phase": "measuring the machine's limits"})
                with required("the machine's limits can't be measured", longer="try again when the machine is quiet"):
                    limit = limits(machine, device=where, threads=settings["threads"])
                setting = _setting(settings, study, folder.work, machine, began + budget, allowed, tell)
                setting = _with_profile(setting, student, limit, budget)
            setting, baseline = _with_noise(setting)
            candidates = _space(setting, machine, study, only, skip)
            tell({"event": "space", "candidates": len(candidates.candidates), "budget": budget})
            outcome = search(setting, candidates, journal, baseline, budget=budget)
            result = finish(
                setting,
                outcome,
                candidates,
                folder=folder.path,
                machine=machine,
                limits=limit,
                began=began,
                budget=budget,
                sign=sign,
                expires=expires,
            )
            journal.append("end", best=result["best"]["name"])
        finally:
            journal.close()
        shutil.rmtree(folder.work, ignore_errors=True)
    tell({"event": "end"})
    return result


def _check_names(only: Sequence[str], skip: Sequence[str]) -> None:
    for flag, given in (("--only", only), ("--skip", skip)):
        unknown = [name for name in given if name not in space.names()]
        if unknown:
            known = ", ".join(space.names())
            raise InputError(f"{flag} {unknown[0]}: no such technique, runtime or precision; there are {known}")


def _setting(
    settings: Json,
    study: Json,
    work: Path,
    machine: Machine,
    deadline: float,
    max_drop: float | None,
    tell: Callable[[Json], None],
) -> Setting:
    return Setting(
        target=settings["target"],
        objective=settings["objective"],
        batch=settings["batch"],
        threads=settings["threads"],
        device=settings["device"],
        seed=settings["seed"],
        work=work,
        signature=Signature.from_json(study["signature"]),
        signature_json=study["signature"],
        arrays=study["arrays"],
        study=study,
        max_drop=max_drop,
        noise_floor=0.0,
        memory_limit=machine.memory_limit,
        deadline=deadline,
        progress=tell,
    )


def _with_profile(setting: Setting, student: Worker, limit: Limits, budget: float) -> Setting:
    """Where the time goes, before anything is changed, and the least time each number format could take.

    A profile that takes too long or fails is a warning: without it no candidate is left out for its format's bound.
    """
    setting.progress({"event": "phase", "phase": "profiling the original"})
    try:
        found = student.call(
            f"{_WORK}.opening:profile",
            target=setting.target,
            batch=setting.batch,
            threads=setting.threads,
            limits=limit.to_json(),
            device=setting.device,
            timeout=max(
                min(_LEAST_PROFILE_SECONDS, _LEAST_PROFILE_SHARE * budget), _PROFILE_SHARE * setting.seconds_left
            ),
        )
    except CandidateFailed as error:
        told = f"the original was not profiled: {error}; the search goes on without, and `hotlap profile` has more time"
        study = {**setting.study, "profile": {}, "warnings": [*setting.study["warnings"], told]}
        return replace(setting, study=study, rates=limit.rates)
    return replace(setting, study={**setting.study, "profile": found}, bounds_ms=found["bounds_ms"], rates=limit.rates)


def _with_noise(setting: Setting) -> tuple[Setting, Worker]:
    """The noise floor, and the process that the search goes on with as its baseline.

    One pair is enough: what is usual counts as four more (measure/statistics.py).
    """
    setting.progress({"event": "phase", "phase": "timing the original against itself"})
    began = time.monotonic()
    with required("the original can't be timed"), ExitStack() as stack:
        baseline, other = setting.loaded(setting.original, setting.original)
        stack.callback(other.close)
        held = stack.enter_context(ExitStack())
        held.callback(baseline.close)
        found = noise.against_itself([baseline, other])
        start_seconds = time.monotonic() - began
        peak = baseline.call(f"{_WORK}.holding:peak_memory", timeout=60.0)
        held.pop_all()
    baseline_ms = float(np.median(found[0].baseline_ms))
    study = {
        **setting.study,
        "warnings": [*setting.study["warnings"], *_too_slow(baseline_ms / 1000, setting.seconds_left)],
        "baseline_ms": baseline_ms,
        "peak_memory_bytes": peak,
        "start_seconds": start_seconds,
    }
    return replace(setting, study=study, noise_floor=noise.floor(found)), baseline


def _too_slow(call_seconds: float, seconds_left: float) -> list[str]:
    """What to say where not even one candidate can be tried and confirmed within the budget."""
    least = _LEAST_CALLS * call_seconds
    if least <= seconds_left:
        return []
    return [
        f"{seconds_left:.0f} s of the budget were left once the original was loaded and timed, and to try and confirm "
        f"one candidate takes at least {_LEAST_CALLS} calls of {call_seconds:.2g} s: this run takes longer than its "
        "budget; give more --budget, or a smaller --batch"
    ]


def _space(setting: Setting, machine: Machine, study: Json, only: Sequence[str], skip: Sequence[str]) -> space.Space:
    model = ModelFacts(
        layers=study["layers"],
        input_ranks=tuple(study["ranks"]),
        device=setting.device,
        has_calibration=study["calibration_missing"] is None,
        calibration_missing=study["calibration_missing"] or "",
        int8_overflows=setting.device == "cpu" and machine.int8_overflows,
    )
    return space.build_space(
        model,
        threads=setting.threads,
        fixed_axes=study["sizes"],
        unavailable=_unavailable(setting),
        baseline_ms=setting.study["baseline_ms"],
        streams=setting.objective == "throughput",
        only=only,
        skip=skip,
    )


def _unavailable(setting: Setting) -> dict[str, str | None]:
    """Asked in a process of its own, and one each where that dies: a broken install may crash as it is imported."""

    def ask(names: list[str]) -> dict[str, str | None]:
        with setting.worker() as worker:
            return {
                name: worker.call(f"{_WORK}.holding:unavailable", runtime=name, device=setting.device, timeout=120.0)
                for name in names
            }

    try:
        return ask(list(runtimes.RUNTIMES))
    except CandidateFailed:
        answers: dict[str, str | None] = {}
        for name in runtimes.RUNTIMES:
            try:
                answers |= ask([name])
            except CandidateFailed as error:
                answers[name] = f"asking it ended the process: {error}"
        return answers
