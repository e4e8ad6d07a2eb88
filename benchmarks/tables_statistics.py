"""What benchmarks/noise.py and benchmarks/gate_simulation.py found, as tables."""

from __future__ import annotations

from wording import Json, machine_words, percent, table


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
