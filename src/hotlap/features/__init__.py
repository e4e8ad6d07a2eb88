"""Features that are the same in training and serving, on Feast. Names are loaded when first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hotlap.errors import MissingExtra

if TYPE_CHECKING:
    from hotlap.features.applied import apply
    from hotlap.features.embedded import EmbeddedOnlineStore, EmbeddedOnlineStoreConfig
    from hotlap.features.model_inputs import Inputs
    from hotlap.features.model_inputs import of_rows as inputs
    from hotlap.features.offline import PolarsOfflineStore, PolarsOfflineStoreConfig
    from hotlap.features.read_log import ReadLog
    from hotlap.features.store import Store
    from hotlap.features.store import open_store as open

_HOMES = {
    "EmbeddedOnlineStore": ("hotlap.features.embedded", "EmbeddedOnlineStore"),
    "EmbeddedOnlineStoreConfig": ("hotlap.features.embedded", "EmbeddedOnlineStoreConfig"),
    "Inputs": ("hotlap.features.model_inputs", "Inputs"),
    "PolarsOfflineStore": ("hotlap.features.offline", "PolarsOfflineStore"),
    "PolarsOfflineStoreConfig": ("hotlap.features.offline", "PolarsOfflineStoreConfig"),
    "ReadLog": ("hotlap.features.read_log", "ReadLog"),
    "Store": ("hotlap.features.store", "Store"),
    "apply": ("hotlap.features.applied", "apply"),
    "inputs": ("hotlap.features.model_inputs", "of_rows"),
    "open": ("hotlap.features.store", "open_store"),
}

__all__ = [
    "EmbeddedOnlineStore", "EmbeddedOnlineStoreConfig", "Inputs", "PolarsOfflineStore", "PolarsOfflineStoreConfig",
    "ReadLog", "Store", "apply", "inputs", "open",
]  # fmt: skip


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
