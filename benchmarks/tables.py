"""Write docs/benchmarks.md, and the table in README.md, from what lies in benchmarks/results. No figure is typed.

python benchmarks/tables.py            write them
python benchmarks/tables.py --check    exit code 1 where they differ from what would be written
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PAGE, README = ROOT / "docs" / "benchmarks.md", ROOT / "README.md"
BEGIN, END = "<!-- table: benchmarks -->", "<!-- end -->"

MODELS = {
    "resnet18-224": "ResNet-18, 224 px",
    "resnet18-64": "ResNet-18, 64 px",
    "conv1d": "1-D convolutional network, 22 M",
    "minilm-64": "MiniLM, length 64",
    "minilm-128": "MiniLM, length 128",
    "unet": "U-Net, 128 px",
    "vit": "small ViT, 64 tokens",
    "lstm": "LSTM, 28 steps",
    "mlp": "tiny MLP",
}
RIVALS = {
    "torch.compile": "torch. compile",
    "onnxruntime": "ORT fp32",
    "onnxruntime-static": "ORT static int8",
    "onnxruntime-dynamic": "ORT dynamic int8",
    "openvino-fp32": "OpenVINO fp32",
    "openvino": "OpenVINO as it comes",
    "nncf": "NNCF int8",
    "nncf-transformer": "NNCF int8, transformer",
}
Json = Any
Row = Sequence[str]


def table(head: Row, rows: Sequence[Row]) -> str:
    """A Markdown table; all columns but the first are right-aligned."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def ratio(interval: Json) -> str:
    """A ratio with its interval, to as many digits as it bears."""
    digits = 1 if interval["estimate"] >= 10 else 2
    return f"{interval['estimate']:.{digits}f}x ({interval['low']:.{digits}f} to {interval['high']:.{digits}f})"


def short(interval: Json) -> str:
    return f"{interval['estimate']:.2f}x" if interval["estimate"] < 10 else f"{interval['estimate']:.1f}x"


def milliseconds(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def drop(gate: Json) -> str:
    """At most how much of the score is lost; or that the numbers are the original's."""
    if gate["rule"] == "equivalence":
        return "same numbers"
    return f"{gate['drop']['estimate']:+.4f} (at most {gate['drop']['high']:.4f})".replace("+", "").replace("-", "−")


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def cases(folder: Path) -> list[Json]:
    """What benchmarks/optimize.py found, in the order of MODELS."""
    found = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    order = list(MODELS)
    return sorted(found, key=lambda case: (order.index(case["model"]), case["batch"]))


def main_table(found: Sequence[Json]) -> str:
    """hotlap's gain, and how it stands against the best of the others."""
    head = (
        "model",
        "batch",
        "eager, ms",
        "hotlap over eager",
        "score lost",
        "best of the others",
        "hotlap over that",
    )
    rows = [
        (
            MODELS[case["model"]],
            str(case["batch"]),
            milliseconds(case["eager_ms"]),
            f"**{ratio(case['hotlap']['speedup'])}** {case['hotlap']['candidate']}",
            drop(case["hotlap"]["gate"]),
            best_of_others(case),
            ratio(case["best_rival"]["speedup"]) + verdict_mark(case["best_rival"]["verdict"]),
        )
        for case in found
    ]
    return table(head, rows)


def best_of_others(case: Json) -> str:
    best = case["best_rival"]
    row = next((rival for rival in case["rivals"] if rival["name"] == best["name"]), None)
    return f"{short(row['speedup'])} {best['label']}" if row else best["label"]


def verdict_mark(verdict: str) -> str:
    return {"faster": "", "slower": ", behind", "no difference": ", no difference"}[verdict]


def means(found: Sequence[Json]) -> str:
    over_eager = geometric_mean([case["hotlap"]["speedup"]["estimate"] for case in found])
    over_best = geometric_mean([case["best_rival"]["speedup"]["estimate"] for case in found])
    behind = [case["case"] for case in found if case["best_rival"]["verdict"] == "slower"]
    words = f"behind in {', '.join(behind)}" if behind else "behind in none"
    return (
        f"Geometric means over these {len(found)} cases: {over_eager:.2f}x over eager fp32, {over_best:.2f}x over "
        f"the best of the others that passed the gate; {words}."
    )


def rivals_table(found: Sequence[Json]) -> str:
    """Everybody's gain over eager; those that the gate refused are struck out."""
    rows = []
    for case in found:
        by_name = {rival["name"]: rival for rival in case["rivals"]}
        cells = [rival_cell(by_name.get(name)) for name in RIVALS]
        rows.append((MODELS[case["model"]], str(case["batch"]), short(case["hotlap"]["speedup"]), *cells))
    return table(("model", "batch", "hotlap", *RIVALS.values()), rows)


def rival_cell(rival: Json) -> str:
    if rival is None:
        return ""
    if "failure" in rival:
        return "fails"
    if rival["gate"]["passed"]:
        return short(rival["speedup"])
    lost = rival["gate"]["drop"]
    return f"~~{short(rival['speedup'])}~~" + (f" loses {lost['estimate']:.3f}" if lost else " other numbers")


def failures(found: Sequence[Json]) -> list[str]:
    return [
        f"- {MODELS[case['model']]}, batch {case['batch']}, {rival['label']}: {rival['failure']}"
        for case in found
        for rival in case["rivals"]
        if "failure" in rival
    ]


def search_table(found: Sequence[Json]) -> str:
    """What the searches cost."""
    head = ("model", "batch", "seconds", "tried", "of", "measuring adds", "noise floor", "share of the limit")
    rows = [
        (
            MODELS[case["model"]],
            str(case["batch"]),
            f"{case['hotlap']['seconds']:.0f}",
            str(case["hotlap"]["tried"]),
            str(case["hotlap"]["candidates"]),
            percent(case["hotlap"]["measuring_overhead"]),
            percent(case["noise_floor"]),
            percent(case["hotlap"]["share_of_limit"]),
        )
        for case in found
    ]
    return table(head, rows)


def skipped_words(found: Sequence[Json]) -> str:
    """Whether skipping by the machine's limit lost a winner."""
    rows = [(case, row) for case in found for row in case.get("skipped_for_the_limit", [])]
    ran = [(case, row) for case, row in rows if "failure" not in row]
    lost = [f"{MODELS[case['model']]}, batch {case['batch']}: {row['name']}" for case, row in ran if row["lost"]]
    if not rows:
        return "No candidate was skipped because the machine's limit left it no chance."
    return (
        f"Candidates skipped because the machine's limit left them no chance: {len(rows)}. Built and timed after the "
        f"search, {len(ran)} ran, and {len(lost)} of them came out faster than the winner"
        + (f" ({'; '.join(lost)})." if lost else ".")
    )


def percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def provenance(found: Sequence[Json]) -> str:
    """Machine, versions, commits and commands, each said once."""
    machines = sorted({json.dumps(machine_words(case["machine"])) for case in found})
    versions = sorted({", ".join(f"{n} {v}" for n, v in case["versions"].items() if v) for case in found})
    commits = sorted({case["commit"][:12] + ("-dirty" if "dirty" in case["commit"] else "") for case in found})
    days = sorted({case["when"][:10] for case in found})
    threads = sorted({str(case["configuration"]["threads"]) for case in found})
    budgets = sorted({f"{case['configuration']['budget_seconds']:.0f} s" for case in found})
    drops = sorted({str(case["max_drop"]) for case in found})
    lines = [f"Machine: {json.loads(machine)}" for machine in machines]
    lines += [f"Versions: {words}" for words in versions]
    lines += [f"Threads {', '.join(threads)}; search budget {', '.join(budgets)}; allowed drop {', '.join(drops)}"]
    lines += [f"Commit {', '.join(commits)}; {' to '.join(dict.fromkeys((days[0], days[-1])))}"]
    for note in sorted({case["note"] for case in found if "note" in case}):
        lines.append(f"{', '.join(case['case'] for case in found if case.get('note') == note)}: {note}")
    return "\n".join(f"- {line}" for line in lines)


def machine_words(machine: Json) -> str:
    memory = machine["memory_bytes"] / 2**30
    sets = ", ".join(machine["instruction_sets"])
    return f"{machine['cpu']} ({machine['cpu_model']}), {machine['cores']} cores, {memory:.0f} GiB; {sets}"


def noise_table(found: Json) -> str:
    """What benchmarks/noise.py found: the same thing against itself, and a planted slow-down."""
    head = ("compared", "comparisons", "no difference", "slower", "faster", "true ratio inside the interval", "starts")
    names = {"itself": "a model with itself", "planted": "a model with itself and 5% more work"}
    rows = []
    for key, words in names.items():
        part = found[key]
        if part["comparisons"]:
            verdicts = [str(part["verdicts"].get(name, 0)) for name in ("no difference", "slower", "faster")]
            inside = f"{part['intervals_with_truth']} of {part['comparisons']}"
            rows.append((words, str(part["comparisons"]), *verdicts, inside, f"{part['mean_starts']:.1f}"))
    return table(head, rows)


def noise_words(found: Json) -> str:
    made = f"`{found['command']}`, commit {found['commit'][:12]}, {found['when'][:10]}"
    return f"Noise floor {found['noise_floor']:.1%}. {machine_words(found['machine'])}. {made}."


SCORES = {"flips": "0/1", "large": "real, few lose much", "any": "real, more lose some"}


def simulation_set_up(about: Json) -> str:
    within = sum(lost <= 1 for lost in about["mixed"])
    return (
        f"The whole procedure, simulated: {about['candidates']} candidates, {about['selection']:.0%} of the examples "
        f"choose, the {len(about['confidences'])} first in line are confirmed on the rest until one passes. First all "
        f"candidates lose a little more than allowed. Then, mixed, {within} lose no more and "
        f"{about['candidates'] - within} do, the faster the more; and few, {len(about['few'])} of which one loses too "
        f"much. Speed-ups are geometric means over all trials, 1 where nothing was confirmed, of candidates that reach "
        f"up to {about['most_speed']:g}x: in hotlap's order, for the most speed that the tries promise together, with "
        "those surest to pass first, and with the fastest first of all that look good."
    )


def simulation_table(found: Json) -> str:
    """What benchmarks/gate_simulation.py found: what is let through, and what that costs."""
    head = (
        "scores",
        "examples",
        "allowed drop",
        "trials",
        "let through, all just past the allowance",
        "let through, mixed",
        "confirmed, mixed",
        "speed-up, mixed",
        "surest first",
        "fastest first",
        "speed-up, few",
        "surest first",
    )
    cases: dict[str, dict[str, Json]] = {}
    for one in found["cases"]:
        cases.setdefault(str(one["case"]), {})[one["candidates"]] = one
    rows = []
    for ways in cases.values():
        worst, mixed = ways["least favourable"], ways["mixed"]
        case = worst["case"]
        flips = f", {case['flips']:g} times as many flips" if case["flips"] != 1 else ""
        speeds = ("mixed", "mixed, likely first", "mixed, fastest first", "few", "few, likely first")
        rows.append(
            (
                SCORES[case["scores"]] + flips,
                f"{case['examples']:,}",
                f"{case['max_drop']:g}",
                f"{worst['trials']:,}",
                percent(worst["wrong_share"]),
                percent(mixed["wrong_share"]),
                percent(mixed["passed"] / mixed["trials"]),
                *(f"{ways[name]['speedup']:.2f}x" for name in speeds),
            )
        )
    return table(head, rows)


def simulation_words(found: Json) -> list[str]:
    """What the columns are, how the check fails, and the price by examples."""
    parts = ", ".join(f"{name} {percent(one['wrong_share'])}" for name, one in found["without_a_part"].items())
    kept = all(one["holds"] for one in found["cases"])
    price = [one for one in found["first_try_passes"] if one["drop"] == 0.0 and one["flips"] == 0.01]
    passes = ", ".join(f"{one['confirmation']:,}: {percent(one['passes'])}" for one in price)
    return [
        f"{found['all_wrong']:,} of {found['all_trials']:,} trials let one through that loses more than allowed; the "
        f"promise of at most 5 in 100 is {'kept' if kept else 'NOT kept'} in every case. With a part of the procedure "
        f"taken out it is not, in the least favourable case: {parts}.",
        "How often a candidate that loses nothing, while 1 in 100 examples flip, passes its first try at an allowed "
        f"drop of 0.01, by the number of examples that confirm: {passes}.",
        f"`{found['command']}`, commit {found['commit'][:12]}, {found['when'][:10]}.",
    ]


TRAINED = {
    "resnet18-64": "ResNet-18, 64 px",
    "minilm-64": "MiniLM, reviews padded to 64",
    "lstm": "LSTM",
    "vit": "small ViT",
    "mlp": "tiny MLP",
    "digits-score": "small ResNet on digits",
}


def training_parts(found: Sequence[Json]) -> list[str]:
    """What benchmarks/training.py found: steps side by side, and the time to the same score."""
    steps = [case for case in found if "sides" in case]
    scores = [case for case in found if "runs" in case]
    parts = ["## Training beside what people use today"]
    if steps:
        parts += [
            "Whole training steps, loading included, of loops that run in processes of their own and are timed step "
            "by step in turn, over several restarts: Lightning and Accelerate with what a user gets who sets nothing, "
            "a plain loop, a loop tuned by hand (bf16 autocast, channels_last for images, a fused optimizer), `hotlap "
            "train` with the workload's own settings, and with those that `hotlap tune` chose. Ratios of times, with "
            "intervals of 95%; above 1, hotlap is faster.",
            training_table(steps),
            training_means(steps),
        ]
    if scores:
        parts += [
            "Time of training until the score after an epoch reaches the goal, scoring left out, with several seeds:",
            score_table(scores),
        ]
    return [*parts, training_provenance(found)]


def _compared(case: Json, baseline: str, candidate: str) -> Json:
    """The speedup of one pair of loops."""
    pairs = case["comparisons"]
    return next(one["speedup"] for one in pairs if (one["baseline"], one["candidate"]) == (baseline, candidate))


def training_table(found: Sequence[Json]) -> str:
    head = (
        "model", "batch", "plain loop, ms a step", "tuned over Lightning", "over Accelerate", "over the plain loop",
        "over the loop tuned by hand", "hotlap's loop over the plain one", "the plain one over itself", "tune chose",
    )  # fmt: skip
    rows = [
        (
            TRAINED[case["case"]],
            str(case["batch"]),
            milliseconds(next(side["median_ms"] for side in case["sides"] if side["name"] == "plain")),
            *(f"**{ratio(_compared(case, name, 'hotlap tuned'))}**" for name in ("lightning",)),
            *(ratio(_compared(case, name, "hotlap tuned")) for name in ("accelerate", "plain", "by hand")),
            _fine(_compared(case, "plain", "hotlap")),
            _fine(_compared(case, "plain", "plain again")),
            case["tune"]["name"],
        )
        for case in found
    ]
    return table(head, rows)


def _fine(interval: Json) -> str:
    """A ratio near 1."""
    return f"{interval['estimate']:.3f}x ({interval['low']:.3f} to {interval['high']:.3f})"


def training_means(found: Sequence[Json]) -> str:
    def mean(baseline: str, candidate: str) -> str:
        return f"{geometric_mean([_compared(case, baseline, candidate)['estimate'] for case in found]):.2f}x"

    return (
        f"Geometric means over these {len(found)} models: the tuned set-up {mean('lightning', 'hotlap tuned')} over "
        f"Lightning and {mean('by hand', 'hotlap tuned')} over the loop tuned by hand, which is "
        f"{mean('lightning', 'by hand')} over Lightning."
    )


def score_table(found: Sequence[Json]) -> str:
    head = ("model", "goal", "seeds", "Lightning, s", "hotlap tuned, s", "hotlap over Lightning")
    rows = []
    for case in found:
        middle = [
            sorted(one[name]["seconds"] for one in case["runs"])[len(case["runs"]) // 2]
            for name in ("lightning", "hotlap tuned")
        ]
        speedup = ratio(_compared(case, "lightning", "hotlap tuned"))
        seconds = (f"{value:.1f}" for value in middle)
        rows.append((TRAINED[case["case"]], f"{case['goal']:g}", str(len(case["runs"])), *seconds, speedup))
    return table(head, rows)


def training_provenance(found: Sequence[Json]) -> str:
    """Machine, versions, commits and set-up, each said once."""
    said = [f"Machine: {words}" for words in sorted({machine_words(case["machine"]) for case in found})]
    versions = {", ".join(f"{name} {version}" for name, version in case["versions"].items()) for case in found}
    said += [f"Versions: {words}" for words in sorted(versions)]
    set_ups = {
        f"Threads {about['threads']}; {about['starts']} starts; budget of a search {about['budget_seconds']:.0f} s"
        for about in (case["configuration"] for case in found)
    }
    commits = sorted({case["commit"][:12] + ("-dirty" if "dirty" in case["commit"] else "") for case in found})
    said += [*sorted(set_ups), f"Commit {', '.join(commits)}; `{found[0]['command']}`, {found[0]['when'][:10]}"]
    return "\n".join(f"- {line}" for line in said)


STORE_NAMES = {"sqlite": "SQLite", "redis": "Redis", "postgres": "PostgreSQL"}


def offline_words(found: Json) -> list[str]:
    """What benchmarks/features.py found: a point-in-time join beside others' on the same files, and larger ones."""
    rows = [
        [
            name,
            milliseconds(1000 * one["median_seconds"]),
            f"{one['times_hotlap']:.2f}",
            f"{one['lost']:,}",
            f"{one['wrong']:,}",
        ]
        for name, one in found["sides"].items()
    ]
    head = ["join", "ms", "times hotlap's", "rows lost", "wrong values"]
    parts = [
        f"{found['feature_rows']:,} feature rows of {found['entities']:,} entities, {found['entity_rows']:,} entity "
        f"rows, from one Parquet file, {found['rounds']} rounds in turn."
        + (" Taken at idle priority beside other work: the times are an indication." if found["idle_priority"] else ""),
        table(head, rows),
    ]
    curve = [
        [
            f"{one['feature_rows']:,}",
            f"{one['entity_rows']:,}",
            f"{one['seconds']:.1f}",
            f"{one['peak_memory_bytes'] / 2**30:.2f}",
        ]
        for one in found["large"]
    ]
    if curve:
        parts.append(table(["feature rows", "entity rows", "seconds", "peak memory, GiB"], curve))
    return parts


def online_table(found: Json) -> str:
    """What benchmarks/features_online.py found: reads of many keys, in turn with Feast's."""
    head = ("store", "keys", "hotlap p50, ms", "p99, ms", "Feast p50, ms", "p99, ms", "Feast's time over hotlap's")
    rows = [
        (
            STORE_NAMES[store],
            f"{row['keys']:,}",
            *(f"{row[side][of]:.3g}" for side in ("hotlap", "feast") for of in ("p50_ms", "p99_ms")),
            f"**{row['times_hotlap']:.1f}x**",
        )
        for store, measured in found["stores"].items()
        for row in measured
    ]
    return table(head, rows)


def online_words(found: Json) -> list[str]:
    about = found["configuration"]
    versions = ", ".join(f"{name} {one}" for name, one in found["versions"].items())
    loaded = "" if found["quiet"] else " Other work ran beside it, so that these figures are an indication only."
    return [
        f"{about['features']} features of {about['views']} views of one entity, {about['keys_held']:,} keys held, "
        f"{about['calls']} calls of each side in turn; servers on loopback. hotlap's time ends with an Arrow table and "
        "ages, Feast's with its response, before it is made a dict.",
        f"{machine_words(found['machine'])}. {versions}. `{found['command']}`, commit {found['commit'][:12]}, "
        f"{found['when'][:10]}.{loaded}",
    ]


def page(
    found: Sequence[Json],
    noise: Json | None = None,
    simulation: Json | None = None,
    training: Sequence[Json] = (),
    online: Json | None = None,
    offline: Json | None = None,
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


def readme_table(found: Sequence[Json]) -> str:
    """The short table for README.md: batch 1."""
    head = ("model, batch 1", "hotlap over eager", "the form it chose", "score lost", "best of the others")
    rows = [
        (
            MODELS[case["model"]],
            f"**{short(case['hotlap']['speedup'])}**",
            case["hotlap"]["candidate"],
            drop(case["hotlap"]["gate"]),
            best_of_others(case),
        )
        for case in found
        if case["batch"] == 1
    ]
    machine = " and ".join(sorted({f"{case['machine']['cpu']}, {case['machine']['cores']} cores" for case in found}))
    about = f"*Written by the benchmark ({machine}); more in [docs/benchmarks.md](docs/benchmarks.md).*"
    return table(head, rows) + "\n\n" + about


def with_table(text: str, written: str) -> str:
    """The README with the table between its two marks; unchanged where it has none."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{begin}\n{written}\n{end}{after}" if begin and end else text


def read(file: Path) -> Json | None:
    return json.loads(file.read_text()) if file.is_file() else None


def _trained(results: Path) -> list[str]:
    return [name for name in TRAINED if (results / "training" / f"{name}.json").is_file()]


def write_pages(results: Path, *, check: bool = False) -> list[Path]:
    """Write the page and the README's table; which of them were not what they should be. `check`: write nothing."""
    found = cases(results / "optimize")
    names = ("noise.json", "gate_simulation.json", "features_online.json", "features.json")
    noise, simulation, online, offline = (read(results / name) for name in names)
    training = [json.loads((results / "training" / f"{name}.json").read_text()) for name in _trained(results)]
    wanted = {PAGE: page(found, noise, simulation, training, online, offline)}
    if README.is_file() and found:
        wanted[README] = with_table(README.read_text(), readme_table(found))
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
