"""The tuner's choice against the best of every set-up there is, found by trying them all in the same run.

    python benchmarks/tuner.py                     every case; about an hour; one file each in results/tuner/
    python benchmarks/tuner.py digits --again      one case, also where it has a result

For each workload: `hotlap tune` within its budget; then every combination of the changes that make sense there is timed
in turn with the tuner's choice, whose process is the same for all, one start each; then the fastest few are timed in
turn with it in fresh processes until the question is settled. Exit code 3 where the tuner took longer than its budget
or its choice is more than 3% behind.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from noise import provenance_of, write

from hotlap.actions.train import describe
from hotlap.actions.tune import tune
from hotlap.core import Json, Start, to_json
from hotlap.machine.facts import facts
from hotlap.measure import pairs, statistics
from hotlap.measure.worker import Worker
from hotlap.search.setting import LOAD_SECONDS
from hotlap.training.bench import FAILURES, TIMING, Bench, studied
from hotlap.training.confirming import CONFIRMING
from hotlap.training.set_ups import changes, idle
from hotlap.training.settings import Settings
from hotlap.training.tuner import SCREENING

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "results" / "tuner"
BUDGET_SECONDS = 180.0
BEHIND = 1.03
"""What the best of all may be faster by."""
NEAR = 0.98
"""What is this near to the tuner's choice in one start, or ahead of it, is timed again in fresh processes."""
MOST_AGAIN = 4
BLOCKS = replace(SCREENING, hopeless=1.3)
"""What takes 1.3 times as long as the choice in each of three pairs of blocks is not timed further."""
CASES = {
    "digits": f"{ROOT}/examples/digits_untrained.py",
    "sentiment": f"{ROOT}/examples/sentiment.py",
    "resnet18-64": f"{HERE}/models/untrained.py:resnet18_64",
    "minilm-128": f"{HERE}/models/untrained.py:minilm_128",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One set-up and its speed over the tuner's choice, of one start; `failure` where it could not be timed."""

    settings: Settings
    speedup: float | None = None
    failure: str | None = None


def every(study: Json, baseline: Settings, *, compiler: bool, loading_share: float) -> Iterator[Settings]:
    """All combinations of the changes that make sense; each field with the baseline's value and what it may become."""
    values: dict[str, list[Any]] = {}
    for change in changes(study, baseline, compiler=compiler, loading_share=loading_share):
        if change.reason is None and idle(change, loading_share) is None:
            for name, value in change.settings.items():
                known = values.setdefault(name, [getattr(baseline, name)])
                known += [value] if value not in known else []
    for combination in itertools.product(*values.values()):
        chosen = dict(zip(values, combination, strict=True))
        if chosen.get("length_buckets", 1) > 1 and not chosen["trim"]:
            continue
        settings = replace(baseline, **chosen)
        # Reading ahead is a loader process's.
        if settings.workers or settings.prefetch == baseline.prefetch:
            yield settings


def timed(bench: Bench, ours: Worker, settings: Settings) -> Tried:
    """One start of a set-up in turn with the choice's process."""
    try:
        with bench.hold(settings) as (theirs,):
            start, _ = pairs.measure(ours, theirs, BLOCKS)
    except FAILURES as error:
        if ours.ended or ours.call(f"{TIMING}:failed", timeout=LOAD_SECONDS):
            raise
        return Tried(settings=settings, failure=str(error))
    if len(start.candidate_ms) < BLOCKS.least_pairs:
        return Tried(settings=settings, speedup=max(start.baseline_ms) / min(start.candidate_ms))
    return Tried(settings=settings, speedup=statistics.screening(start).estimate)


def confirmed(bench: Bench, choice: Settings, settings: Settings) -> Json:
    """A set-up in turn with the choice, in fresh processes, until the question is settled."""
    starts: list[Start] = []
    while not starts or not statistics.settled(starts, noise_floor=0.0):
        look = statistics.next_look(starts)
        if look is None:
            break
        while len(starts) < look:
            try:
                with bench.hold(choice, settings) as (ours, theirs):
                    starts.append(pairs.measure(ours, theirs, CONFIRMING)[0])
            except FAILURES as error:
                return {"name": describe(settings), "speedup": None, "failure": str(error), "starts": len(starts)}
    return {"name": describe(settings), "speedup": to_json(statistics.speedup(starts)), "starts": len(starts)}


def run(name: str, *, budget: float, threads: int, most: int | None) -> Json:
    """Everything about one case, as it goes into its file."""
    began, load = time.monotonic(), os.getloadavg()
    work = ROOT / "runs" / "bench-tuner" / name
    shutil.rmtree(work, ignore_errors=True)
    _say(name, f"hotlap tunes for {budget:.0f} s")
    found = tune(CASES[name], out=work / "tuned", budget=budget, threads=threads, device="cpu")
    choice = Settings(**found["settings"])
    baseline = replace(Settings(batch_size=choice.batch_size, epochs=choice.epochs), threads=threads, device="cpu")
    study = studied(CASES[name], baseline, memory_limit=facts().memory_limit, work=work)
    compiler = shutil.which("g++") is not None or shutil.which("clang++") is not None
    bench = Bench(
        target=CASES[name],
        study=study,
        memory_limit=facts().memory_limit,
        work=work,
        deadline=float("inf"),
        compiler=compiler,
        other_batch_sizes=False,
        tell=lambda event: None,
    )
    share = found["baseline"]["loading_share"]
    space = [one for one in every(study, baseline, compiler=compiler, loading_share=share) if one != choice]
    tried = []
    with bench.hold(choice) as (ours,):
        for index, settings in enumerate(space[:most]):
            tried.append(timed(bench, ours, settings))
            what = tried[-1].failure or f"{tried[-1].speedup:.3f}"
            _say(name, f"{index + 1} of {len(space)}: {describe(settings)}: {what}")
    near = sorted((one for one in tried if (one.speedup or 0.0) >= NEAR), key=lambda one: -(one.speedup or 0.0))
    again = []
    for one in near[:MOST_AGAIN]:
        _say(name, f"again, in fresh processes: {describe(one.settings)}")
        again.append(confirmed(bench, choice, one.settings))
    best = max((one["speedup"]["estimate"] for one in again if one["speedup"]), default=1.0)
    return {
        "case": name,
        "choice": describe(choice),
        "speedup_over_own": found["best"]["speedup"],
        "own_ms": found["baseline"]["median_ms"],
        "tuner_seconds": found["seconds"],
        "set_ups": len(space) + 1,
        "tried": [{"name": describe(one.settings), "speedup": one.speedup, "failure": one.failure} for one in tried],
        "again": again,
        "best_over_choice": max(1.0, best),
        "within_3_percent": best <= BEHIND,
        "within_budget": found["seconds"] <= budget,
        "rows": found["candidates"],
        "seconds": time.monotonic() - began,
        "load_average_before": load,
        **provenance_of(Path(__file__)),
        "configuration": {
            "budget_seconds": budget,
            "threads": threads,
            "most": most,
            "screening": to_json(BLOCKS),
            "confirming": to_json(CONFIRMING),
        },
    }


def _say(name: str, what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {name}: {what}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--again", action="store_true", help="run cases that have a result, too")
    parser.add_argument("--budget", type=float, default=BUDGET_SECONDS, help="seconds that each tuning may take")
    parser.add_argument("--threads", type=int, default=facts().cores)
    parser.add_argument("--most", type=int, help="time so many set-ups only; to see that it runs")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    unknown = set(arguments.cases) - set(CASES)
    if unknown:
        parser.error(f"no case {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    passed = True
    for name in arguments.cases or CASES:
        path = arguments.out / f"{name}.json"
        if path.exists() and not arguments.again:
            continue
        found = run(name, budget=arguments.budget, threads=arguments.threads, most=arguments.most)
        write(path, found)
        passed &= found["within_3_percent"] and found["within_budget"]
        _say(
            name,
            f"took {found['tuner_seconds']:.0f} s; the best of {found['set_ups']} is {found['best_over_choice']:.3f}x",
        )
    return 0 if passed else 3


if __name__ == "__main__":
    sys.exit(main())
