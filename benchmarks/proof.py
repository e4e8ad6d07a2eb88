"""Is training with what the tuner chose as good? Its choice, put to short trainings over at least five seeds.

    python benchmarks/proof.py                      every case; about an hour; one file each in results/proof/
    python benchmarks/proof.py sentiment --again    one case, also where it has a result

The same as `hotlap tune TARGET --prove short`; `--of runs/tuned/result.json` takes what that has written. Exit code 3
where a choice was not shown to be as good.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from noise import provenance_of, write

from hotlap.actions.tune import tune
from hotlap.core import Json

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "results" / "proof"
CASES = {
    "sentiment": (f"{ROOT}/examples/sentiment.py", 1800.0),
    "digits": (f"{ROOT}/examples/digits_untrained.py", 900.0),
}
"""A target, and the seconds that its proof may take."""


def run(name: str) -> Json:
    """One case's result, as `hotlap tune` writes it."""
    target, seconds = CASES[name]
    with tempfile.TemporaryDirectory() as work:
        return tune(target, out=Path(work) / "tuned", prove="short", prove_budget=seconds)


def kept(name: str, result: Json) -> Json:
    """What the tables show of it, and where it was made."""
    judged = [
        {key: value for key, value in trial.items() if key != "settings"}
        for trial in (result["proof_details"] or {}).get("trials", [])
    ]
    return {
        **provenance_of(Path(__file__)),
        "case": name,
        "kind": result["proof"],
        "choice": result["best"]["name"],
        "speedup_over_own": result["best"]["speedup"],
        "trials": judged,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--again", action="store_true", help="run cases that have a result, too")
    parser.add_argument("--of", type=Path, metavar="RESULT.JSON", help="of one case, what was run before")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    unknown = sorted(set(given.cases) - set(CASES))
    if unknown:
        parser.error(f"no case called {unknown[0]}; there are {', '.join(CASES)}")
    if given.of and len(given.cases) != 1:
        parser.error("--of is of one case; name it")
    shown = True
    for name in given.cases or CASES:
        path = given.out / f"{name}.json"
        if path.exists() and not given.again:
            continue
        found = kept(name, json.loads(given.of.read_text()) if given.of else run(name))
        write(path, found)
        answers = [f"{trial['name']}: {trial['reason']}" for trial in found["trials"]]
        print(f"{name}: {'; '.join(answers) or 'nothing was faster'}", flush=True)
        shown &= found["kind"] == "short"
    return 0 if shown else 3


if __name__ == "__main__":
    sys.exit(main())
