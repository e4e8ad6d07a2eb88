"""Which set-ups fit the memory, by what is found of each: what is told where one fails or takes too much."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from hotlap.errors import CandidateFailed, OutOfMemory, Refusal, WorkloadError
from hotlap.training.bench import Peak
from hotlap.training.fitting import that_fits, too_large
from hotlap.training.set_ups import Change
from hotlap.training.settings import Settings

OWN = Settings(batch_size=16)
STUDY: dict[str, Any] = {"repeated": 3, "locked": [], "examples": 150, "in_passes": {"reason": None}}
FULL = OutOfMemory("used 2.0 GiB of memory, more than its limit of 1.0 GiB")
BROKEN = WorkloadError("the workload's `loss` raised CheckpointError")


def bench(found: dict[Settings, int | Exception], **study: Any) -> Any:
    """With the peak of each set-up, or what finding it raises; of any other memory runs out."""

    def peak(settings: Settings, *, beside: int = 0) -> Peak:
        held = found.get(settings, FULL)
        if isinstance(held, Exception):
            raise held
        if held + beside > 1000:
            raise OutOfMemory(f"used {held + beside}")
        return Peak(bytes=held + beside, seconds=1.0, looked_at=150, whole=True)

    return SimpleNamespace(study={**STUDY, **study}, deadline=math.inf, tell=lambda event: None, peak=peak)


def test_a_thriftier_set_up_that_fails_is_passed_over() -> None:
    found = {Settings(batch_size=16, checkpointing=True): BROKEN, Settings(batch_size=16, micro_batch=4): 10}
    settings, peak, warnings = that_fits(bench(found), OWN)
    assert settings == Settings(batch_size=16, micro_batch=4)
    assert peak.bytes == 10
    assert warnings == [
        "checkpointing, which takes less memory, failed: the workload's `loss` raised CheckpointError",
        "the workload's own set-up runs out of memory; compared with passes of 4 instead",
    ]


def test_where_nothing_fits_it_is_told_what_failed_too() -> None:
    search = bench({Settings(batch_size=16, checkpointing=True): BROKEN}, in_passes={"reason": "no"})
    with pytest.raises(Refusal) as raised:
        that_fits(search, OWN)
    assert str(raised.value) == (
        "no set-up of the same result fits the memory: with the workload's own set-up: used 2.0 GiB of memory, more "
        "than its limit of 1.0 GiB; checkpointing, which takes less memory, failed: the workload's `loss` raised "
        "CheckpointError; allow more"
    )


def test_what_the_own_set_up_fails_of_ends_the_search() -> None:
    with pytest.raises(WorkloadError, match="CheckpointError"):
        that_fits(bench({OWN: BROKEN}), OWN)
    with pytest.raises(Refusal, match="the workload's own set-up can't train here: killed"):
        that_fits(bench({OWN: CandidateFailed("killed")}), OWN)


@pytest.mark.parametrize(
    ("held", "beside", "reason"),
    [
        (740, 0, None),
        (740, 200, None),
        (760, 0, "it takes 1.27 times the memory on the epoch's largest batch, and 1.25 times is the most that it may"),
        (740, 300, "on the epoch's largest batch: used 1040"),
        (2000, 0, "on the epoch's largest batch: used 2000"),
    ],
)
def test_what_holds_more_is_held_to_its_limits_on_the_largest_batch(held: int, beside: int, reason: str | None) -> None:
    """Those of its row are of batches that happened to be timed."""
    kept = Settings(batch_size=16, keep_memory=True)
    search = bench({OWN: 600, kept: held})
    row = {"status": "passed", "peak_memory_bytes": 1, "loading_bytes": beside}
    change = Change(name="kept memory", settings={"keep_memory": True}, holds_more=True, most_memory=1.25)
    assert too_large(search, OWN, change, kept, row).get("reason") == reason
    assert too_large(search, OWN, change, kept, {**row, "status": "rejected"}) == {}
    assert too_large(search, OWN, Change(name="bf16"), kept, row) == {}
