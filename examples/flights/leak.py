"""By how much a leaking join flatters the score: the same network, trained and judged on two joins of the same files.

    python examples/flights/leak.py          # about 3 minutes on 2 cores

The delays of an hour's departures are restated as its flights land. A join by event time alone takes the newest
restatement, which knows how flights ended that have not left yet, the row's own among them; `known_only` takes what had
been created by the flight's scheduled departure. Three figures: what the honest network reaches, what the leaking one
seems to reach, and what it reaches with the values that there are when it is asked. Intervals are 95%, by a bootstrap
over the days held out, since flights of one day share their weather.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import flights
import numpy as np
import polars as pl
import torch
from scipy.stats import rankdata

from hotlap import features

HERE = Path(__file__).resolve().parent
RESAMPLES = 200


def joined(store: features.Store, *, known_only: bool) -> tuple[pl.DataFrame, dict[str, float]]:
    """Every flight with its features, and the share of each view's values that were created after it was to leave."""
    made = store.training(
        HERE / "repo/data/flights.parquet", "late", at="scheduled", known_only=known_only, full_feature_names=True
    )
    shares = {name: one["leak_share"] for name, one in made.report["views"].items() if one["leak_share"] is not None}
    rows = pl.from_arrow(made.read())
    assert isinstance(rows, pl.DataFrame)
    return rows, shares


def trained(rows: pl.DataFrame, epochs: int) -> torch.nn.Module:
    inputs, late = flights.tensors(rows)
    model = flights.model()
    optimizer = flights.workload.optimizer(model.parameters())
    order = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for index in torch.randperm(len(late), generator=order).split(flights.workload.batch_size):
            optimizer.zero_grad()
            flights.workload.loss(model(inputs["codes"][index], inputs["numbers"][index]), late[index]).backward()
            optimizer.step()
    return model.eval()


def auc(late: np.ndarray, chance: np.ndarray) -> float:
    """How often a late flight is given the higher chance than one in time (the area under the ROC curve)."""
    ranks = rankdata(chance)
    hits = int(late.sum())
    return float((ranks[late].sum() - hits * (hits + 1) / 2) / (hits * (len(late) - hits)))


def judged(model: torch.nn.Module, rows: pl.DataFrame) -> dict[str, dict[str, float]]:
    """AUC and mean score on these rows, with intervals."""
    inputs, late = flights.tensors(rows)
    with torch.inference_mode():
        outputs = model(**inputs)
    chance, truth = outputs.numpy(), late.numpy() > 0
    scores = flights.score(outputs, late).numpy()
    days = rows["scheduled"].dt.date().rle_id().to_numpy()
    places = np.split(np.arange(len(days)), np.flatnonzero(np.diff(days)) + 1)
    draw = np.random.default_rng(0)
    found = {"auc": [], "score": []}
    for _ in range(RESAMPLES):
        index = np.concatenate([places[day] for day in draw.integers(0, len(places), len(places))])
        found["auc"].append(auc(truth[index], chance[index]))
        found["score"].append(scores[index].mean())
    figures = {"auc": auc(truth, chance), "score": float(scores.mean())}
    ends = {name: np.quantile(values, [0.025, 0.975]) for name, values in found.items()}
    return {name: {"estimate": figures[name], "low": ends[name][0], "high": ends[name][1]} for name in figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=flights.workload.epochs)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of lines")
    given = parser.parse_args()
    store = features.open(HERE / "repo")
    honest, _ = joined(store, known_only=True)
    leaking, shares = joined(store, known_only=False)
    (early, late), (early_leaking, late_leaking) = flights.split(honest), flights.split(leaking)
    sound, flattered = trained(early, given.epochs), trained(early_leaking, given.epochs)
    told = {
        "honest": judged(sound, late),
        "leaking": judged(flattered, late_leaking),
        "leaking, asked when the flight leaves": judged(flattered, late),
    }
    if given.json:
        print(json.dumps({"figures": told, "leak_share": shares, "held_out": late.height}))
        return
    for name, share in shares.items():
        print(f"{name}: {share:.1%} of its values were created after the flight was to leave")
    print(f"{late.height:,} flights held out; late {late['late'].mean():.1%}")
    for name, one in told.items():
        shown = [f"{what} {f['estimate']:.4f} ({f['low']:.4f} to {f['high']:.4f})" for what, f in one.items()]
        print(f"{name:40}{', '.join(shown)}")


if __name__ == "__main__":
    main()
