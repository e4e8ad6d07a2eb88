"""Tables come from result files alone, and the committed pages are what the committed results make."""

import copy
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def tables() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("benchmark_tables", BENCHMARKS / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)  # where its neighbours are, as when it is run
        spec.loader.exec_module(module)
        yield module


def interval(estimate: float) -> dict[str, float]:
    return {"estimate": estimate, "low": estimate * 0.95, "high": estimate * 1.05}


def gate(passed: bool, lost: float) -> dict[str, Any]:
    return {"rule": "drop", "passed": passed, "drop": {"estimate": lost, "high": lost + 0.004}}


SAME = {"rule": "equivalence", "passed": True, "drop": None}


def case(model: str = "vit", batch: int = 1) -> dict[str, Any]:
    """What optimize.py writes, with figures that appear nowhere else."""
    return {
        "case": f"{model}-b{batch}",
        "model": model,
        "batch": batch,
        "eager_ms": 12.345,
        "noise_floor": 0.0213,
        "max_drop": 0.01,
        "hotlap": {
            "candidate": "openvino, nncf int8",
            "speedup": interval(4.0),
            "gate": gate(True, 0.0012),
            "seconds": 287.4,
            "tried": 17,
            "candidates": 41,
            "measuring_overhead": 0.123,
            "share_of_limit": 0.456,
        },
        "rivals": [
            {"name": "torch.compile", "label": "torch.compile", "gate": SAME, "speedup": interval(1.31)},
            {"name": "nncf", "label": "NNCF int8", "gate": gate(True, 0.002), "speedup": interval(3.2)},
            {"name": "onnxruntime-static", "label": "ORT", "gate": gate(False, 0.151), "speedup": interval(5.5)},
            {"name": "onnxruntime-dynamic", "label": "ORT dynamic", "failure": "no kernel for ConvInteger"},
        ],
        "best_rival": {"name": "nncf", "label": "NNCF int8", "speedup": interval(1.25), "verdict": "faster"},
        "machine": {
            "cpu": "Made-up 1",
            "cpu_model": "family 9",
            "cores": 2,
            "memory_bytes": 8 * 2**30,
            "instruction_sets": ["avx512f"],
        },
        "versions": {"torch": "9.9.9", "transformers": None},
        "commit": "0123456789abcdef",
        "when": "2031-01-02T03:04:05Z",
        "configuration": {"threads": 2, "budget_seconds": 300.0},
    }


def test_the_page_holds_every_figure_of_a_case(tables: ModuleType) -> None:
    text = tables.page([case()])
    for figure in (
        "12.3", "4.00x (3.80 to 4.20)", "0.0012 (at most 0.0052)", "1.25x (1.19 to 1.31)", "3.20x NNCF int8",
        "287", "17", "41", "12.3%", "2.1%", "45.6%", "Made-up 1", "torch 9.9.9", "0123456789ab", "2031-01-02",
    ):  # fmt: skip
        assert figure in text, figure


def test_a_refused_rival_is_struck_out_with_what_it_loses_and_a_failure_is_told(tables: ModuleType) -> None:
    text = tables.page([case()])
    assert "~~5.50x~~ loses 0.151" in text
    assert "no kernel for ConvInteger" in text
    assert "1.31x" in text


def test_being_behind_is_said(tables: ModuleType) -> None:
    behind = copy.deepcopy(case())
    behind["best_rival"] |= {"speedup": interval(0.8), "verdict": "slower"}
    text = tables.page([case(batch=16), behind])
    assert ", behind |" in text
    assert "1.00x over the best of the others that passed the gate; behind in vit-b1." in text


def test_cases_come_in_a_fixed_order(tables: ModuleType) -> None:
    lines = tables.main_table([case("resnet18-64", 16), case("lstm")]).splitlines()
    assert lines[2].startswith("| ResNet-18, 64 px | 16 |")
    assert lines[3].startswith("| LSTM, 28 steps | 1 |")
    assert set(tables.MODELS) >= {"resnet18-64", "lstm"}


def test_the_readme_changes_between_its_marks_alone(tables: ModuleType) -> None:
    text = f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n"
    assert tables.with_table(text, "new") == f"before\n{tables.BEGIN}\nnew\n{tables.END}\nafter\n"
    assert tables.with_table("no marks", "new") == "no marks"


def test_noise_is_told_with_its_counts(tables: ModuleType) -> None:
    noise = {
        "noise_floor": 0.0321,
        "itself": {
            "comparisons": 100,
            "verdicts": {"no difference": 99, "faster": 1},
            "intervals_with_truth": 97,
            "mean_starts": 4.5,
        },
        "planted": {"comparisons": 0},
        "machine": case()["machine"],
        "command": "python benchmarks/noise.py",
        "commit": "fedcba9876543210",
        "when": "2031-01-02T03:04:05Z",
    }
    text = tables.page([], noise)
    assert "| a model with itself | 100 | 99 | 0 | 1 | 97 of 100 | 4.5 |" in text
    assert "Noise floor 3.2%" in text
    assert "5% more work" not in text


def test_the_gate_s_simulation_is_told_with_what_it_costs(tables: ModuleType) -> None:
    def simulated(candidates: str, wrong: float, passed: int, speedup: float) -> dict[str, Any]:
        about = {"scores": "flips", "examples": 1500, "max_drop": 0.01, "flips": 3}
        told = {"trials": 5000, "wrong_share": wrong, "passed": passed, "speedup": speedup, "holds": wrong < 0.06}
        return {"case": about, "candidates": candidates, **told}

    found = {
        "cases": [
            simulated("least favourable", 0.041, 205, 1.01),
            simulated("mixed", 0.002, 4000, 1.45),
            simulated("mixed, likely first", 0.001, 4500, 1.42),
            simulated("mixed, fastest first", 0.011, 1000, 1.04),
            simulated("few", 0.0, 4200, 2.56),
            simulated("few, likely first", 0.0, 4600, 1.95),
        ],
        "all_trials": 15_000,
        "all_wrong": 270,
        "without_a_part": {"no confirmation": {"wrong_share": 0.207}},
        "first_try_passes": [{"confirmation": 700, "drop": 0.0, "flips": 0.01, "passes": 0.642}],
        "configuration": {
            "candidates": 5,
            "selection": 0.3,
            "confidences": [0.9] * 3,
            "mixed": [0, 0.5, 1.1, 2, 3],
            "few": [0, 0.5, 1.2],
            "most_speed": 8.0,
        },
        "command": "python benchmarks/gate_simulation.py",
        "commit": "fedcba9876543210",
        "when": "2031-01-02T03:04:05Z",
    }
    text = tables.page([], None, found)
    row = "| 5,000 | 4.1% | 0.2% | 80.0% | 1.45x | 1.42x | 1.04x | 2.56x | 1.95x |"
    assert f"| 0/1, 3 times as many flips | 1,500 | 0.01 {row}" in text
    assert "mixed, 2 lose no more and 3 do" in text
    assert "few, 3 of which one loses too much" in text
    assert "270 of 15,000 trials" in text
    assert "is kept in every case" in text
    assert "no confirmation 20.7%" in text
    assert "700: 64.2%" in text
    found["cases"][0]["holds"] = False
    assert "is NOT kept in every case" in tables.page([], None, found)


def test_training_is_told_side_by_side(tables: ModuleType) -> None:
    pairs = {
        ("plain", "plain again"): 1.004,
        ("plain", "hotlap"): 0.991,
        ("by hand", "hotlap tuned"): 1.17,
        ("lightning", "hotlap tuned"): 2.31,
        ("accelerate", "hotlap tuned"): 2.22,
        ("plain", "hotlap tuned"): 2.13,
        ("lightning", "by hand"): 1.97,
    }
    common = {key: case()[key] for key in ("machine", "versions", "commit", "when")}
    common["command"] = "python benchmarks/training.py"
    common["configuration"] = {"threads": 2, "starts": 6, "budget_seconds": 180.0}
    steps = {
        "case": "vit",
        "batch": 64,
        "sides": [{"name": "plain", "median_ms": 123.4}],
        "comparisons": [{"baseline": a, "candidate": b, "speedup": interval(value)} for (a, b), value in pairs.items()],
        "tune": {"name": "bf16, fused"},
        **common,
    }
    runs = [{"lightning": {"seconds": 90.0 + seed}, "hotlap tuned": {"seconds": 30.0 + seed}} for seed in range(3)]
    scored = {
        "case": "digits-score",
        "goal": 0.97,
        "runs": runs,
        "comparisons": [{"baseline": "lightning", "candidate": "hotlap tuned", "speedup": interval(2.9)}],
        **common,
    }
    text = tables.page([], None, None, [steps, scored])
    assert "| small ViT | 64 | 123 | **2.31x (2.19 to 2.43)** | 2.22x" in text
    assert "0.991x (0.941 to 1.041) | 1.004x" in text
    assert "2.31x over Lightning and 1.17x over the loop tuned by hand, which is 1.97x over Lightning" in text
    assert "| small ResNet on digits | 0.97 | 3 | 91.0 | 31.0 | 2.90x" in text
    assert "6 starts" in text
    assert "without bf16" not in text
    beside = tables.page([], in_fp32=[steps])
    assert "### On a CPU without bf16 arithmetic" in beside
    assert "| small ViT | 64 | 123 | **2.31x (2.19 to 2.43)** | 2.22x" in beside


def test_the_committed_pages_are_what_the_committed_results_make(tables: ModuleType) -> None:
    if not list((BENCHMARKS / "results" / "optimize").glob("*.json")):
        pytest.skip("no benchmark results are committed yet")
    assert tables.write_pages(BENCHMARKS / "results", check=True) == [], "run python benchmarks/tables.py"


def test_the_page_says_whether_skipping_lost_a_winner(tables: ModuleType) -> None:
    assert "No candidate was skipped" in tables.page([case()])
    rows = [
        {"name": "eager, bf16", "median_ms": 3.0, "lost": False},
        {"name": "inductor, bf16", "failure": "no compiler", "lost": False},
    ]
    said = tables.page([{**case(), "skipped_for_the_limit": rows}])
    assert "left them no chance: 2. Built and timed after the search, 1 ran, and 0 of them" in said
    rows.append({"name": "openvino, fp32", "median_ms": 0.3, "lost": True})
    assert "small ViT, 64 tokens, batch 1: openvino, fp32" in tables.page([{**case(), "skipped_for_the_limit": rows}])


def test_joins_are_told_with_what_was_lost_and_how_they_grow(tables):
    side = {"median_seconds": 0.1729, "times_hotlap": 1.0, "lost": 0, "wrong": 0}
    found = {
        "feature_rows": 500_000, "entities": 20_000, "entity_rows": 100_000, "rounds": 7, "idle_priority": True,
        "sides": {"hotlap": side, "feast file store": {**side, "times_hotlap": 12.5, "lost": 3931, "wrong": 6}},
        "large": [{"feature_rows": 10**7, "entity_rows": 10**6, "seconds": 12.34, "peak_memory_bytes": 2**31}],
        "machine": case()["machine"], "versions": {"feast": "0.67.0"}, "command": "python benchmarks/features.py",
        "commit": "c" * 40,
    }  # fmt: skip
    text = tables.page([], offline=found)
    assert "Made-up 1 (family 9), 2 cores, 8 GiB; avx512f. feast 0.67.0. `python benchmarks/features.py`" in text
    assert "| hotlap | 173 | 1.00 | 0 | 0 |" in text
    assert "| feast file store | 173 | 12.50 | 3,931 | 6 |" in text
    assert "| 10,000,000 | 1,000,000 | 12.3 | 2.00 |" in text
    assert "Taken at idle priority" in text
    assert "idle priority" not in tables.page([], offline={**found, "idle_priority": False, "large": []})


def test_the_readme_has_the_figures_of_training_and_features(tables: ModuleType) -> None:
    side = {"median_seconds": 0.1, "times_hotlap": 1.0, "lost": 0, "wrong": 0}
    joins = {
        "feature_rows": 500_000, "entity_rows": 100_000,
        "sides": {
            "hotlap": side, "feast file store": {**side, "times_hotlap": 123.4, "lost": 3931},
            "pandas merge_asof": {**side, "times_hotlap": 2.34},
        },
    }  # fmt: skip
    own = [{"keys": 1, "times_hotlap": 3.21}, {"keys": 1000, "times_hotlap": 17.0}]
    online = {"configuration": {"features": 15}, "stores": {"embedded": own}}
    text = tables.readme_features(joins, online)
    assert "500,000 feature rows: **123x** Feast's file store, which loses 3,931 of 100,000 rows" in text
    assert "hotlap loses 0; 2.3x pandas" in text
    assert "15 features online of 1, 1,000 keys, from hotlap's own store: 3.2x, 17.0x Feast's" in text
    speedups = [("lightning", 4.0), ("by hand", 1.0)], [("lightning", 1.0), ("by hand", 1.21)]
    steps = [
        {
            "sides": [],
            "comparisons": [
                {"baseline": name, "candidate": "hotlap tuned", "speedup": {"estimate": one}} for name, one in own_ones
            ],
        }
        for own_ones in speedups
    ]
    assert "over 2 models: **2.00x** Lightning's defaults, 1.10x a loop tuned by hand" in tables.readme_training(steps)
    assert tables.readme_training([{"runs": []}]) == ""


def test_online_reads_are_told_with_their_circumstances(tables: ModuleType) -> None:
    side = {"p50_ms": 0.5, "p99_ms": 0.75, "ms": [0.5]}
    row = {"keys": 1000, "calls": 3, "hotlap": side, "feast": {**side, "p50_ms": 2.0}, "times_hotlap": 4.0}
    row["response_over_table"] = 3.5
    found = {
        "stores": {"redis": [row]},
        "configuration": {"views": 5, "features": 15, "entities": 20_000, "stores": ["redis"], "calls": 3},
        "quiet": False,
        "machine": case()["machine"],
        "versions": {"feast": "0.67.0"},
        "command": "python benchmarks/features_online.py",
        "commit": "c" * 40,
        "when": "2026-11-26T10:00:00+00:00",
    }
    text = tables.page([], online=found)
    assert "| Redis | 1,000 | 0.5 | 0.75 | 2 | 0.75 | **4.0x** |" in text
    assert "15 features of 5 views of one entity, 20,000 keys held, 3 calls" in text
    assert "an indication only" in text
    assert "an indication only" not in tables.page([], online={**found, "quiet": True})


def test_the_tuner_is_told_beside_the_best_of_all(tables: ModuleType) -> None:
    again = [
        {"name": "bf16, fused", "speedup": {"estimate": 1.02, "low": 0.97, "high": 1.07}},
        {"name": "bf16, compile", "speedup": {"estimate": 0.9, "low": 0.8, "high": 1.0}},
    ]
    case = {
        "case": "digits", "set_ups": 16, "choice": "bf16", "tuner_seconds": 152.3, "again": again,
        "speedup_over_own": {"estimate": 2.3, "low": 2.1, "high": 2.6},
        "commit": "c" * 40, "command": "python benchmarks/tuner.py digits", "when": "2026-11-26T10:00:00Z",
    }  # fmt: skip
    page = tables.page([], tuner=[case, {**case, "case": "other", "again": []}])
    assert "| digits | 16 | bf16 | 2.30x (2.10 to 2.60) | 152 | 1.02x (0.97 to 1.07): bf16, fused |" in page
    assert "| other | 16 | bf16 | 2.30x (2.10 to 2.60) | 152 | none came near |" in page


def test_a_proof_is_told_with_what_it_shows_and_what_it_does_not(tables: ModuleType) -> None:
    trial = {
        "name": "bf16, fused", "answer": "as good", "seeds": 5, "seconds": 1200.4,
        "reason": "its loss is lower by 1.2%",
        "worse_by": {"estimate": -0.012, "low": -0.03, "high": 0.009},
    }  # fmt: skip
    refused = {**trial, "answer": "worse", "reason": "it trains worse"}
    found = {
        "case": "sentiment", "kind": "short", "trials": [trial], "choice": "bf16, fused", "machine": case()["machine"],
        "speedup_over_own": {"estimate": 4.16, "low": 4.04, "high": 4.29}, "commit": "c" * 40,
        "command": "python benchmarks/proof.py sentiment", "when": "2026-11-28T10:00:00Z",
    }  # fmt: skip
    page = tables.page([], proofs=[found, {**found, "case": "other", "trials": [refused]}])
    assert "| sentiment | bf16, fused | 4.16x (4.04 to 4.29) | 5 | its loss is lower by 1.2% | 1200 |" in page
    assert "| other | bf16, fused |  | 5 | it trains worse | 1200 |" in page
    two = [("lightning", 2.0), ("by hand", 1.1)]
    speeds = [{"baseline": one, "candidate": "hotlap tuned", "speedup": {"estimate": by}} for one, by in two]
    steps = [{"sides": [], "comparisons": speeds}]
    said = tables.readme_training(steps, [found, {**found, "case": "other", "trials": [refused]}])
    assert "4.16x (4.04 to 4.29) the model's own, and in 5 short trainings its loss is at most 0.9% higher" in said
    assert "other" not in said


def test_foreseen_peaks_are_told_with_the_largest_error(tables: ModuleType) -> None:
    one = {"case": "lstm", "batch": 64, "predicted_bytes": 4.4e8, "measured_bytes": 4e8, "error": 0.1}
    found = {
        "cases": [one], "within": 1, "predictions": 1, "largest_error": 0.1, "mean_error": 0.1,
        "configuration": {"allowed": 0.1, "observed_at": [4, 8]}, "commit": "c" * 40, "machine": case()["machine"],
        "command": "python benchmarks/memory.py", "when": "2026-11-26T10:00:00Z", "skipped": {"vit bf16": "slow here"},
    }  # fmt: skip
    page = tables.page([], memory=found)
    assert "1 of 1 predictions are within 10%; the largest error is 10.0%" in page
    assert "| lstm | 64 | 440 | 400 | +10.0% |" in page
    assert "from steps at 4, 8, 32 and 64 rows a pass" in page
    assert "- Not run: vit bf16: slow here" in page
