"""What benchmarks/training.py found, as tables: steps side by side, and the time to the same score."""

from __future__ import annotations

from collections.abc import Sequence

from wording import Json, geometric_mean, machine_words, milliseconds, ratio, table

TRAINED = {
    "resnet18-64": "ResNet-18, 64 px",
    "minilm-64": "MiniLM, reviews padded to 64",
    "lstm": "LSTM",
    "vit": "small ViT",
    "mlp": "tiny MLP",
    "digits-score": "small ResNet on digits",
    "minilm-score": "MiniLM on a third of the reviews",
}


BESIDE = ("lightning", "by hand")


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
            "intervals of 95%; above 1, hotlap is faster. `~`: starts or blocks differ more than is usual between two "
            "processes, by what else the machine did or by what one of the loops does.",
            training_table(steps),
            training_means(steps),
        ]
    if scores:
        parts += [
            "Time from the loop's beginning until the score after an epoch reaches the goal, scoring left out, with "
            "several seeds:",
            score_table(scores),
        ]
    return [*parts, training_provenance(found)]


def training_parts_in_fp32(found: Sequence[Json]) -> list[str]:
    """The same on a CPU that has no bf16 arithmetic, where only steps are timed."""
    return [
        "### On a CPU without bf16 arithmetic",
        "The same, where the loop tuned by hand stays in fp32.",
        training_table(found),
        training_means(found),
        training_provenance(found),
    ]


def _compared(case: Json, baseline: str, candidate: str) -> Json:
    """What was found of one pair of loops."""
    pairs = case["comparisons"]
    return next(one for one in pairs if (one["baseline"], one["candidate"]) == (baseline, candidate))


def _speedups(found: Sequence[Json], baseline: str, candidate: str) -> list[float]:
    return [_compared(case, baseline, candidate)["speedup"]["estimate"] for case in found]


def _cell(case: Json, baseline: str, candidate: str, *, fine: bool = False) -> str:
    """The ratio of one pair of loops, marked where noise spoils it."""
    one = _compared(case, baseline, candidate)
    return ("~ " if one.get("warning") else "") + (_fine if fine else ratio)(one["speedup"])


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
            f"**{_cell(case, 'lightning', 'hotlap tuned')}**",
            *(_cell(case, name, "hotlap tuned") for name in ("accelerate", "plain", "by hand")),
            _cell(case, "plain", "hotlap", fine=True),
            _cell(case, "plain", "plain again", fine=True),
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
        return f"{geometric_mean(_speedups(found, baseline, candidate)):.2f}x"

    return (
        f"Geometric means over these {len(found)} models: the tuned set-up {mean('lightning', 'hotlap tuned')} over "
        f"Lightning and {mean('by hand', 'hotlap tuned')} over the loop tuned by hand, which is "
        f"{mean('lightning', 'by hand')} over Lightning."
    )


def readme_training(found: Sequence[Json], proofs: Sequence[Json] = ()) -> str:
    """The README's line; none where no steps were timed."""
    found = [case for case in found if "sides" in case]
    if not found:
        return ""
    ahead = [geometric_mean(_speedups(found, one, "hotlap tuned")) for one in BESIDE]
    return (
        f"- A training step with the set-up that `tune` chose, geometric means over {len(found)} models: "
        f"**{ahead[0]:.2f}x** Lightning's defaults, {ahead[1]:.2f}x a loop tuned by hand. That is speed alone: none of "
        f"these set-ups was put to `--prove`.{''.join(map(_proven, proofs))}"
    )


def _proven(case: Json) -> str:
    """A sentence for the README of a choice that was shown to be as good; empty of another."""
    last = case["trials"][-1] if case["trials"] else None
    if last is None or last["answer"] != "as good":
        return ""
    return (
        f" `examples/{case['case']}.py`'s was: {ratio(case['speedup_over_own'])} the model's own, and in "
        f"{last['seeds']} short trainings its loss is at most {last['worse_by']['high']:.1%} higher (95%)."
    )


def score_table(found: Sequence[Json]) -> str:
    head = ("model", "goal", "seeds", "Lightning, s", "hotlap tuned, s", "hotlap over Lightning")
    rows = []
    for case in found:
        middle = [
            sorted(one[name]["seconds"] for one in case["runs"])[len(case["runs"]) // 2]
            for name in ("lightning", "hotlap tuned")
        ]
        speedup = ratio(_compared(case, "lightning", "hotlap tuned")["speedup"])
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


def tuner_parts(found: Sequence[Json]) -> list[str]:
    """What benchmarks/tuner.py found: the tuner's choice beside every set-up there is."""
    head = (
        "model", "set-ups", "tune chose", "over the model's own", "tune took, s", "the best of all over the choice",
    )  # fmt: skip
    rows = [
        (
            case["case"], str(case["set_ups"]), case["choice"], ratio(case["speedup_over_own"]),
            f"{case['tuner_seconds']:.0f}", _best(case),
        )
        for case in found
    ]  # fmt: skip
    return [
        "## The tuner's choice beside every set-up",
        "Every combination of the changes that make sense, as far as `tune` knew them at the commit, was timed in turn "
        "with what `hotlap tune` chose, and the fastest of them again in fresh processes. Above 1, something else was "
        "faster than the choice.",
        table(head, rows),
        "\n".join(
            f"- {case['case']}: commit {case['commit'][:12]}, {case['when'][:10]}{_tried(case)}" for case in found
        ),
    ]


def proof_parts(found: Sequence[Json]) -> list[str]:
    """What benchmarks/proof.py found: whether training with the tuner's choice is as good."""
    head = ("model", "tune chose", "over the model's own", "seeds", "as good?", "took, s")
    rows = [
        (
            case["case"], trial["name"], ratio(case["speedup_over_own"]) if trial["answer"] == "as good" else "",
            str(trial["seeds"]), trial["reason"], f"{trial['seconds']:.0f}",
        )
        for case in found for trial in case["trials"]
    ]  # fmt: skip
    return [
        "## Does it train as well?",
        "The tuner's choice and the model's own set-up trained in turn, seed by seed, on the same examples in the same "
        "order, in short trainings (`hotlap tune --prove short`), which say nothing of a final score.",
        table(head, rows),
        "\n".join(
            f"- {case['case']}: {machine_words(case['machine'])}; `{case['command']}`, commit {case['commit'][:12]}, "
            f"{case['when'][:10]}"
            for case in found
        ),
    ]


def _tried(case: Json) -> str:
    """What the set-ups were made of."""
    parts = {part for one in case.get("tried", []) for part in one["name"].split(", ")}
    return f"; made of {', '.join(sorted(parts))}" if parts else ""


def _best(case: Json) -> str:
    timed = [one for one in case["again"] if one["speedup"]]
    again = max(timed, key=lambda one: one["speedup"]["estimate"], default=None)
    return f"{ratio(again['speedup'])}: {again['name']}" if again else "none came near"


def memory_parts(found: Json) -> list[str]:
    """What benchmarks/memory.py found: foreseen peaks beside those of processes that trained."""
    megabytes = 1e6
    rows = [
        (
            one["case"], str(one["batch"]), f"{one['predicted_bytes'] / megabytes:.0f}",
            f"{one['measured_bytes'] / megabytes:.0f}", f"{one['error']:+.1%}",
        )
        for one in found["cases"]
    ]  # fmt: skip
    small, larger = found["configuration"]["observed_at"]
    skipped = [f"- Not run: {name}: {why}" for name, why in found["skipped"].items()]
    return [
        "## The peak of memory, foreseen",
        f"Predicted from steps at {small}, {larger}, {4 * larger} and {8 * larger} rows a pass, then trained at the "
        f"batch size. {found['within']} of "
        f"{found['predictions']} predictions are within {found['configuration']['allowed']:.0%}; the largest error is "
        f"{found['largest_error']:.1%}, the mean {found['mean_error']:.1%}.",
        table(("set-up", "rows a pass", "foreseen, MB", "measured, MB", "error"), rows),
        "\n".join(
            [
                f"- Machine: {machine_words(found['machine'])}",
                *skipped,
                f"- Commit {found['commit'][:12]}; `{found['command']}`, {found['when'][:10]}",
            ]
        ),
    ]
