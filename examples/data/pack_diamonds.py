"""Make `diamonds.npz` from plotnine's `diamonds.csv` (`plotnine/data/diamonds.csv` in the PyPI package, 0.15.9).

    python examples/data/pack_diamonds.py diamonds.csv

Rows that say the same twice, and rows with a length of zero, go; 25,000 of the rest stay, in a seeded random order.
"""

import csv
import sys
from pathlib import Path

import numpy as np

NUMBERS = ("carat", "depth", "table", "x", "y", "z")
CATEGORIES = {
    "cut": ("Fair", "Good", "Very Good", "Premium", "Ideal"),
    "color": tuple("JIHGFED"),
    "clarity": ("I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF"),
}
ROWS = 25_000


def main(source: str) -> None:
    with open(source, newline="") as file:
        rows = {tuple(row.values()): row for row in csv.DictReader(file)}
    kept = [row for row in rows.values() if all(float(row[name]) > 0 for name in "xyz")]
    order = np.random.default_rng(0).permutation(len(kept))[:ROWS]
    kept = [kept[index] for index in order]
    np.savez_compressed(
        Path(__file__).with_name("diamonds.npz"),
        numbers=np.array([[float(row[name]) for name in NUMBERS] for row in kept], np.float32),
        categories=np.array([[CATEGORIES[n].index(row[n]) for n in CATEGORIES] for row in kept], np.uint8),
        price=np.array([int(row["price"]) for row in kept], np.uint16),
    )


if __name__ == "__main__":
    main(sys.argv[1])
