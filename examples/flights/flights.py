"""Flights that will arrive late, foreseen when they are to leave: a small network on stored features.

    hotlap optimize examples/flights/flights.py@runs/flights/trained --out runs/flights/fast

`README.md` has the steps before it. Late is what the US Department of Transportation calls so: 15 minutes or more after
schedule. The score is 1 - (probability - outcome)^2, a proper score (Brier, 1950): it rewards true probabilities, where
accuracy would reward "never late" with 76%.
"""

from pathlib import Path

import polars as pl
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from hotlap import Workload, features

ROWS = Path(__file__).resolve().parent / "repo" / "data" / "rows.parquet"
"""What `hotlap features train` wrote: features as of each flight's scheduled departure."""
HELD_OUT = 0.25
"""The last so many of the flights, by time, are held out for evaluation."""

DELAYS = (("departure_delay", 0.0), ("arrival_delay", 0.0), ("late_share", 0.2), ("landed", 0.0))
WEATHER = (
    ("temp", 55.0), ("dewp", 40.0), ("humid", 60.0), ("wind_speed", 10.0), ("precip", 0.0), ("pressure", 1018.0),
    ("visib", 10.0),
)  # fmt: skip
"""Features with what stands in where there is none: nothing was delayed, the weather was the usual."""
FEATURES = {
    "codes": [f"schedule:{name}" for name in ("origin_code", "carrier_code", "dest_code", "weekday")],
    "numbers": [
        "schedule:hour",
        "schedule:distance",
        *((f"weather:{name}", fill) for name, fill in WEATHER),
        *((f"{view}:{name}", fill) for view in ("airport", "airline", "route") for name, fill in DELAYS),
    ],
}
SIZES = (3, 16, 105, 8)
"""How many origins, airlines, destinations and weekdays (from 1) there are."""
ORIGINS = ("EWR", "JFK", "LGA")


class Delays(nn.Module):
    """codes int64 [batch, 4] and numbers float32 [batch, 21] to the probability of a late arrival, float32 [batch]."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(size, 8) for size in SIZES)
        self.norm = nn.BatchNorm1d(len(FEATURES["numbers"]))
        width = 8 * len(SIZES) + len(FEATURES["numbers"])
        self.layers = nn.Sequential(nn.Linear(width, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 1))

    def forward(self, codes: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        embedded = [embedding(codes[:, place]) for place, embedding in enumerate(self.embeddings)]
        x = torch.cat([*embedded, self.norm(numbers).clamp(-5, 5)], dim=1)
        return self.layers(x)[:, 0].sigmoid()


def model() -> nn.Module:
    torch.manual_seed(0)
    return Delays().eval()


def example(batch: int) -> dict[str, torch.Tensor]:
    return {"codes": torch.ones(batch, 4, dtype=torch.int64), "numbers": torch.randn(batch, len(FEATURES["numbers"]))}


def tensors(rows: pl.DataFrame) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """A model's inputs, made as they are made online, and whether each flight was late."""
    made = features.inputs(rows, FEATURES, dtypes={"codes": "int64"})
    if not made.complete.all():
        raise ValueError(f"{(~made.complete).sum()} rows lack a schedule")
    inputs = {name: torch.from_numpy(array) for name, array in made.arrays.items()}
    return inputs, torch.from_numpy(rows["late"].to_numpy().astype("float32"))


def split(rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Earlier flights, and the later ones that are held out."""
    rows = rows.sort("scheduled")
    first = round(len(rows) * (1 - HELD_OUT))
    return rows[:first], rows[first:]


class Flights(TensorDataset):
    """({"codes", "numbers"}, late) of the earlier flights."""

    def __init__(self) -> None:
        inputs, late = tensors(split(pl.read_parquet(ROWS))[0])
        super().__init__(inputs["codes"], inputs["numbers"], late)

    def __getitem__(self, index: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        codes, numbers, late = super().__getitem__(index)
        return {"codes": codes, "numbers": numbers}, late


def evaluation():
    inputs, late = tensors(split(pl.read_parquet(ROWS))[1])
    for start in range(0, len(late), 1024):
        part = slice(start, start + 1024)
        yield {name: value[part] for name, value in inputs.items()}, late[part]


def score(outputs: torch.Tensor, late: torch.Tensor) -> torch.Tensor:
    return 1 - (outputs - late) ** 2


def slices(inputs: dict[str, torch.Tensor], late: torch.Tensor) -> list[str]:
    return [ORIGINS[code] for code in inputs["codes"][:, 0].tolist()]


workload = Workload(
    model=model,
    example=example,
    evaluation=evaluation,
    score=score,
    slices=slices,
    training=Flights,
    loss=functional.binary_cross_entropy,
    optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, weight_decay=1e-4),
    batch_size=1024,
    epochs=2,
    features=FEATURES,
    feature_repo="repo",
)
