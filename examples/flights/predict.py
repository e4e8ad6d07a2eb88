"""Which of the next flights will arrive late, by their keys alone.

python examples/flights/predict.py runs/flights/fast/artifact
"""

from __future__ import annotations

import argparse
from pathlib import Path

import polars as pl

from hotlap import features

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", help="what `hotlap optimize` wrote")
    given = parser.parse_args()
    flights = pl.read_parquet(HERE / "repo/data/upcoming.parquet")
    now = flights["now"][0]
    keys = flights.select("flight_id", "origin", "carrier", "dest")
    found = features.open(HERE / "repo").predict(given.artifact, keys, at=now)
    print(f"{len(flights)} flights leave within two hours of {now:%Y-%m-%d %H:%M} UTC; {found.answered.sum()} answers")
    if found.outputs is not None:
        rows = flights.filter(pl.Series(found.answered)).with_columns(late=pl.Series(found.outputs))
        for row in rows.sort("late", descending=True).head(5).iter_rows(named=True):
            print(
                f"  {row['carrier']} {row['origin']}-{row['dest']} at {row['scheduled']:%H:%M}: {row['late']:.0%} late"
            )
    for view, ages in found.ages.items():
        known = ages[ages == ages]
        told = f"{known.min() / 60:,.0f} to {known.max() / 60:,.0f} minutes old" if len(known) else "no values"
        print(f"  {view}: {told}, {len(ages) - len(known)} of {len(ages)} without a value")
    print(f"  {sum(bool(row.filled) for row in found.rows)} rows had a gap filled, "
          f"{sum(row.refused is not None for row in found.rows)} were refused")  # fmt: skip


if __name__ == "__main__":
    main()
