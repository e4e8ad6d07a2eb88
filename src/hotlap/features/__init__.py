"""Features that are the same in training and serving, on Feast. Names are loaded when first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hotlap.errors import MissingExtra

if TYPE_CHECKING:
    from hotlap.features.offline import PolarsOfflineStore, PolarsOfflineStoreConfig
    from hotlap.features.store import Store
    from hotlap.features.store import open_store as open

_HOMES = {
    "PolarsOfflineStore": ("hotlap.features.offline", "PolarsOfflineStore"),
    "PolarsOfflineStoreConfig": ("hotlap.features.offline", "PolarsOfflineStoreConfig"),
    "Store": ("hotlap.features.store", "Store"),
    "open": ("hotlap.features.store", "open_store"),
}

__all__ = ["PolarsOfflineStore", "PolarsOfflineStoreConfig", "Store", "open"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hotlap.features' has no attribute {name!r}")
    home, own = _HOMES[name]
    try:
        return getattr(import_module(home), own)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "hotlap":
            raise
        raise MissingExtra(
            f"features need {error.name}, which is not installed: pip install 'hotlap[features]'"
        ) from error


def __dir__() -> list[str]:
    return sorted(__all__)
