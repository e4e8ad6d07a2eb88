"""An offline store for Feast: point-in-time joins in polars over Parquet and Delta.

In `feature_store.yaml`:

    offline_store:
      type: hotlap.features.PolarsOfflineStore
      known_only: true        # leave out what was created after the instant asked for
      memory_gb: 2            # about how much the rows of one view may take while they are joined
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalMetadata
from feast.repo_config import FeastConfigBaseModel

from hotlap.errors import InputError
from hotlap.features import entities, rules, times, write
from hotlap.features.asof import View, look_up
from hotlap.features.job import PolarsRetrievalJob, ViewReport
from hotlap.features.source import collected, place, scan

if TYPE_CHECKING:
    from feast.feature_view import FeatureView
    from feast.repo_config import RepoConfig


class PolarsOfflineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """The `offline_store` section of `feature_store.yaml`."""

    type: Literal["hotlap.features.PolarsOfflineStore"] = "hotlap.features.PolarsOfflineStore"
    known_only: bool = False
    memory_gb: float = 2.0


class PolarsOfflineStore(OfflineStore):  # type: ignore[misc]
    """Point-in-time joins in which every entity row comes back once, in its order; see hotlap.features.asof."""

    supports_filter_by_created_timestamp = True

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: Any,
        registry: Any,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> PolarsRetrievalJob:
        """The features of `feature_refs` as of each row of `entity_df`: a pandas or polars frame, an Arrow table, or
        the path of a Parquet file. Without one: each key's newest values at `end_date`.
        """
        from feast.on_demand_feature_view import OnDemandFeatureView

        own = config.offline_store
        given = str(entity_df) if isinstance(entity_df, str | Path) else "the frame given"
        views = plan(feature_views, feature_refs, config.repo_path, registry, project, full_feature_names)
        if entity_df is None:
            frame, bounds, views = _everyone(views, feature_views, start_date, end_date)
            at = entities.EVENT
        else:
            frame = entities.read(entity_df)
            at = entities.event_column(frame.collect_schema())
            frame = entities.in_utc(frame, at)
            ends = frame.select(pl.col(at).min().alias("0"), pl.col(at).max().alias("1"))
            lowest, highest = collected(ends, "entities", given).row(0)
            bounds = (lowest, highest)
        on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)

        def compute() -> tuple[pl.DataFrame, list[ViewReport]]:
            return join(
                collected(frame, "entities", given),
                at,
                views,
                known_only=own.known_only or filter_by_created_timestamp,
                memory_bytes=own.memory_gb * 1e9,
                drop_missing=entity_df is None,
            )

        return PolarsRetrievalJob(
            compute,
            repo=config.repo_path,
            full_feature_names=full_feature_names,
            on_demand=on_demand,
            metadata=RetrievalMetadata(
                features=feature_refs,
                keys=[name for name in frame.collect_schema() if name != at],
                min_event_timestamp=bounds[0],
                max_event_timestamp=bounds[1],
            ),
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: Any,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> PolarsRetrievalJob:
        """Each key's newest row between the dates, both included; ties as in the point-in-time join."""
        stamps, where = _stamps(timestamp_field, created_timestamp_column), place(data_source, config.repo_path)

        def compute() -> tuple[pl.DataFrame, list[ViewReport]]:
            rows = _between(scan(data_source, config.repo_path), join_key_columns, stamps, start_date, end_date)
            if join_key_columns:
                ordered = rows.sort(stamps, nulls_last=False, maintain_order=True)
                rows = ordered.unique(join_key_columns, keep="last", maintain_order=True)
            columns = [*join_key_columns, *feature_name_columns, *stamps]
            return _select(rows, join_key_columns, columns, where), []

        return PolarsRetrievalJob(compute, repo=config.repo_path)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: Any,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> PolarsRetrievalJob:
        """All rows between the dates, both included, in the source's order."""
        stamps, where = _stamps(timestamp_field, created_timestamp_column), place(data_source, config.repo_path)

        def compute() -> tuple[pl.DataFrame, list[ViewReport]]:
            rows = _between(scan(data_source, config.repo_path), join_key_columns, stamps, start_date, end_date)
            return _select(rows, join_key_columns, [*join_key_columns, *feature_name_columns, *stamps], where), []

        return PolarsRetrievalJob(compute, repo=config.repo_path)

    @staticmethod
    def write_logged_features(
        config: RepoConfig, data: pa.Table | Path, source: Any, logging_config: Any, registry: Any
    ) -> None:
        """Add logged rows to a FileLoggingDestination's folder."""
        destination = logging_config.destination
        table = pq.read_table(data) if isinstance(data, Path) else data
        write.logs(table, write.local(destination.path, config.repo_path), destination.partition_by)

    @staticmethod
    def offline_write_batch(
        config: RepoConfig, feature_view: FeatureView, table: pa.Table, progress: Callable[[int], Any] | None
    ) -> None:
        """Add rows to the view's source. They must have its columns, in its order, by its names or the view's."""
        from feast.infra.offline_stores.offline_utils import get_pyarrow_schema_from_batch_source

        source = feature_view.batch_source
        schema, columns = get_pyarrow_schema_from_batch_source(config, source)
        rows = pl.from_arrow(table)
        assert isinstance(rows, pl.DataFrame)
        rules.held_for(config.repo_path, feature_view, rows, "write to")
        original = {new: old for old, new in source.field_mapping.items()}
        table = table.rename_columns([original.get(name, name) for name in table.column_names])
        if columns != table.column_names:
            raise ValueError(
                f"The input pyarrow table has schema {table.schema} with the incorrect columns {table.column_names}. "
                f"The schema is expected to be {schema} with the columns (in this exact order) to be {columns}."
            )
        write.append(table, write.local(source.path, config.repo_path))
        if progress:
            progress(table.num_rows)


def plan(
    feature_views: list[FeatureView],
    feature_refs: list[str],
    repo: Path | str | None,
    registry: Any,
    project: str,
    full_feature_names: bool,
) -> list[View]:
    """What to look up in each view, columns by their sources' own names. Raises InputError where two features would
    have one name.
    """
    from feast.utils import _get_requested_feature_views_to_features_dict, _get_requested_on_demand_feature_views

    on_demand = _get_requested_on_demand_feature_views(feature_refs, project, registry)
    wanted, _ = _get_requested_feature_views_to_features_dict(feature_refs, feature_views, on_demand)
    views = []
    for view, names in wanted.items():
        called = view.projection.name_to_use()
        pairs = [(name, f"{called}__{name}" if full_feature_names else name) for name in names]
        views.append(view_of(view, pairs, repo))
    return views


def view_of(
    view: FeatureView,
    features: Iterable[tuple[str, str]],
    repo: Path | str | None,
    *,
    source: pl.LazyFrame | None = None,
) -> View:
    """What to look up in one view: the features by its names for them, each with its column in the result.

    source: its rows, by the source's own names; default those of its files. A view without entities has no keys here:
    the one that Feast lets stand in is no column of the source's.
    """
    from feast.feature_view import DUMMY_ENTITY_ID

    batch = view.batch_source
    original = {new: old for old, new in batch.field_mapping.items()}
    renamed = view.projection.join_key_map
    created = batch.created_timestamp_column
    return View(
        name=view.projection.name_to_use(),
        source=_scanned(view, repo) if source is None else source,
        keys=tuple(
            (renamed.get(one.name, one.name), original.get(one.name, one.name))
            for one in view.entity_columns
            if one.name != DUMMY_ENTITY_ID
        ),
        event=original.get(batch.timestamp_field, batch.timestamp_field),
        created=original.get(created, created) or None,
        ttl=times.to_live(view.name, view.ttl),
        features=tuple((original.get(name, name), column) for name, column in features),
        place=place(batch, repo),
    )


def _scanned(view: FeatureView, repo: Path | str | None) -> pl.LazyFrame:
    try:
        return scan(view.batch_source, repo)
    except InputError as error:
        raise type(error)(f"view {view.name}, {error}") from error.__cause__


def check_names(views: list[View], taken: Iterable[str]) -> None:
    """Raise InputError where a feature would get the name of a column of the entities, or of another feature."""
    names = set(taken)
    for view in views:
        for _, name in view.features:
            if name in names:
                raise InputError(
                    f"view {view.name}: there is a column {name} already; drop it from the entities, or ask for "
                    "full feature names"
                )
            names.add(name)


def join(
    frame: pl.DataFrame,
    at: str,
    views: list[View],
    *,
    known_only: bool,
    memory_bytes: float,
    drop_missing: bool = False,
) -> tuple[pl.DataFrame, list[ViewReport]]:
    """The entity frame with each view's features beside it, and what each view gave.

    drop_missing: leave out rows that no view has a value for.
    """
    check_names(views, frame.columns)
    columns, reports, known = [frame], [], pl.Series([False]).new_from_index(0, len(frame))
    for view in views:
        found = look_up(frame, at, view, known_only=known_only, memory_bytes=memory_bytes)
        columns.append(found.values)
        known = known | found.event.is_not_null()
        missing = len(frame) - found.found
        reports.append(ViewReport(view=view.name, rows=len(frame), missing=missing, created_after=found.created_after))
    joined = pl.concat(columns, how="horizontal")
    return joined.filter(known) if drop_missing else joined, reports


def _everyone(
    views: list[View], feature_views: list[FeatureView], start: datetime | None, end: datetime | None
) -> tuple[pl.LazyFrame, tuple[datetime, datetime], list[View]]:
    """Every key of the views at the end of the range, values older than an explicit start left out."""
    from dataclasses import replace

    from feast.utils import compute_non_entity_date_range

    first, last = compute_non_entity_date_range(feature_views, start_date=start, end_date=end)
    names = {tuple(sorted(column for column, _ in view.keys)) for view in views}
    if len(names) > 1:
        sets = " and ".join("(" + ", ".join(one) + ")" for one in sorted(names))
        raise InputError(f"views joined on {sets} have no common list of keys; give the entities to look up")
    if start is not None:
        views = [replace(view, ttl=min(view.ttl or timedelta.max, last - first)) for view in views]
    if names <= {()}:
        once = pl.LazyFrame({entities.EVENT: [last]}, schema={entities.EVENT: pl.Datetime("us", "UTC")})
        return once, (first, last), views
    keys = [view.source.select(pl.col(theirs).alias(mine) for mine, theirs in view.keys) for view in views]
    everyone = pl.concat(keys, how="vertical_relaxed").drop_nulls().unique(maintain_order=True)
    return everyone.with_columns(pl.lit(last, pl.Datetime("us", "UTC")).alias(entities.EVENT)), (first, last), views


def _stamps(event: str, created: str | None) -> list[str]:
    return [event, created] if created else [event]


def _between(
    rows: pl.LazyFrame, keys: list[str], stamps: list[str], start: datetime | None, end: datetime | None
) -> pl.LazyFrame:
    """The rows with an event time within the dates; timestamps in UTC."""
    from feast.errors import FeastJoinKeysDuringMaterialization

    schema = rows.collect_schema()
    if not set(keys) <= set(schema):
        raise FeastJoinKeysDuringMaterialization("the source", set(keys), set(schema))
    unit = times.unit(schema, schema, stamps, stamps[0])
    event = times.expression(stamps[0], schema, unit)
    for limit, keep in ((start, event.ge), (end, event.le)):
        if limit is not None:
            edge = times.integers(pl.Series("at", [limit]), unit)[0]
            rows = rows.filter(keep(pl.lit(edge)))
    rows = rows.filter(pl.col(stamps[0]).is_not_null())
    for one in stamps:
        rows = entities.in_utc(rows, one)
    return rows


def _select(rows: pl.LazyFrame, keys: list[str], columns: list[str], where: str) -> pl.DataFrame:
    """The columns, each once; without keys a column that Feast stands in for them."""
    from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL

    if not keys:
        rows = rows.with_columns(pl.lit(DUMMY_ENTITY_VAL).alias(DUMMY_ENTITY_ID))
        columns = [*columns, DUMMY_ENTITY_ID]
    return collected(rows.select(*dict.fromkeys(columns)), "a view", where)
