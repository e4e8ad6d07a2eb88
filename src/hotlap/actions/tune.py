"""`tune`: finds the fastest set-up that trains as the workload's own does, and writes it down for any loop."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from hotlap.actions.train import describe
from hotlap.core import Device, Interval, Json, to_json
from hotlap.errors import InputError
from hotlap.machine.facts import Machine, facts
from hotlap.report.make import write_report
from hotlap.report.schema import write_result
from hotlap.report.snippets import snippets
from hotlap.search.folder import RunFolder, check_keeps
from hotlap.training.bench import Bench, studied
from hotlap.training.confirming import Found, Unconfirmed, give_up, medians, settle
from hotlap.training.processes import started
from hotlap.training.proof_details import details
from hotlap.training.proof_trial import BUDGET_SECONDS, Kind, Plan, Side, Trial, judge_in_turn
from hotlap.training.set_ups import DATA_BOUND, proposal, to_prove
from hotlap.training.settings import (
    OF_THE_TRAINING,
    Settings,
    check_early_stop,
    own_settings,
    settings_for,
    write_settings,
)
from hotlap.training.stopping import Stop
from hotlap.training.trimming import least_length
from hotlap.training.tuner import BUDGET_SPENT
from hotlap.training.tuner import tune as search
from hotlap.workload.target import Loaded, load_target, target_of
from hotlap.workload.workload import Workload

KINDS = (*BUDGET_SECONDS, "none")
_RESERVE = 0.03
"""Of the budget: for what a step takes longer than foreseen, and for writing."""
_SAME = Interval(estimate=1.0, low=1.0, high=1.0)


def tune(
    target: str | Path | Workload,
    *,
    out: str | Path,
    settings: Mapping[str, Json] | None = None,
    budget: float = 180.0,
    max_memory: int | None = None,
    other_batch_sizes: bool = False,
    threads: int | None = None,
    seed: int = 0,
    device: Device | None = None,
    prove: Kind | Literal["none"] = "none",
    prove_budget: float | None = None,
    prove_margin: float | None = None,
    force: bool = False,
    progress: Callable[[Json], None] | None = None,
) -> Json:
    """Find the fastest training set-up of the same batch size; give the content of `result.json`.

    target: a Workload, FILE.py, FILE.py:NAME or package.module:NAME. out: the folder for settings.json, result.json
    and report.html. settings: what is learnt, where that is other than the workload says or more: the fields of
    OF_THE_TRAINING. budget: seconds for the search. max_memory: bytes that a training process may hold.
    other_batch_sizes: try larger effective batches too, which change the result; what to do about the learning rate
    is proposed.

    prove: "short" compares the loss of short trainings over at least five seeds, "full" the final score of whole
    ones; what is not shown to be as good is not handed over. prove_budget: seconds for that, for each set-up judged;
    default: proof_trial.BUDGET_SECONDS. prove_margin: what counts as worse: a share of the loss (default 0.05), or of
    the score's unit (0.01, where scores lie from 0 to 1). Both are above 0.

    Raises InputError for what the user can mend, Refusal where no set-up of the same result fits the memory.
    """
    began = time.monotonic()
    tell = progress or (lambda event: None)
    if started() > 1:
        raise InputError("tune times one process, and torchrun started several; start it without torchrun")
    if prove not in KINDS:
        raise InputError(f"prove is {prove!r}; give one of {', '.join(KINDS)}")
    for name, value in (("prove_budget", prove_budget), ("prove_margin", prove_margin)):
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"{name} is {value}; give a number above 0, or leave it out")
    machine = facts()
    where = machine.device(device)
    named = target_of(target)
    loaded = load_target(named)
    count = machine.cores if threads is None else threads
    if force:
        check_keeps(Path(out), loaded.weights)
    chosen = _of_the_training(settings or {})
    usual = settings_for(loaded.workload, {**chosen, "threads": count, "seed": seed, "device": where})
    check_early_stop(loaded.workload, usual)
    stop = Stop()
    with (
        stop.heeded(),
        RunFolder(Path(out), resume=None, force=force, begun="settings.json", keeps_work=False) as folder,
        ExitStack() as last,
    ):
        last.callback(stop.over)  # What is tidied up then is left in peace.
        # On CUDA what training may hold is the device's memory, and a process is held to the host's.
        limit = max_memory if max_memory and where == "cpu" else machine.memory_limit
        tell({"event": "phase", "phase": "opening the workload"})
        study = studied(named, usual, memory_limit=limit, work=folder.work)
        bench = Bench(
            target=named,
            study=study,
            memory_limit=limit,
            timing_limit=min(limit, machine.memory_limit // 2),
            peak_limit=limit if where == "cpu" else max_memory,
            work=folder.work,
            deadline=began + (1 - _RESERVE) * budget,
            compiler=shutil.which("g++") is not None or shutil.which("clang++") is not None,
            other_batch_sizes=other_batch_sizes,
            tell=tell,
        )
        # What a person chose stays, also where the file says the same today.
        own = {name: value for name, value in own_settings(loaded.workload).items() if name not in chosen}
        kept = partial(_kept, folder.path, loaded, named, study, threads is not None, own)
        try:
            found = search(bench, usual)
        except Unconfirmed as stopped:
            kept(stopped.found, _result(stopped.found, study, machine, began, None))
            raise
        # Kept before it is proven, which may take an hour and be interrupted: until then the proof is pending.
        result = kept(found, _result(found, study, machine, began, None))
        if prove != "none" and found.best != found.baseline:
            plan = Plan(
                kind=prove,
                seconds=BUDGET_SECONDS[prove] if prove_budget is None else prove_budget,
                margin=prove_margin,
                seed=seed,
                all_examples=_all_examples(found, study, prove),
                memory_limit=limit,
                work=folder.work,
                tell=tell,
                side_by_side=where != "cpu" or _bytes_of_both(bench, found) <= machine.memory_limit,
            )

            def keep(found: Found, proven: Json) -> Json:
                return kept(found, _result(found, study, machine, began, proven))

            result = keep(*_proven(bench, found, plan, keep))
    tell({"event": "end"})
    return result


def _of_the_training(settings: Mapping[str, Json]) -> Mapping[str, Json]:
    """Raises InputError for a setting that is the search's own to choose, or an option."""
    if not isinstance(settings, Mapping):
        raise InputError("settings: give them by name, as in {'clip': 1.0}")
    for name in settings:
        if name in ("threads", "seed", "device"):
            raise InputError(f"settings: {name} has an option of its own; give --{name}")
        if name not in OF_THE_TRAINING and name in Settings.__dataclass_fields__:
            raise InputError(
                f"settings: {name} is tune's to choose, or for hotlap train; tune takes what is learnt: "
                f"{', '.join(OF_THE_TRAINING)}"
            )
    return settings


def _kept(
    folder: Path, loaded: Loaded, target: str, study: Json, threads_chosen: bool, own: Json, found: Found, result: Json
) -> Json:
    """Write settings.json, result.json and report.html; gives the result."""
    code = snippets(
        found.best.to_json(),
        own_batches="micro_batch" in study["locked"],
        weighted=loaded.workload.loss_weight is not None,
        least_length=least_length(loaded.workload),
        own_optimizer=loaded.workload.optimizer is not None,
        proposal=result["proposal"],
    )
    write_settings(
        folder / "settings.json",
        found.best,
        target=target,
        digest=study["digest"],
        own=own,
        threads_chosen=threads_chosen,
        snippets=code,
    )
    write_result(folder / "result.json", result)
    write_report(folder / "result.json")
    return result


def _bytes_of_both(bench: Bench, found: Found) -> int:
    """What two processes hold on the epoch's largest batch, of the own set-up and of any that may be judged."""
    return 2 * max(bench.peak(one).bytes for one in (found.baseline, found.best))


def _all_examples(found: Found, study: Json, kind: Kind) -> int | None:
    """Of a whole training: a sampler of the user's own may draw fewer or more of them than the Dataset has. None where
    that is not known before."""
    steps: int | None = study["steps"]
    if steps is None or (kind == "full" and found.baseline.early_stop is not None):
        return None
    rows_a_step: float = found.baseline_held["rows_a_step"]
    return round(steps * found.baseline.epochs * rows_a_step)


def _proven(bench: Bench, found: Found, plan: Plan, keep: Callable[[Found, Json], Json]) -> tuple[Found, Json]:
    """Judge what is faster by what it learns; fall back to what passes and is still confirmed as faster, or to none.

    Gives what is left, and the details of the proof. What did not pass is given up with `keep` at once: the next trial
    may take an hour, and be interrupted.
    """
    baseline_ms, best_ms = medians(found.starts)

    def side(settings: Settings, ms: float) -> Side:
        return Side(
            name=describe(settings, beside=found.baseline),
            target=bench.target,
            settings=settings,
            ms=ms,
            rows_a_step=found.baseline_held["rows_a_step"],
        )

    def after(trials: Sequence[Trial]) -> None:
        if not trials[-1].passed:
            keep(_refused(found, trials[-1]), details(trials, plan, own))

    own = side(found.baseline, baseline_ms)
    tuned = [side(settings, best_ms) for settings in to_prove(found.baseline, found.best)]
    trials = judge_in_turn(own, tuned, plan, after)
    last = trials[-1]
    if not last.passed:
        found = _refused(found, last)
    elif last.settings != found.best:
        reason = f"{trials[0].name}: {trials[0].reason}"
        settled = settle(bench, found, last.settings)
        alone = settled.best == last.settings
        why = reason if alone else f"{reason}; and without its number format {settled.dropped_because}"
        found = replace(settled, dropped_because=why)
    return found, details(trials, plan, own)


def _refused(found: Found, trial: Trial) -> Found:
    return give_up(found, f"{trial.name}: {trial.reason}")


def _result(found: Found, study: Json, machine: Machine, began: float, proven: Json | None) -> Json:
    faster = found.best != found.baseline
    # A DataLoader of the user's has a batch size of its own.
    own_batches = "batch_size" in study["locked"]
    most = study.get("examples") or found.best.batch_size
    rows = round(found.best_held["rows_a_step"]) if own_batches else min(found.best.batch_size, most)
    baseline_ms, best_ms = medians(found.starts) if found.starts else (found.baseline_ms, found.baseline_ms)
    return {
        "schema": 1,
        "kind": "tune",
        "workload": study["name"],
        "device": found.best.device,
        "batch": rows,
        "machine": machine.to_json(),
        "noise_floor": found.noise_floor,
        "baseline": _figures(found, found.baseline, baseline_ms, found.baseline_held, study),
        "best": {
            **_figures(found, found.best, best_ms, found.best_held, study),
            "speedup": to_json(found.speedup or _SAME),
        },
        "confirmed": faster,
        "locked": study["locked"],
        "trimming": study["trim"],
        "at_once": study["at_once"],
        "kernels": study["kernels"],
        "length_buckets": study["length_buckets"],
        "proposal": proposal(found.baseline, found.best, study["optimizer"]),
        "proof": proven["kind"] if proven and proven["judged"] else "pending",
        "proof_details": proven,
        "candidates": found.outcomes(),
        # What is several changes at once stands beside these; passes by length take trimming with them.
        "left_untried": [
            row["name"]
            for row in found.rows
            if row.get("reason") == BUDGET_SPENT and len({*row["settings"]} - {"trim"}) <= 1
        ],
        "settings": found.best.to_json(),
        "starts": [to_json(start) for start in found.starts],
        "warnings": [*machine.not_used(found.best.device), *study["warnings"], *found.warnings],
        "seconds": time.monotonic() - began,
    }


def _figures(found: Found, settings: Settings, median_ms: float, held: Json, study: Json) -> dict[str, Any]:
    """median_ms: of as many examples as a step of the baseline has."""
    share = held["loading_share"]
    return {
        "name": describe(settings, beside=found.baseline),
        "precision": settings.precision,
        "threads": settings.threads,
        "median_ms": median_ms * settings.batch_size / found.baseline.batch_size,
        "peak_memory_bytes": held["peak_memory_bytes"],
        "parameters": study["parameters"],
        "loading_share": share,
        "bound_by": "data loading" if share > DATA_BOUND else "compute",
    }
