"""An offline store that gives every row back twice, and can't leave out what was created later."""

from __future__ import annotations

from typing import Any, Literal

import pandas as pd
from feast.infra.offline_stores.dask import DaskOfflineStore, DaskOfflineStoreConfig


class TwiceOfflineStoreConfig(DaskOfflineStoreConfig):  # type: ignore[misc]
    type: Literal["features.twice.TwiceOfflineStore"] = "features.twice.TwiceOfflineStore"


class TwiceOfflineStore(DaskOfflineStore):  # type: ignore[misc]
    supports_filter_by_created_timestamp = False

    @staticmethod
    def get_historical_features(*given: Any, **options: Any) -> Any:
        job = DaskOfflineStore.get_historical_features(*given, **options)
        once = job.evaluation_function
        job.evaluation_function = lambda: _Twice(once())
        return job


class _Twice:
    def __init__(self, frame: Any) -> None:
        self._frame = frame

    def compute(self) -> pd.DataFrame:
        rows = self._frame.compute()
        return pd.concat([rows, rows])
