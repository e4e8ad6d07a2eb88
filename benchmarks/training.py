"""hotlap's training beside Lightning, Accelerate, a plain loop and one tuned by hand, in turn on the same machine.

    python benchmarks/training.py                  every case; one file each in results/training/, or
                                                   training-no-bf16/ where the CPU has no bf16 arithmetic
    python benchmarks/training.py vit mlp          these alone
    python benchmarks/training.py --list           the cases

For each model: `hotlap tune` searches within its budget. Then all loops run in processes of their own and are timed
step by step in turn, loading included, over several restarts: Lightning and Accelerate at their defaults, the plain
loop twice (what a thing against itself shows is the noise), the loop tuned by hand (bf16 autocast where the CPU has
arithmetic for it, channels_last for images, a fused optimizer), `hotlap train` with the workload's own settings, and
with the tuner's. For `score` cases Lightning and hotlap with the tuner's settings train from the start until a score
is reached, with several seeds.
Cases that have a result are kept unless `--again` is given. Exit code 3 where hotlap's loop is shown to cost more
than 2% over the plain one (its whole interval), or its tuned set-up to be behind the one tuned by hand.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import tables
from noise import provenance_of, write

from hotlap.actions.tune import tune
from hotlap.core import Json, Start, to_json
from hotlap.machine import facts
from hotlap.measure import pairs, statistics
from hotlap.measure.worker import Worker
from hotlap.search.setting import start_worker

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "results" / ("training" if facts.facts().has_bf16_dot_product else "training-no-bf16")
"""A CPU without bf16 arithmetic has a table of its own."""
VERSIONS = ("hotlap", "torch", "pytorch-lightning", "accelerate", "numpy", "transformers")
LOAD_SECONDS, REACH_SECONDS = 600.0, 3600.0
WARM_STEPS = 3
ROUNDS, ROUND_SECONDS = 4, 0.3
ALLOWED = 0.02
"""What hotlap's loop may cost over the plain one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One workload. With a `goal`, the score that is to be reached is what is timed, not steps."""

    name: str
    target: str
    goal: float | None = None
    most_epochs: int = 0


MODELS = HERE / "models" / "training.py"
CASES = (
    Case(name="resnet18-64", target=f"{MODELS}:resnet18_64"),
    Case(name="minilm-64", target=f"{MODELS}:minilm_64"),
    Case(name="lstm", target=f"{MODELS}:lstm"),
    Case(name="vit", target=f"{MODELS}:vit"),
    Case(name="mlp", target=f"{MODELS}:mlp"),
    Case(name="minilm-score", target=f"{MODELS}:minilm_score", goal=0.83, most_epochs=8),
    Case(name="digits-score", target=f"{ROOT}/examples/digits_untrained.py", goal=0.97, most_epochs=20),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One loop that is timed; `tuned` is with the tuner's settings."""

    loop: str
    label: str
    tuned: bool = False


SIDES = {
    "lightning": Side(loop="lightning", label="Lightning"),
    "accelerate": Side(loop="accelerate", label="Accelerate"),
    "plain": Side(loop="plain", label="a plain loop"),
    "plain again": Side(loop="plain", label="the plain loop again"),
    "by hand": Side(loop="by hand", label="a loop tuned by hand"),
    "hotlap": Side(loop="hotlap", label="hotlap train"),
    "hotlap tuned": Side(loop="hotlap", label="hotlap train with hotlap tune's settings", tuned=True),
}
COMPARISONS = (
    ("plain", "plain again"),
    ("plain", "hotlap"),
    ("by hand", "hotlap tuned"),
    ("lightning", "hotlap tuned"),
    ("accelerate", "hotlap tuned"),
    ("plain", "hotlap tuned"),
    ("lightning", "by hand"),
)
"""Whose steps are divided by whose: (baseline, candidate)."""


class Bench:
    """Starts the loops of one case."""

    def __init__(self, case: Case, work: Path, threads: int, tuned: Json) -> None:
        self._case, self._work, self._threads, self._tuned = case, work, threads, tuned
        self._count = 0

    def _arguments(self, side: Side) -> dict[str, Any]:
        self._count += 1
        settings = self._tuned if side.tuned else {"threads": self._threads}
        folder = self._work / f"{side.loop.replace(' ', '-')}-{self._count}"
        return {"loop": side.loop, "target": self._case.target, "settings": settings, "folder": str(folder)}

    def start(self, threads: int | None = None) -> Worker:
        return start_worker(threads or self._threads, None, self._work)

    def round_of_turns(self, rounds: int) -> dict[str, list[float]]:
        """Every loop in a fresh process; each one's median ms a step in each round."""
        workers = {name: self.start() for name in SIDES}
        try:
            for name, worker in workers.items():
                # One after the other: each has the machine for itself while it compiles and warms up.
                worker.call("loops:hold", **self._arguments(SIDES[name]), warm=WARM_STEPS, timeout=LOAD_SECONDS)
                worker.pause()
            return pairs.rounds(workers, rounds=rounds, seconds=ROUND_SECONDS, timeout=LOAD_SECONDS)
        finally:
            for worker in workers.values():
                worker.close()

    def reach(self, side: Side, seed: int) -> Json:
        """Train until the case's score is reached, in a fresh process."""
        with self.start() as worker:
            return worker.call(
                "loops:reach",
                **self._arguments(side),
                seed=seed,
                goal=self._case.goal,
                most=self._case.most_epochs,
                timeout=REACH_SECONDS,
            )


def run(case: Case, *, budget: float, threads: int, starts: int) -> Json:
    """Everything about one case, as it goes into its file."""
    began, load = time.monotonic(), os.getloadavg()
    work = ROOT / "runs" / "bench-training" / case.name
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    _say(case, f"hotlap tune searches for {budget:.0f} s")
    found = tune(case.target, out=work / "tuned", budget=budget, threads=threads)
    bench = Bench(case, work, threads, found["settings"])
    timed = _steps(case, bench, starts) if case.goal is None else _scores(case, bench, starts)
    shutil.rmtree(work, ignore_errors=True)
    return {
        "case": case.name,
        "batch": found["batch"],
        "tune": {
            "seconds": found["seconds"],
            "name": found["best"]["name"],
            "settings": found["settings"],
            "speedup": found["best"]["speedup"],
            "bound_by": found["baseline"]["bound_by"],
            "confirmed": found["confirmed"],
        },
        **timed,
        "seconds": time.monotonic() - began,
        **provenance_of(Path(__file__)),
        "load_average_before": load,
        "versions": {name: metadata.version(name) for name in VERSIONS},
        "configuration": {
            "target": str(Path(case.target).relative_to(ROOT)),
            "budget_seconds": budget,
            "threads": threads,
            "starts": starts,
            "rounds": ROUNDS,
            "round_seconds": ROUND_SECONDS,
            "warm_steps": WARM_STEPS,
        },
    }


def _steps(case: Case, bench: Bench, starts: int) -> Json:
    found: list[dict[str, list[float]]] = []
    for number in range(starts):
        _say(case, f"timing all loops in turn, start {number + 1} of {starts}")
        found.append(bench.round_of_turns(ROUNDS))
    gone = [name for name in SIDES if any(len(one.get(name, [])) < ROUNDS for one in found)]
    if gone:
        raise RuntimeError(f"{case.name}: these loops ended by themselves: {', '.join(gone)}")

    def between(baseline: str, candidate: str) -> list[Start]:
        return [Start(baseline_ms=tuple(one[baseline]), candidate_ms=tuple(one[candidate])) for one in found]

    floor = statistics.noise_floor(between("plain", "plain again"))
    return {
        "noise_floor": floor,
        "sides": [
            {
                "name": name,
                "label": side.label,
                "median_ms": statistics.median_ms([one[name] for one in found]),
                "starts_ms": [[float(f"{ms:.5g}") for ms in one[name]] for one in found],
            }
            for name, side in SIDES.items()
        ],
        "comparisons": [_compared(pair, between(*pair), floor) for pair in COMPARISONS],
    }


def _scores(case: Case, bench: Bench, starts: int) -> Json:
    """Lightning and hotlap in turn until the score is reached, each with the same seeds."""
    runs: list[dict[str, Json]] = []
    for seed in range(starts):
        one: dict[str, Json] = {}
        for name in ("lightning", "hotlap tuned")[:: 1 if seed % 2 == 0 else -1]:
            one[name] = bench.reach(SIDES[name], seed)
            _say(case, f"seed {seed}, {SIDES[name].label}: {one[name]['seconds']:.1f} s, {one[name]['scores'][-1]:.4f}")
        runs.append(one)
    missed = [name for one in runs for name, found in one.items() if found["scores"][-1] < (case.goal or 0)]
    if missed:
        raise RuntimeError(f"{case.name}: not reached within {case.most_epochs} epochs: {', '.join(missed)}")
    both = [
        Start(baseline_ms=(1000 * one["lightning"]["seconds"],), candidate_ms=(1000 * one["hotlap tuned"]["seconds"],))
        for one in runs
    ]
    return {
        "goal": case.goal,
        "runs": runs,
        "comparisons": [_compared(("lightning", "hotlap tuned"), both, statistics.noise_floor(_alike()))],
    }


def _alike() -> list[Start]:
    """No pair of the same thing is timed here: only what is usual between two processes counts as noise."""
    return [Start(baseline_ms=(1.0,), candidate_ms=(1.0,))]


def _compared(pair: tuple[str, str], starts: list[Start], floor: float) -> Json:
    interval = statistics.speedup(starts)
    return {
        "baseline": pair[0],
        "candidate": pair[1],
        "speedup": to_json(interval),
        "verdict": statistics.verdict(interval, floor),
        "warning": statistics.spread_warning(starts, baseline=SIDES[pair[0]].label, candidate=SIDES[pair[1]].label),
    }


def compared(found: Json, baseline: str, candidate: str) -> Json | None:
    """The speedup of one pair, or None where the case has it not."""
    pairs_found = found["comparisons"]
    return next((one for one in pairs_found if (one["baseline"], one["candidate"]) == (baseline, candidate)), None)


def shortfalls(found: Json) -> list[str]:
    """Where hotlap came out behind what it promises, in words."""
    loop, hand = compared(found, "plain", "hotlap"), compared(found, "by hand", "hotlap tuned")
    said = []
    if loop is not None and loop["speedup"]["high"] < 1 / (1 + ALLOWED):
        said.append(f"{found['case']}: the loop costs {1 / loop['speedup']['estimate'] - 1:.1%} over the plain one")
    if hand is not None and hand["verdict"] == "slower":
        said.append(f"{found['case']}: the tuned set-up is behind the one tuned by hand")
    return said


def _say(case: Case, what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {case.name}: {what}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE")
    parser.add_argument("--list", action="store_true", help="name the cases and stop")
    parser.add_argument("--again", action="store_true", help="run cases that have a result, too")
    parser.add_argument("--budget", type=float, default=180.0, help="seconds that each search may take")
    parser.add_argument("--starts", type=int, default=6, help="restarts of every loop; seeds where a score is reached")
    parser.add_argument("--threads", type=int, default=facts.facts().cores)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    names = [case.name for case in CASES]
    unknown = sorted(set(given.cases) - set(names))
    if unknown:
        parser.error(f"no case called {unknown[0]}; there are {', '.join(names)}")
    chosen = [case for case in CASES if not given.cases or case.name in given.cases]
    if given.list:
        print("\n".join(case.name for case in chosen))
        return 0
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    behind: list[str] = []
    for case in chosen:
        path = given.out / f"{case.name}.json"
        if path.is_file() and not given.again:
            continue
        found = run(case, budget=given.budget, threads=given.threads, starts=given.starts)
        write(path, found)
        if given.out == RESULTS:
            tables.write_pages(RESULTS.parent)
        for one in found["comparisons"]:
            ratio = one["speedup"]
            _say(
                case,
                f"{SIDES[one['candidate']].label} over {SIDES[one['baseline']].label}: {ratio['estimate']:.3f}x "
                f"({ratio['low']:.3f} to {ratio['high']:.3f}), {one['verdict']}",
            )
        behind += shortfalls(found)
    print("\n".join(behind))
    return 3 if behind else 0


if __name__ == "__main__":
    sys.exit(main())
