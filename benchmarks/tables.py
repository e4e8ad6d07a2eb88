"""Write docs/benchmarks.md, and the table in README.md, from what lies in benchmarks/results. No figure is typed.

python benchmarks/tables.py            write them
python benchmarks/tables.py --check    exit code 1 where they differ from what would be written
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tables_features import offline_words, online_table, online_words, readme_features
from tables_optimize import (
    MODELS,
    cases,
    failures,
    main_table,
    means,
    provenance,
    readme_about,
    readme_table,
    rivals_table,
    search_table,
    skipped_words,
)
from tables_statistics import noise_table, noise_words, simulation_set_up, simulation_table, simulation_words
from tables_training import (
    TRAINED,
    memory_parts,
    proof_parts,
    readme_training,
    training_parts,
    training_parts_in_fp32,
    tuner_parts,
)
from wording import Json

__all__ = ("BEGIN", "END", "MODELS", "main_table", "page", "with_table", "write_pages")

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PAGE, README = ROOT / "docs" / "benchmarks.md", ROOT / "README.md"
BEGIN, END = "<!-- table: benchmarks -->", "<!-- end -->"


def page(
    found: Sequence[Json],
    noise: Json | None = None,
    simulation: Json | None = None,
    training: Sequence[Json] = (),
    online: Json | None = None,
    offline: Json | None = None,
    tuner: Sequence[Json] = (),
    memory: Json | None = None,
    in_fp32: Sequence[Json] = (),
    proofs: Sequence[Json] = (),
) -> str:
    """The whole of docs/benchmarks.md."""
    parts = [
        "# Benchmarks",
        "This page is written by `benchmarks/tables.py` from the JSON in `benchmarks/results`; no figure in it is "
        "typed. `make bench` runs the benchmarks again.",
    ]
    if found:
        parts += [
            "## hotlap and what people use today",
            "Each model was searched by `hotlap optimize` within its budget. Then hotlap's artifact and the others, "
            "at their defaults, were judged by the same gate on the same examples, which had chosen nothing, and "
            "timed in fresh processes, in turn with eager fp32. Last, hotlap's artifact was timed in turn with the "
            "best of the others that passed the gate. Figures are ratios of times, with intervals of 95%; above 1, "
            "hotlap is faster.",
            main_table(found),
            means(found),
            "Everybody over eager fp32. Struck out: refused by the gate, because more than the allowed drop may be "
            "lost; the others are calibrated on the very examples that hotlap is.",
            rivals_table(found),
            *(["What failed:\n\n" + "\n".join(failures(found))] if failures(found) else []),
            "What the searches took. Measuring adds: time spent between timed calls, as a share. Share of the "
            "limit: how near the artifact comes to the least time that this machine's measured limits allow.",
            search_table(found),
            skipped_words(found),
            provenance(found),
            "To run one case again: `python benchmarks/optimize.py resnet18-64-b1 --again`.",
        ]
    if training:
        parts += training_parts(training)
    if in_fp32:
        parts += training_parts_in_fp32(in_fp32)
    if tuner:
        parts += tuner_parts(tuner)
    if proofs:
        parts += proof_parts(proofs)
    if memory:
        parts += memory_parts(memory)
    if noise:
        parts += [
            "## The same thing against itself",
            "Two processes of the very same model, and of one that does 5% more, compared as a confirmation compares. "
            "The first must come out as no difference, the second as slower.",
            noise_table(noise),
            noise_words(noise),
        ]
    if simulation:
        parts += [
            "## Does the gate keep its word?",
            simulation_set_up(simulation["configuration"]),
            simulation_table(simulation),
            *simulation_words(simulation),
        ]
    if offline:
        parts += ["## Point-in-time joins", *offline_words(offline)]
    if online:
        parts += ["## Online features", online_table(online), *online_words(online)]
    return "\n\n".join(parts) + "\n"


def with_table(text: str, written: str) -> str:
    """The README with the table between its two marks; unchanged where it has none."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{begin}\n{written}\n{end}{after}" if begin and end else text


def read(file: Path) -> Json | None:
    return json.loads(file.read_text()) if file.is_file() else None


def _trained(folder: Path) -> list[Json]:
    files = [folder / f"{name}.json" for name in TRAINED]
    return [json.loads(file.read_text()) for file in files if file.is_file()]


def write_pages(results: Path, *, check: bool = False) -> list[Path]:
    """Write the page and the README's table; which of them were not what they should be. `check`: write nothing."""
    found = cases(results / "optimize")
    names = ("noise.json", "gate_simulation.json", "features_online.json", "features.json", "memory.json")
    noise, simulation, online, offline, memory = (read(results / name) for name in names)
    tuner, proofs = (
        [json.loads(path.read_text()) for path in sorted((results / folder).glob("*.json"))]
        for folder in ("tuner", "proof")
    )
    training, in_fp32 = (_trained(results / folder) for folder in ("training", "training-no-bf16"))
    wanted = {PAGE: page(found, noise, simulation, training, online, offline, tuner, memory, in_fp32, proofs)}
    if README.is_file() and found:
        lines = [readme_training(training, proofs), readme_features(offline, online) if offline and online else ""]
        parts = [readme_table(found), "\n".join(filter(None, lines)), readme_about(found)]
        wanted[README] = with_table(README.read_text(), "\n\n".join(filter(None, parts)))
    differing = [path for path, text in wanted.items() if not path.is_file() or path.read_text() != text]
    if not check:
        for path in differing:
            path.write_text(wanted[path])
    return differing


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where something differs")
    given = parser.parse_args()
    differing = write_pages(HERE / "results", check=given.check)
    for path in differing if given.check else []:
        print(f"{path.relative_to(ROOT)} is not what benchmarks/tables.py writes; run it")
    return 1 if given.check and differing else 0


if __name__ == "__main__":
    sys.exit(main())
