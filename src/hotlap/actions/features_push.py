"""`features push`: new events from a file, to the online store, to the views' own sources, or to both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hotlap.core import Json

if TYPE_CHECKING:
    import polars as pl

    from hotlap.features.push import To


def push(repo: Path | str, source: str, rows: Path | str, *, to: To = "both", timeout_s: float = 2.0) -> Json:
    """Push the rows of a Parquet, CSV or JSON-lines file; see hotlap.features.store.Store.push, which this calls.

    Raises InputError for what is not there or does not fit, StoreDown where the online store does not answer.
    """
    from hotlap import features as package

    store = package.open(repo, timeout_s=timeout_s)
    from hotlap.features import rows_file
    from hotlap.features.push import views_of

    kinds: dict[str, pl.DataType] = {}
    for view in views_of(store, source):
        kinds.update(_kinds(view))
    return store.push(source, rows_file.read(Path(rows), "--rows", kinds), to=to)


def _kinds(view: Any) -> dict[str, pl.DataType]:
    """The types of a view's keys and features, by its names and by its source's."""
    from hotlap.features.on_demand import polars_kind

    own = {one.name: polars_kind(one.dtype) for one in (*view.entity_columns, *view.features)}
    names = view.batch_source.field_mapping.items()
    return own | {old: own[new] for old, new in names if new in own}
