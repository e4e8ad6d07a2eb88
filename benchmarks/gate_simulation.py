"""Does the gate keep its word? The whole procedure, simulated: 50 candidates, selection, confirmation, three tries.

    python benchmarks/gate_simulation.py                about 3 minutes; writes benchmarks/results/gate_simulation.json
    python benchmarks/gate_simulation.py --trials 200   a small run

What is simulated is in procedure.py. A candidate that loses more than allowed may be let through in 5 of 100 trials at
most, in the least favourable case too, where all 50 lose a little more than allowed and those that look best are
confirmed. How often a good candidate is refused is the price; it is measured as well. Exit code 3 where the word is not
kept.

The simulation's own teeth: the same procedure with one part taken out (no confirmation, errors not shared, a normal or
a bootstrapped interval) must break the word, or the simulation would not notice.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from procedure import (
    A_LITTLE_MORE,
    ALLOWED_ERROR,
    CANDIDATES,
    FEW,
    LEAST_FAVOURABLE,
    MIXED,
    MOST_SPEED,
    NOISE,
    SELECTION,
    Case,
    Judge,
    Outcome,
    Procedure,
    bootstrap_upper,
    flips_of,
    gate_upper,
    keeps_its_word,
    normal_upper,
    scores_of,
    simulate,
)

import hotlap
from hotlap import gate
from hotlap.core import Json
from hotlap.gate.drop import Scale
from hotlap.gate.slices import scored_slices, worst_of
from hotlap.machine import facts

HERE = Path(__file__).resolve().parent
SLICE_GAINS = 0.0025


def slices_refused(drops: Sequence[float], *, each: int, max_drop: float, trials: int, seed: int) -> float:
    """The share of trials in which some slice refuses. `drops`: the true drop of each slice of `each` examples."""
    random = np.random.default_rng(seed)
    labels = [f"class {index}" for index in range(len(drops)) for _ in range(each)]
    scale = Scale(largest=1.0, binary=True)
    refused = 0
    for _ in range(trials):
        lost = random.binomial(each, np.asarray(drops) + SLICE_GAINS)
        gained = random.binomial(each - lost, SLICE_GAINS)
        pairs = [scores_of(int(b), int(c), each) for b, c in zip(lost, gained, strict=True)]
        original, candidate = (np.concatenate(side) for side in zip(*pairs, strict=True))
        worst = worst_of(scored_slices(original, candidate, labels, scale, 1 - ALLOWED_ERROR))
        refused += worst is not None and worst.at_least > max_drop
    return refused / trials


CASES = [
    Case(scores="flips", examples=20, max_drop=0.3),
    Case(scores="flips", examples=100, max_drop=0.06),
    Case(scores="flips", examples=500, max_drop=0.01),
    Case(scores="flips", examples=500, max_drop=0.02, flips=3),
    Case(scores="flips", examples=1500, max_drop=0.01),
    Case(scores="flips", examples=5000, max_drop=0.01),
    Case(scores="flips", examples=5000, max_drop=0.01, flips=5),
    Case(scores="large", examples=20, max_drop=0.3),
    Case(scores="large", examples=100, max_drop=0.06),
    Case(scores="large", examples=500, max_drop=0.02),
    Case(scores="any", examples=500, max_drop=0.02),
    Case(scores="large", examples=5000, max_drop=0.01),
    Case(scores="any", examples=5000, max_drop=0.01),
]


def run(trials: int) -> Json:
    """Everything, as JSON."""
    cases: list[Json] = []
    for case in CASES:
        # Real scores take a limit each; counts repeat themselves.
        count = trials if case.scores == "flips" else max(trials // 5, 100)
        for name, drops, line in (
            ("least favourable", LEAST_FAVOURABLE, "flattered"),
            ("mixed", MIXED, "expected"),
            ("mixed, likely first", MIXED, "likely"),
            ("mixed, fastest first", MIXED, "fastest"),
            ("few", FEW, "expected"),
            ("few, likely first", FEW, "likely"),
        ):
            outcome = simulate(case, drops, Procedure(upper=gate_upper, line=line), trials=count, seed=len(cases))
            cases.append({"case": asdict(case), "candidates": name, **_figures(outcome)})
            print(json.dumps(cases[-1]), flush=True)
    return {
        "cases": cases,
        "all_trials": sum(one["trials"] for one in cases),
        "all_wrong": sum(one["wrong"] for one in cases),
        "without_a_part": without_a_part(max(trials // 5, 200)),
        "first_try_passes": first_tries(trials),
        "slices": slices(max(trials // 20, 20)),
    }


WITHOUT_A_PART = {
    "no confirmation": (
        Case(scores="flips", examples=1500, max_drop=0.01),
        Procedure(upper=gate_upper, line="flattered", confidences=(0.95,), confirming=False),
    ),
    "three tries at 95% each": (
        Case(scores="flips", examples=1500, max_drop=0.01, flips=3),
        Procedure(upper=gate_upper, line="flattered", confidences=(0.95,) * 3),
    ),
    "a normal interval": (
        Case(scores="flips", examples=500, max_drop=0.01),
        Procedure(upper=normal_upper, line="flattered"),
    ),
    "a bootstrapped interval": (
        Case(scores="flips", examples=500, max_drop=0.01),
        Procedure(upper=bootstrap_upper, line="flattered"),
    ),
    "a normal interval, real scores": (
        Case(scores="large", examples=500, max_drop=0.02),
        Procedure(upper=normal_upper, line="flattered"),
    ),
}


def without_a_part(trials: int) -> Json:
    """The least favourable case with one part of the procedure taken out."""
    return {
        name: _figures(simulate(case, LEAST_FAVOURABLE, procedure, trials=trials, seed=7))
        for name, (case, procedure) in WITHOUT_A_PART.items()
    }


def first_tries(trials: int) -> Json:
    """How often a first try passes at an allowed drop of 0.01, by what it loses and how many flip: the price."""
    found = []
    confidence = gate.confirmation_confidences()[0]
    for examples in (350, 700, 1000, 3500, 7000):
        judge = Judge(gate_upper, examples, 0.01, confidence)
        for drop, flips in ((0.0, 0.002), (0.0, 0.01), (0.0, 0.03), (0.003, 0.01), (0.003, 0.03), (0.006, 0.03)):
            case = Case(scores="flips", examples=examples, max_drop=0.01, flips=flips / 0.01)
            drawn = flips_of(case, np.full((trials, 1), drop), examples, np.random.default_rng(0))
            counts = zip(drawn.lost[:, 0].tolist(), drawn.gained[:, 0].tolist(), strict=True)
            passed = float(np.mean([judge.passes(lost, gained) for lost, gained in counts]))
            found.append({"confirmation": examples, "drop": drop, "flips": flips, "passes": passed})
    return found


def slices(trials: int) -> Json:
    """How often one of 10 slices refuses, where none loses more than 0.01 and where one loses more."""
    found = []
    for each in (35, 350):
        for name, drops in [
            ("all lose 0.01", [0.01] * 10),
            *((f"one loses {broken}, the others nothing", [0.0] * 9 + [broken]) for broken in (0.03, 0.05, 0.1, 0.2)),
        ]:
            share = slices_refused(drops, each=each, max_drop=0.01, trials=trials, seed=each)
            found.append({"slices": name, "each": each, "refused": share})
    return found


def _figures(outcome: Outcome) -> Json:
    return {**asdict(outcome), "wrong_share": outcome.wrong / outcome.trials, "holds": keeps_its_word(outcome)}


def provenance() -> Json:
    """What a figure needs beside it to be worth anything."""
    git = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--abbrev=40"]
    return {
        "command": shlex.join(["python", f"benchmarks/{Path(__file__).name}", *sys.argv[1:]]),
        "commit": subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or None,
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": facts.facts().to_json(),
        "versions": {"hotlap": hotlap.__version__, "numpy": np.__version__, "python": platform.python_version()},
        "configuration": {
            "candidates": CANDIDATES,
            "selection": SELECTION,
            "confidences": gate.confirmation_confidences(),
            "least_favourable": A_LITTLE_MORE,
            "mixed": MIXED.tolist(),
            "few": FEW.tolist(),
            "most_speed": MOST_SPEED,
            "noise": NOISE,
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=5000, help="trials of each case of 0/1 scores")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gate_simulation.json")
    arguments = parser.parse_args()
    began = time.monotonic()
    found = {**provenance(), **run(arguments.trials), "seconds": round(time.monotonic() - began, 1)}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    aside = arguments.out.with_suffix(".part")
    aside.write_text(json.dumps(found, indent=1) + "\n")
    aside.replace(arguments.out)
    kept = all(one["holds"] for one in found["cases"])
    noticed = not any(one["holds"] for one in found["without_a_part"].values())
    parts = ", ".join(f"{name} {one['wrong_share']:.1%}" for name, one in found["without_a_part"].items())
    print(f"{found['all_wrong']:,} of {found['all_trials']:,} let through; without a part: {parts}")
    return 0 if kept and noticed else 3


if __name__ == "__main__":
    sys.exit(main())
