"""`features get`: the newest values of keys, with their ages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hotlap.core import Json
from hotlap.features.in_json import in_json

if TYPE_CHECKING:
    import polars as pl

    from hotlap.features.store import Store


def get(
    repo: Path | str,
    keys: dict[str, list[str]] | Path,
    features: list[str] | str,
    *,
    full_feature_names: bool = False,
    timeout_s: float = 2.0,
) -> Json:
    """The values of each key from the online store.

    keys: columns of texts, or a Parquet, CSV or JSON-lines file. Gives `at`, and `rows`: each with its `keys` and for
    each feature its `value`, its `status` and its `age_seconds` (null where there is no row; both null for what an
    on-demand view computes). All of it is JSON: instants as ISO 8601, bytes in base64, and what JSON has no number for
    as "NaN", "Infinity" or "-Infinity". Raises InputError for what is not there, StoreDown where the store does not
    answer.
    """
    from hotlap import features as package

    store = package.open(repo, timeout_s=timeout_s)
    from hotlap.features import rows_file

    if isinstance(keys, Path):
        columns = rows_file.read(keys, "--keys", _kinds(store)).to_dict(as_series=False)
    else:
        columns = _typed(store, keys)
    online = store.online(columns, features, full_feature_names=full_feature_names)
    names = [name for name in online.table.column_names if name not in columns]
    plain = online.table.to_pylist()
    status = {name: online.status(name) for name in names if name in online.views}
    ages = {name: [None if age != age else age for age in online.age(name).tolist()] for name in status}
    return {
        "at": online.at.isoformat(),
        "rows": [
            {
                "keys": {name: in_json(plain[row][name]) for name in columns},
                "features": {
                    name: {
                        "value": in_json(plain[row][name]),
                        "status": status[name][row] if name in status else None,
                        "age_seconds": ages[name][row] if name in ages else None,
                    }
                    for name in names
                },
            }
            for row in range(len(plain))
        ],
    }


def _kinds(store: Store) -> dict[str, pl.DataType]:
    """The types of the repository's keys, and of what its on-demand views take with a request."""
    import polars as pl

    from hotlap.features.on_demand import polars_kind

    feast = store.feast
    kinds = {name: kind for view in store.on_demand.values() for name, kind in view.request.items()}
    for view in feast.registry.list_feature_views(feast.project):
        for one in view.entity_columns:
            instant = one.dtype.to_value_type().name == "UNIX_TIMESTAMP"  # a key is a number of seconds
            kinds[one.name] = pl.Int64() if instant else polars_kind(one.dtype)
    return kinds


def _typed(store: Store, keys: dict[str, list[str]]) -> dict[str, list[Any]]:
    """What was written on the command line, as the types that the repository declares."""
    import polars as pl

    from hotlap.features import rows_file

    kinds = _kinds(store)
    return {
        name: rows_file.typed(pl.Series(name, column), kinds[name], f"--key {name}").to_list()
        if name in kinds
        else column
        for name, column in keys.items()
    }
