"""A retrieval that runs when its result is asked for."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata

from hotlap.features import write

if TYPE_CHECKING:
    import pandas as pd
    from feast.on_demand_feature_view import OnDemandFeatureView

METADATA = b"hotlap"
"""Under which key of a result's Arrow schema its report stands, as JSON."""
_log = logging.getLogger("hotlap.features")


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewReport:
    """What one view gave to a retrieval.

    `missing` counts rows with no value. `created_after` counts values that were created after the instant they were
    given for, so that a model trained on them may know what it could not have known; None where the view has no
    created time. `leak_share` is their share of the values found.
    """

    view: str
    rows: int
    missing: int
    created_after: int | None

    @property
    def leak_share(self) -> float | None:
        found = self.rows - self.missing
        return None if self.created_after is None else self.created_after / found if found else 0.0

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "leak_share": self.leak_share}


class PolarsRetrievalJob(RetrievalJob):  # type: ignore[misc]
    """The result of `compute`, once, as pandas, polars or Arrow; `report` says afterwards what each view gave."""

    def __init__(
        self,
        compute: Callable[[], tuple[pl.DataFrame, list[ViewReport]]],
        *,
        repo: Path | str | None,
        full_feature_names: bool = False,
        on_demand: list[OnDemandFeatureView] | None = None,
        metadata: RetrievalMetadata | None = None,
    ) -> None:
        self._compute = compute
        self._repo = repo
        self._full_feature_names = full_feature_names
        self._on_demand = on_demand or []
        self._metadata = metadata
        self._report: list[ViewReport] | None = None

    @property
    def full_feature_names(self) -> bool:
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        return self._on_demand

    @property
    def metadata(self) -> RetrievalMetadata | None:
        return self._metadata

    @property
    def report(self) -> list[ViewReport]:
        """What each view gave; the retrieval runs if it has not run yet."""
        if self._report is None:
            self.to_polars()
        return self._report or []

    def to_polars(self) -> pl.DataFrame:
        """The result without on-demand features."""
        frame, self._report = self._compute()
        for one in self._report:
            if one.created_after:
                _log.warning(
                    "view %s: %.2f%% of the values were created after the instant they were given for, a likely leak; "
                    "set known_only: true in offline_store, or pass filter_by_created_timestamp=True",
                    one.view,
                    100 * (one.leak_share or 0),
                )
        return frame

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        table = plain(self.to_polars())
        if not self._report:
            return table
        told = json.dumps([one.to_json() for one in self._report]).encode()
        return table.replace_schema_metadata({**(table.schema.metadata or {}), METADATA: told})

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._to_arrow_internal().to_pandas()

    def persist(self, storage: Any, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        write.dataset(self.to_arrow(), storage, self._repo, overwrite=allow_overwrite)


def plain(frame: pl.DataFrame) -> pa.Table:
    """The frame as Arrow with the types that Feast knows: `string` and `list`, not their large kin."""
    table = frame.to_arrow()
    return table.cast(pa.schema([pa.field(one.name, _small(one.type)) for one in table.schema]))


def _small(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_dictionary(kind):
        return pa.string()
    if pa.types.is_large_list(kind) or pa.types.is_list(kind):
        return pa.list_(_small(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(one.name, _small(one.type)) for one in kind])
    return kind
