"""Which set-ups fit the memory on the epoch's largest batch: the one to begin with, and those with a change."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hotlap.core import Json
from hotlap.errors import CandidateFailed, OutOfMemory, Refusal
from hotlap.training.bench import FAILURES, Bench, Peak, told
from hotlap.training.set_ups import Change, thriftier
from hotlap.training.settings import Settings


def that_fits(bench: Bench, usual: Settings) -> tuple[Settings, Peak, list[str]]:
    """The workload's own set-up, or the nearest of the same result that fits the memory, its peak, and warnings.

    Raises Refusal where none does, and what the workload's own set-up fails of.
    """
    own = Change(name="the workload's own set-up")
    last, failed = "", list[str]()
    for change in (own, *thriftier(bench.study, usual)):
        if change.settings and time.monotonic() > bench.deadline:
            raise Refusal(
                f"the budget was spent before a set-up was found that fits the memory: {last}; give a longer --budget, "
                "or allow more"
            )
        settings = replace(usual, **change.settings)
        bench.tell({"event": "phase", "phase": f"the memory of {change.name}"})
        try:
            peak = bench.peak(settings)
        except OutOfMemory as error:
            last = f"with {change.name}: {told(error)}"
            continue
        except FAILURES as error:
            if change.settings:
                failed.append(f"{change.name}, which takes less memory, failed: {told(error)}")
                continue
            if isinstance(error, CandidateFailed):
                raise Refusal(f"{change.name} can't train here: {told(error)}") from error
            raise
        warnings = failed
        if change.settings:
            warnings.append(f"the workload's own set-up runs out of memory; compared with {change.name} instead")
        if not peak.whole:
            warnings.append(
                f"memory is that of the largest of {peak.looked_at:,} examples (or batches), which is as far as the "
                "look through the data went; a larger one may be left"
            )
        return settings, peak, warnings
    raise Refusal(f"no set-up of the same result fits the memory: {'; '.join([last, *failed])}; allow more")


def too_large(bench: Bench, baseline: Settings, change: Change, settings: Settings, row: Mapping[str, Any]) -> Json:
    """What becomes of a change's row that passed, where a training with `settings`, which have it, holds too much.

    What was timed may have been small batches: this is of the epoch's largest. {} where it stays as it is.
    """
    if not change.holds_more or row["status"] != "passed":
        return {}
    bench.tell({"event": "phase", "phase": f"the memory of {change.name}"})
    try:
        bench.peak(settings, beside=row["loading_bytes"])
        times = 0.0
        if change.most_memory < math.inf:
            # Without what was taken before and has its own memory: it is not this change's.
            alone = replace(settings, attention=baseline.attention, length_buckets=baseline.length_buckets)
            times = bench.peak(alone).bytes / bench.peak(baseline).bytes
    except FAILURES as error:
        return {"status": "failed", "reason": f"on the epoch's largest batch: {told(error)}"}
    if times <= change.most_memory:
        return {}
    reason = (
        f"it takes {times:.2f} times the memory on the epoch's largest batch, and {change.most_memory:g} times is the "
        "most that it may"
    )
    return {"status": "rejected", "reason": reason}
