"""Is the peak of a training foreseen? Predicted against measured, on the benchmark's models, in processes of their own.

    python benchmarks/memory.py                     about half an hour; writes benchmarks/results/memory.json
    python benchmarks/memory.py --only lstm vit     a part of it

Each case is observed at small batch sizes (4, 8, 32 and 64), predicted at others, and only then run there: ten whole
steps, and the kernel's own peak of the process. The exit code is 3 where a prediction is off by more than a tenth.
Weights are drawn at random, since memory does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "models")]

from noise import provenance_of, write  # noqa: E402

from hotlap.core import Json, to_json  # noqa: E402
from hotlap.machine import facts  # noqa: E402
from hotlap.training.memory.predict import SMALL_BATCHES, measure, observe, predict  # noqa: E402
from hotlap.training.settings import Settings  # noqa: E402

WORKLOADS = HERE / "models" / "untrained.py"
ALLOWED = 0.10


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One model in one set-up, at the rows a pass that are predicted and then run."""

    name: str
    workload: str
    batches: tuple[int, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


BF16 = {"precision": "bf16"}
LAST = {"layout": "channels_last"}
ALL = {"precision": "bf16", "layout": "channels_last", "fused": True, "ema": 0.999, "clip": 1.0}
TWO = {"batch_size": 128, "micro_batch": 64}
KEPT = {"keep_memory": True}
CASES = (
    Case(name="resnet18-64", workload="resnet18_64", batches=(48, 128)),
    Case(name="resnet18-64 bf16, channels_last, fused, EMA", workload="resnet18_64", batches=(48, 128), settings=ALL),
    Case(name="resnet18-64 SGD with momentum", workload="resnet18_64_momentum", batches=(48, 128)),
    Case(name="resnet18-224", workload="resnet18_224", batches=(16, 96)),
    Case(name="resnet18-224 channels_last", workload="resnet18_224", batches=(16, 96), settings=LAST),
    Case(name="resnet18-64 kept memory", workload="resnet18_64", batches=(48, 128), settings=KEPT),
    Case(name="conv1d", workload="conv1d", batches=(48, 96)),
    Case(name="unet", workload="unet", batches=(16, 96)),
    Case(name="unet bf16, channels_last, fused, EMA", workload="unet", batches=(16, 96), settings=ALL),
    Case(name="vit", workload="vit", batches=(48, 128)),
    Case(name="vit bf16", workload="vit", batches=(48, 128), settings=BF16),
    Case(name="lstm", workload="lstm", batches=(48, 128)),
    Case(name="lstm two passes a step", workload="lstm", batches=(96,), settings=TWO),
    Case(name="lstm bf16", workload="lstm", batches=(48, 128), settings=BF16),
    Case(name="lstm kept memory", workload="lstm", batches=(48, 128), settings=KEPT),
    Case(name="minilm-64", workload="minilm_64", batches=(48, 96)),
    Case(name="minilm-64 bf16, EMA", workload="minilm_64", batches=(48, 96), settings={**BF16, "ema": 0.999}),
    Case(name="minilm-64 kept memory", workload="minilm_64", batches=(48, 96), settings=KEPT),
    Case(name="minilm-128", workload="minilm_128", batches=(16, 96)),
)


def compare(case: Case, threads: int) -> Iterator[Json]:
    """Predict each of a case's batch sizes, then run it."""
    target = f"{WORKLOADS}:{case.workload}"
    began = time.monotonic()
    settings = Settings(threads=threads, **case.settings)
    seen = observe(target, settings)
    observed = time.monotonic() - began
    for batch in case.batches:
        foreseen = predict(seen, batch)
        real = measure(target, settings, batch=batch)
        yield {
            "case": case.name,
            "settings": to_json(settings),
            "batch": batch,
            "predicted_bytes": foreseen.peak_bytes,
            "measured_bytes": real["peak_bytes"],
            "error": foreseen.peak_bytes / real["peak_bytes"] - 1,
            "above_base_error": (foreseen.peak_bytes - foreseen.base_bytes) / (real["peak_bytes"] - real["base_bytes"])
            - 1,
            "prediction": {name: value for name, value in foreseen.to_json().items() if name != "holdings"},
            "base_bytes": real["base_bytes"],
            "observing_seconds": round(observed, 1),
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[""], help="cases whose names begin so")
    parser.add_argument("--threads", type=int, default=facts.facts().cores)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "memory.json")
    arguments = parser.parse_args()
    found: list[Json] = []
    skipped: dict[str, str] = {}
    for case in CASES:
        if not case.name.startswith(tuple(arguments.only)):
            continue
        if case.settings.get("precision") == "bf16" and not facts.facts().has_bf16_dot_product:
            skipped[case.name] = "this CPU has no bf16 arithmetic, and a step takes up to a hundred times as long"
            continue
        for row in compare(case, arguments.threads):
            found.append(row)
            sizes = f"{row['predicted_bytes'] / 1e6:.0f} MB predicted, {row['measured_bytes'] / 1e6:.0f} MB measured"
            print(f"{case.name}, batch {row['batch']}: {sizes}, {row['error']:+.1%}", flush=True)
            write(arguments.out, {**about(arguments.threads), **summary(found), "cases": found, "skipped": skipped})
    return 0 if summary(found)["within"] == len(found) else 3


def summary(found: list[Json]) -> dict[str, Any]:
    errors = [abs(row["error"]) for row in found]
    return {
        "predictions": len(found),
        "within": sum(error <= ALLOWED for error in errors),
        "largest_error": max(errors),
        "mean_error": sum(errors) / len(errors),
    }


def about(threads: int) -> Json:
    """What the figures need beside them."""
    configuration = {"threads": threads, "observed_at": SMALL_BATCHES, "allowed": ALLOWED}
    return {**provenance_of(Path(__file__)), "load_average": os.getloadavg(), "configuration": configuration}


if __name__ == "__main__":
    print(json.dumps({"cases": len(CASES)}), file=sys.stderr)
    sys.exit(main())
