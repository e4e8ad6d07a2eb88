"""`features train`: training rows from a feature repository, written to Parquet."""

from __future__ import annotations

from pathlib import Path

from hotlap.core import Json


def train(
    repo: Path | str,
    entities: Path | str,
    features: list[str] | str,
    *,
    out: Path | str,
    at: str | None = None,
    known_only: bool | None = None,
    full_feature_names: bool = False,
) -> Json:
    """Write the features as of each row of the Parquet file `entities` to `out`; gives the report, which the file
    carries too. See hotlap.features.store.Store.training. Raises InputError for what is not there.
    """
    from hotlap import features as package

    store = package.open(repo)
    made = store.training(
        Path(entities), features, at=at, out=out, known_only=known_only, full_feature_names=full_feature_names
    )
    return {"out": str(out), **made.report}
