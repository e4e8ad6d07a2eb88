"""What benchmarks/optimize.py found, as tables: hotlap beside what people use today."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from wording import Json, geometric_mean, machine_words, milliseconds, percent, ratio, short, table

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


def drop(gate: Json) -> str:
    """At most how much of the score is lost; or that the numbers are the original's."""
    if gate["rule"] == "equivalence":
        return "same numbers"
    return f"{gate['drop']['estimate']:+.4f} (at most {gate['drop']['high']:.4f})".replace("+", "").replace("-", "−")


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
    return table(head, rows)


def readme_about(found: Sequence[Json]) -> str:
    """Where the README's figures come from."""
    machine = " and ".join(sorted({f"{case['machine']['cpu']}, {case['machine']['cores']} cores" for case in found}))
    return f"*Written by the benchmarks ({machine}); more in [docs/benchmarks.md](docs/benchmarks.md).*"
