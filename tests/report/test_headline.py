"""The headline claims what the figures hold, and no more."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from hotlap.report.headline import headline

Vary = Callable[[str], dict[str, Any]]


def test_a_confirmed_gain(sample: dict[str, Any]) -> None:
    told = headline(sample)
    assert told.title == "15.2× faster, accuracy held"
    assert told.tone == "yes"
    assert told.lead == (
        "openvino int8 (nncf, per channel) takes 0.641 ms a call where eager fp32 takes 9.72 ms "
        "(batch 1, 2 threads, CPU)."
    )
    assert told.gain.details[0] == "Between 14.7 and 15.7 times the speed of eager fp32"
    alone = copy.deepcopy(sample)
    alone["best"]["threads"] = 1
    assert headline(alone).lead == (
        "openvino int8 (nncf, per channel) takes 0.641 ms a call on 1 thread where eager fp32 takes 9.72 ms on "
        "2 threads (batch 1, CPU)."
    )
    assert told.accuracy.value == "At most 0.0061 lost"
    assert told.accuracy.details == (
        "Allowed: 0.01; estimate 0.0016; with 95% confidence no more than 0.0061",
        "Flipped: 5 lost, 3 gained of 1,215 examples",
    )
    assert told.trust.value == "Confirmed"
    assert told.trust.details == (
        "Measured again in fresh processes, on 1,215 examples that chose nothing",
        "Dropped because they failed this: 1 that looked better",
    )


@pytest.mark.parametrize(
    ("variation", "title", "tone"),
    [
        ("without_winner", "Nothing faster passed the gate: the original stays", "no"),
        ("all_failed", "No candidate could be measured: the original stays", "no"),
        ("agreement", "15.2× faster, accuracy not measured", "unproven"),
        ("unconfirmed", "15.2× faster, not confirmed", "unproven"),
        ("minimal", "15.2× faster, accuracy held", "yes"),
    ],
)
def test_titles(variation: str, title: str, tone: str, vary: Vary) -> None:
    told = headline(vary(variation))
    assert (told.title, told.tone) == (title, tone)


def test_baseline_best_without_a_miss(vary: Vary) -> None:
    result = vary("without_winner")
    result["nearest_miss"] = None
    assert headline(result).title == "Nothing was faster: the original stays"


def test_the_nearest_miss_and_its_distance(vary: Vary) -> None:
    told = headline(vary("without_winner"))
    assert told.gain.details == (
        "Nearest miss: openvino int8 (nncf, per channel), 0.00060 past the gate",
        "at most 0.0106 lost, where 0.01 is allowed",
    )


def test_a_gain_inside_the_noise_is_none(sample: dict[str, Any]) -> None:
    sample["best"]["speedup"] = {"estimate": 1.03, "low": 1.015, "high": 1.045}
    told = headline(sample)
    assert (told.title, told.tone) == ("1.03×: no gain beyond the noise", "no")


def test_a_drop_past_the_gate_is_not_held(sample: dict[str, Any]) -> None:
    sample["best"]["drop"]["high"] = 0.011
    assert headline(sample).title == "15.2× faster, accuracy not proven"
    sample["best"]["drop"]["high"] = None
    told = headline(sample)
    assert told.title == "15.2× faster, accuracy not proven"
    assert told.accuracy.value == "Drop unknown"


def test_same_numbers_may_leave_the_drop_unproven(sample: dict[str, Any]) -> None:
    sample["best"].update(gate="equivalence", drop={"estimate": 0.0, "high": 0.05}, gate_reason="")
    sample["best"]["equivalence"] = {"largest_relative_difference": 3.14e-6, "tolerance": 1e-3}
    told = headline(sample)
    assert told.title == "15.2× faster, with the same numbers"
    assert told.accuracy.details == (
        "Outputs differ from the original's by at most 3.1e-06 (relative; tolerance 0.0010)",
        "The examples alone would leave a drop of up to 0.0500 possible",
    )
    sample["accuracy"] = "agreement"
    assert headline(sample).accuracy.details[-1].startswith("Accuracy was not measured")


def test_the_size_objective_speaks_of_size(sample: dict[str, Any]) -> None:
    sample["objective"] = "size"
    told = headline(sample)
    assert told.title == "3.9× smaller, accuracy held"
    assert told.gain.details == ("11.5 MB instead of 44.7 MB", "15.2× its speed (14.7–15.7)")


def test_the_throughput_objective(sample: dict[str, Any]) -> None:
    sample["objective"] = "throughput"
    sample["batch"] = 16
    sample["best"] |= {"median_ms": 4.0, "options": {}}
    sample["baseline"]["median_ms"] = 60.8
    told = headline(sample)
    assert told.title == "15.2× the throughput, accuracy held"
    assert "gives 4.00 k examples/s where" in told.lead
    assert "gives 263 examples/s" in told.lead
    assert "at once" not in told.lead
    sample["best"]["options"] = {"streams": 2}
    assert headline(sample).lead.endswith(
        " That is of 2 calls at once: by the loaded model's map, or from as many threads."
    )


def test_pruning_is_over_the_same_runtime(sample: dict[str, Any]) -> None:
    sample["kind"] = "prune"
    sample["best"]["speedup_over_eager"] = {"estimate": 20.0, "low": 19.0, "high": 21.0}
    details = headline(sample).gain.details
    assert details[0].endswith("the speed of the original in the same runtime, precision and threads")
    assert details[-1] == "20× (19–21) over the original in eager mode"


@pytest.mark.parametrize("proof", ["pending", "short", "full"])
def test_tuning_speaks_of_steps_and_proof(proof: str, sample: dict[str, Any]) -> None:
    for name in ("drop", "gate", "artifact"):
        sample["best"].pop(name)
    sample.update(kind="tune", proof=proof)
    told = headline(sample)
    assert told.title == "15.2× faster"
    assert "a training step" in told.lead
    assert told.accuracy.tone == ("yes" if proof == "full" else "unproven")


def test_what_was_not_shown_to_train_as_well_is_named(vary: Vary) -> None:
    told = headline(vary("tuning_refused"))
    assert told.title == "The settings of today stay"
    assert told.accuracy.tone == "no"
    assert "it trains worse" in told.accuracy.details[0]


def test_what_trains_as_well_and_was_not_confirmed_as_faster_is_told_so(vary: Vary) -> None:
    result = vary("tuning_refused")
    trials = result["proof_details"]["trials"]
    assert headline(result).accuracy.value == "What is faster was not shown to be"
    result["proof_details"]["trials"] = [
        *trials,
        {**trials[-1], "name": "fused", "answer": "as good", "reason": "same"},
    ]
    assert headline(result).accuracy.value == "What is as good was not shown to be faster"
    assert headline(result).accuracy.details[-1] == "fused: same"


def tuning(result: dict[str, Any], *, tried: int, left: int) -> dict[str, Any]:
    """A tuning that changed nothing."""
    change = {"name": "bf16", "status": "rejected", "reason": "no faster"}
    spent = {"name": "compile", "status": "skipped", "reason": "the budget was spent"}
    result.update(
        kind="tune",
        proof="pending",
        confirmed=False,
        best={**result["baseline"], "speedup": {"estimate": 1.0, "low": 1.0, "high": 1.0}},
        candidates=[change] * tried + [spent] * left + [{**spent, "reason": "no weight has 4 axes"}],
        left_untried=["compile"] * left,
        nearest_miss=None,
    )
    return result


@pytest.mark.parametrize(
    ("tried", "left", "title", "value", "words"),
    [
        (
            0,
            3,
            "Nothing was tried",
            "Nothing was tried",
            "None of 3 changes could be tried within the budget; give more",
        ),
        (0, 1, "Nothing was tried", "Nothing was tried", "The one change that makes sense here could not be tried"),
        (2, 1, "The settings of today stay", "No gain", "Only 2 of 3 changes could be tried within the budget; give"),
        (0, 0, "Nothing was tried", "Nothing to try", "Each candidate's reason is in the table"),
        (2, 0, "The settings of today stay", "No gain", "Each candidate's reason is in the table"),
    ],
)
def test_a_tuning_without_a_gain_says_what_it_tried(
    tried: int, left: int, title: str, value: str, words: str, sample: dict[str, Any]
) -> None:
    told = headline(tuning(sample, tried=tried, left=left))
    assert told.title.startswith(title)
    assert told.gain.value == value
    assert words in told.gain.details[0]
    assert told.accuracy.tone == told.trust.tone == "yes"


def test_a_gain_of_a_short_budget_names_what_was_left(sample: dict[str, Any]) -> None:
    sample.update(kind="tune", proof="pending", left_untried=["compile"])
    assert "could be tried within the budget; give more with --budget" in headline(sample).gain.details[-1]


def test_a_confirmed_set_up_is_a_change_whatever_its_name(sample: dict[str, Any]) -> None:
    sample.update(kind="tune", proof="pending")
    sample["best"]["name"] = sample["baseline"]["name"]
    assert headline(sample).title == "15.2× faster"
