"""hotlap against what people use today, each at its defaults, side by side on the same machine in the same hour.

    python benchmarks/optimize.py                      every case; several hours; one file each in results/optimize/
    python benchmarks/optimize.py resnet18-64 vit-b16  these alone: a model, or a model at one batch size
    python benchmarks/optimize.py --list               the cases

For each model and batch size: `hotlap optimize` searches within its budget; then the rivals and hotlap's artifact
are judged by hotlap's gate on examples that chose nothing, and timed in fresh processes, each in turn with eager
fp32; last, hotlap's artifact is timed in turn with the best rival that passed. Cases that have a result are kept
unless `--again` is given, so an interrupted run goes on where it was. Exit code 3 where hotlap came out behind.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import skipped
import tables
from noise import write
from rivals import HOTLAP, RIVALS, Rival

from hotlap import gate
from hotlap.actions.optimize import optimize
from hotlap.core import TOLERANCE, Array, Json, Start, Verdict, to_json
from hotlap.errors import CandidateFailed
from hotlap.machine import facts
from hotlap.measure import pairs, statistics
from hotlap.measure.worker import Worker
from hotlap.search.setting import start_worker

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "results" / "optimize"
WEIGHTS = ROOT / "runs" / "bench-weights"
MAX_DROP = 0.01
SEED = 0
BUILD_SECONDS, SCORE_SECONDS, LOAD_SECONDS = 900.0, 900.0, 300.0
BLOCKS = pairs.LONGER
STARTS = statistics.LOOKS.at[0]
"""Starts of each side beside eager; hotlap and the best rival are then timed in turn for as long as it takes."""
VERSIONS = ("hotlap", "torch", "onnx", "onnxruntime", "openvino", "nncf", "numpy", "transformers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One model at one batch size. `weights` is what `models/train.py` calls it; None where nothing is trained."""

    name: str
    target: str
    batch: int
    weights: str | None = None

    @property
    def key(self) -> str:
        return f"{self.name}-b{self.batch}"


def _cases() -> list[Case]:
    models = HERE / "models"
    found = [
        ("resnet18-224", f"{models}/resnet18.py:px224", "resnet18-224"),
        ("resnet18-64", f"{models}/resnet18.py:px64", "resnet18-64"),
        ("conv1d", f"{models}/conv1d.py", "conv1d"),
        ("minilm-64", f"{models}/minilm.py:length64", "minilm"),
        ("minilm-128", f"{models}/minilm.py:length128", "minilm"),
        ("unet", f"{models}/unet.py", "unet"),
        ("vit", f"{models}/vit.py", "vit"),
        ("lstm", f"{models}/lstm.py", "lstm"),
        ("mlp", f"{ROOT}/examples/tabular.py", None),
    ]
    return [
        Case(name=name, target=target, batch=batch, weights=weights)
        for name, target, weights in found
        for batch in (1, 16)
    ]


CASES = _cases()


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A rival or hotlap's artifact, built, judged, and with the starts that were timed."""

    name: str
    rival: Rival
    folder: Path
    built: Json
    verdict: Verdict | None = None
    scores: Json | None = None
    failure: str | None = None
    starts: tuple[Start, ...] = ()


class Bench:
    """Builds, judges and times the sides of one case."""

    def __init__(self, case: Case, work: Path, threads: int) -> None:
        self._case, self._work, self._threads = case, work, threads
        with self._worker() as worker:
            found = worker.call("rivals:about", target=case.target, batch=case.batch, timeout=LOAD_SECONDS)
        self.arrays: list[Array] = found["arrays"]
        self.is_transformer: bool = found["transformer"]

    def _worker(self) -> Worker:
        return start_worker(self._threads, None, self._work)

    def eager(self) -> Worker:
        """A fresh process that holds the model as the user has it."""
        worker = self._worker()
        worker.call(
            "hotlap.search.work.holding:load_original",
            target=self._case.target,
            batch=self._case.batch,
            threads=self._threads,
            device="cpu",
            timeout=LOAD_SECONDS,
        )
        return worker

    def hold(self, side: Side) -> Worker:
        """A fresh process that holds the side."""
        worker = self._worker()
        try:
            worker.call(
                "rivals:hold",
                **self._about(side),
                arrays=self.arrays,
                batch=self._case.batch,
                timeout=BUILD_SECONDS,
            )
        except BaseException:
            worker.close()
            raise
        return worker

    def build(self, name: str) -> Side:
        """Make a rival's files and judge them; a failure is its row."""
        folder = self._work / name
        folder.mkdir(parents=True)
        side = Side(name=name, rival=RIVALS[name], folder=folder, built={})
        try:
            with self._worker() as worker:
                built = worker.call("rivals:build", **self._about(side), seed=SEED, timeout=BUILD_SECONDS)
            return self.judge(replace(side, built=built))
        except CandidateFailed as error:
            return replace(side, failure=str(error))

    def judge(self, side: Side) -> Side:
        """Judge a side by hotlap's gate on examples that chose nothing."""
        with self._worker() as worker:
            found = worker.call(
                "rivals:score",
                **self._about(side),
                originals=str(self._work / "originals"),
                seed=SEED,
                role="confirmation",
                timeout=SCORE_SECONDS,
            )
        original, scores = np.asarray(found["original_scores"]), np.asarray(found["scores"])
        if side.rival.same_numbers:
            verdict = gate.judge_equivalence(found["differences"], TOLERANCE["fp32"])
        else:
            verdict = gate.judge_drop(
                original,
                scores,
                max_drop=MAX_DROP,
                confidence=gate.confirmation_confidences()[0],
                slices=found["slices"],
                bounds=gate.score_bounds(original),
            )
        about = {"original": float(original.mean()), "score": float(scores.mean()), "examples": len(scores)}
        return replace(side, verdict=verdict, scores={**about, "differences": found["differences"]})

    def _about(self, side: Side) -> dict[str, Any]:
        return {"rival": side.name, "target": self._case.target, "folder": str(side.folder)}


def run(case: Case, *, budget: float, threads: int) -> Json:
    """Everything about one case, as it goes into its file."""
    began, load = time.monotonic(), os.getloadavg()
    work = ROOT / "runs" / "bench-optimize" / case.key
    shutil.rmtree(work, ignore_errors=True)
    _say(case, f"hotlap searches for {budget:.0f} s")
    found = optimize(
        case.target,
        out=work / HOTLAP,
        batch=case.batch,
        max_drop=MAX_DROP,
        budget=budget,
        threads=threads,
        seed=SEED,
    )
    _say(case, "running what was skipped for the machine's limit")
    passed_over = [
        skipped.run(
            candidate,
            target=case.target,
            batch=case.batch,
            work=work / "skipped",
            threads=threads,
            winner_ms=found["best"]["median_ms"],
        )
        for candidate in skipped.by_limit(work / HOTLAP / "journal.jsonl")
    ]
    bench = Bench(case, work / "rivals", threads)
    names = [name for name, rival in RIVALS.items() if bench.is_transformer or not rival.transformers_only]
    sides = [_hotlap(bench, found, work / HOTLAP)]
    for name in names:
        _say(case, f"building and judging {RIVALS[name].label}")
        sides.append(bench.build(name))
    floor = found["noise_floor"]
    ours, *theirs = timed = [_time(case, bench, side) for side in sides]
    rows = [_row(side, floor) for side in (ours, *theirs)]
    best = max((side for side in theirs if _passed(side)), key=_speedup, default=None)
    return {
        "case": case.key,
        "model": case.name,
        "batch": case.batch,
        "hotlap": _summary(found, rows[0]),
        "eager_ms": statistics.median_ms([start.baseline_ms for side in timed for start in side.starts]),
        "rivals": rows[1:],
        "skipped_for_the_limit": passed_over,
        "best_rival": _best(case, bench, ours, best, floor),
        "noise_floor": floor,
        "max_drop": MAX_DROP,
        "seconds": time.monotonic() - began,
        **_provenance(case, budget, threads, load),
    }


def _hotlap(bench: Bench, found: Json, folder: Path) -> Side:
    """hotlap's artifact as a side, judged as the rivals are."""
    best = found["best"]
    rival = Rival(label="hotlap", same_numbers=best["gate"] == "equivalence")
    side = Side(name=HOTLAP, rival=rival, folder=folder / "artifact", built={"bytes": best.get("bytes")})
    return bench.judge(side)


def _time(case: Case, bench: Bench, side: Side) -> Side:
    """Time a side in turn with eager, as many starts as the first look takes; a failure is its row."""
    if side.failure is not None:
        return side
    _say(case, f"timing {side.rival.label}")
    starts: list[Start] = []
    try:
        while len(starts) < STARTS:
            with bench.eager() as eager, bench.hold(side) as holder:
                starts.append(pairs.measure(eager, holder, BLOCKS)[0])
    except CandidateFailed as error:
        return replace(side, failure=f"failed when it was timed: {error}")
    return replace(side, starts=tuple(starts))


def _best(case: Case, bench: Bench, ours: Side, best: Side | None, floor: float) -> Json:
    """hotlap over the best rival that passed, timed in turn; over eager where none passed or none was faster."""
    if best is None or _speedup(best) < 1:
        return {
            "name": "eager",
            "label": "eager fp32",
            "speedup": _row(ours, floor)["speedup"],
            "verdict": "faster",
        }
    starts: list[Start] = []
    while not starts or not statistics.settled(starts, noise_floor=floor):
        look = statistics.next_look(starts)
        if look is None:
            break
        while len(starts) < look:
            _say(case, f"timing hotlap in turn with {best.rival.label}, start {len(starts) + 1}")
            with bench.hold(best) as theirs, bench.hold(ours) as holder:
                starts.append(pairs.measure(theirs, holder, BLOCKS)[0])
    interval = statistics.speedup(starts)
    return {
        "name": best.name,
        "label": best.rival.label,
        "speedup": to_json(interval),
        "verdict": statistics.verdict(interval, floor),
        "starts": [_rounded(start) for start in starts],
    }


def _passed(side: Side) -> bool:
    return side.failure is None and side.verdict is not None and side.verdict.passed


def _speedup(side: Side) -> float:
    return statistics.speedup(side.starts).estimate


def _row(side: Side, floor: float) -> Json:
    row: dict[str, Any] = {"name": side.name, "label": side.rival.label, "built": side.built}
    if side.verdict is not None:
        row |= {"gate": to_json(side.verdict), "scores": side.scores}
    if side.failure is not None:
        return {**row, "failure": side.failure}
    interval = statistics.speedup(side.starts)
    return {
        **row,
        "median_ms": statistics.median_ms([start.candidate_ms for start in side.starts]),
        "speedup": to_json(interval),
        "verdict": statistics.verdict(interval, floor),
        "warning": statistics.spread_warning(side.starts),
        "starts": [_rounded(start) for start in side.starts],
    }


def _summary(found: Json, row: Json) -> Json:
    """What hotlap's own result says, and how its artifact came out beside the rivals."""
    states = [candidate["status"] for candidate in found["candidates"]]
    return {
        **row,
        "candidate": found["best"]["name"],
        "confirmed": found["confirmed"],
        "own_speedup": found["best"]["speedup"],
        "share_of_limit": found["best"].get("share_of_limit"),
        "seconds": found["seconds"],
        "measuring_overhead": found["measuring_overhead"],
        "tried": sum(state != "skipped" for state in states),
        "candidates": len(states),
    }


def _rounded(start: Start) -> Json:
    return {side: [float(f"{ms:.5g}") for ms in times] for side, times in to_json(start).items()}


def _provenance(case: Case, budget: float, threads: int, load: tuple[float, float, float]) -> Json:
    git = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--abbrev=40"]
    return {
        "command": shlex.join(["python", f"benchmarks/{Path(__file__).name}", *sys.argv[1:]]),
        "commit": subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or None,
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": facts.facts().to_json(),
        "load_average_before": load,
        "versions": {name: _version(name) for name in VERSIONS},
        "configuration": {
            "target": str(Path(case.target).relative_to(ROOT)),
            "budget_seconds": budget,
            "threads": threads,
            "seed": SEED,
            "blocks": to_json(BLOCKS),
            "looks": list(statistics.LOOKS.at),
            "confidence_of_the_gate": gate.confirmation_confidences()[0],
        },
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _say(case: Case, what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {case.key}: {what}", flush=True)


def _train(cases: list[Case]) -> None:
    """Make the weights that are missing."""
    names = sorted({case.weights for case in cases if case.weights})
    missing = [name for name in names if not (WEIGHTS / f"{name}.safetensors").is_file()]
    if missing:
        subprocess.run([sys.executable, str(HERE / "models" / "train.py"), *missing], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help="a model, or a model at one batch size (vit-b16)")
    parser.add_argument("--list", action="store_true", help="name the cases and stop")
    parser.add_argument("--again", action="store_true", help="run cases that have a result, too")
    parser.add_argument("--budget", type=float, default=300.0, help="seconds that each search may take")
    parser.add_argument("--threads", type=int, default=facts.facts().cores)
    parser.add_argument("--note", help="what a reader has to know of the machine at that hour; kept with the result")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    unknown = [name for name in given.cases if not any(name in (case.name, case.key) for case in CASES)]
    if unknown:
        parser.error(f"no case called {unknown[0]}; there are {', '.join(case.key for case in CASES)}")
    chosen = [case for case in CASES if not given.cases or {case.name, case.key} & set(given.cases)]
    if given.list:
        print("\n".join(case.key for case in chosen))
        return 0
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    waiting = [case for case in chosen if given.again or not (given.out / f"{case.key}.json").is_file()]
    _train(waiting)
    behind = []
    for case in waiting:
        found = run(case, budget=given.budget, threads=given.threads)
        write(given.out / f"{case.key}.json", found | ({"note": given.note} if given.note else {}))
        if given.out == RESULTS:
            tables.write_pages(RESULTS.parent)
        against = found["best_rival"]
        ratio = against["speedup"]
        _say(case, f"{ratio['estimate']:.2f}x ({ratio['low']:.2f} to {ratio['high']:.2f}) over {against['label']}")
        behind += [case.key] if against["verdict"] == "slower" else []
    if behind:
        print(f"behind the best rival: {', '.join(behind)}")
    return 3 if behind else 0


if __name__ == "__main__":
    sys.exit(main())
