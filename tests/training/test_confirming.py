"""What is confirmed, in which order, with how many starts, and how much time is kept for it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trainable

from hotlap.core import Start
from hotlap.training.bench import Bench
from hotlap.training.confirming import Costs, Found, Unconfirmed, kept_for_confirming, settle, starts_wanted
from hotlap.training.settings import Settings


def test_time_is_kept_for_the_confirmation_and_one_last_change() -> None:
    fast, slow, slower = (Costs(own_load=5.0, load=5.0, timed=timed, peak=7.0) for timed in (1.0, 9.0, 60.0))
    assert kept_for_confirming(200, fast) == pytest.approx(0.35 * 200)
    assert kept_for_confirming(150, slow) == pytest.approx(7 + 4 * (5 + 5 + 6) + 14)
    assert kept_for_confirming(150, slower) > 150
    compiled = Costs(own_load=5.0, load=10.0, timed=9.0, peak=7.0)
    assert kept_for_confirming(150, compiled) == pytest.approx(7 + 5 + 4 * (5 + 10 + 6) + 19)
    assert kept_for_confirming(-3, fast) == fast.confirming + fast.a_change


def test_what_a_later_change_replaced_was_not_dropped_for_the_proofs_reason() -> None:
    own = Settings()
    rows = [
        {"name": "passes of 16", "status": "passed", "settings": {"micro_batch": 16}},
        {"name": "bf16", "status": "passed", "settings": {"precision": "bf16"}},
        {"name": "passes of 8", "status": "passed", "settings": {"micro_batch": 8}},
    ]
    found = Found(
        baseline=own, best=replace(own, micro_batch=8), rows=rows, noise_floor=0.01, starts=(), speedup=None,
        baseline_ms=1.0, baseline_held={}, best_held={}, dropped_because="bf16: it trains worse",
    )  # fmt: skip
    outcomes = [(row["status"], row.get("reason")) for row in found.outcomes()]
    assert outcomes == [
        ("dropped", "a later change took its place"),
        ("dropped", "bf16: it trains worse"),
        ("chosen", None),
    ]


def starts(*ratios: float) -> list[Start]:
    return [Start(baseline_ms=(10 * one,) * 4, candidate_ms=(10.0,) * 4) for one in ratios]


def test_starts_go_on_until_the_noise_floor_is_passed() -> None:
    """These are faster than 1 for sure, and not than 1.05."""
    some = starts(1.05, 1.055, 1.06, 1.065)
    assert starts_wanted(some, 0.0, spent=False) is None
    assert starts_wanted(some, 0.05, spent=False) == 6
    assert starts_wanted(some, 0.05, spent=True) is None
    assert starts_wanted([], 0.05, spent=True) == 4


LOADERS_HOLD = """
from torch.utils.data import get_worker_info
_light = Rows.__getitem__
def _heavy(self, index):
    if get_worker_info() is not None and not hasattr(self, "held"):
        self.held = bytearray(b"x" * 500_000_000)
    return _light(self, index)
Rows.__getitem__ = _heavy
"""


@pytest.mark.slow
def test_loader_processes_count_for_the_limit_of_the_largest_batch(tmp_path: Path) -> None:
    own = Settings(threads=1, batch_size=16)
    bench = Bench(
        target=trainable.write(tmp_path, "rows", add=LOADERS_HOLD), study={}, memory_limit=None, work=tmp_path,
        deadline=time.monotonic() + 60, compiler=False, other_batch_sizes=False, tell=lambda event: None,
    )  # fmt: skip
    limited = replace(bench, peak_limit=bench.peak(own).bytes + 400_000_000)
    found = Found(
        baseline=own, best=own, rows=[], noise_floor=0.5, starts=(), speedup=None, baseline_ms=1.0, baseline_held={},
        best_held={},
    )  # fmt: skip
    settled = settle(limited, found, replace(own, workers=1))
    assert "it failed when it was to be confirmed: used" in settled.dropped_because
    assert "more than its limit" in settled.dropped_because


@pytest.mark.slow
def test_where_the_best_fails_the_one_before_it_is_confirmed(tmp_path: Path) -> None:
    phases: list[Any] = []
    bench = Bench(
        target=trainable.write(tmp_path, "tokens"), study={}, memory_limit=None, work=tmp_path,
        deadline=time.monotonic() + 60, compiler=False, other_batch_sizes=False, tell=phases.append,
    )  # fmt: skip
    own = Settings(threads=1)
    found = Found(
        baseline=own, best=own, rows=[], noise_floor=0.5, starts=(), speedup=None, baseline_ms=1.0, baseline_held={},
        best_held={},
    )  # fmt: skip
    no_images, no_layers = Settings(threads=1, layout="channels_last"), Settings(threads=1, checkpointing=True)
    settled = settle(bench, found, no_images, no_layers)
    assert len(phases) == 2
    assert settled.best == own
    assert settled.dropped_because.startswith("it failed when it was to be confirmed: settings: checkpointing=true")
    late = settle(replace(bench, deadline=0.0), found, no_images, no_layers)
    assert len(phases) == 3
    assert "layout=channels_last" in late.dropped_because


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupt_ends_the_confirmation_with_what_there_is(times: int, tmp_path: Path) -> None:
    phases: list[str] = []

    def tell(event: Any) -> None:
        phases.append(event["phase"])
        if event["phase"].endswith("start 2") and phases.count(event["phase"]) <= times:
            raise KeyboardInterrupt

    bench = Bench(
        target=trainable.write(tmp_path, "rows"), study={}, memory_limit=None, work=tmp_path,
        deadline=time.monotonic() + 3600, compiler=False, other_batch_sizes=False, tell=tell,
    )  # fmt: skip
    own = Settings(threads=1, batch_size=16)
    found = Found(
        baseline=own, best=own, rows=[], noise_floor=0.5, starts=(), speedup=None, baseline_ms=1.0, baseline_held={},
        best_held={},
    )  # fmt: skip
    if times == 1:
        settled = settle(bench, found, replace(own, foreach=True))
        assert phases[-1].endswith("start 4")
        assert settled.dropped_because == "together with the others it was not confirmed as faster"
    else:
        with pytest.raises(Unconfirmed) as caught:
            settle(bench, found, replace(own, foreach=True))
        assert caught.value.found.best == own
        assert caught.value.found.dropped_because == "interrupted before it was confirmed"
