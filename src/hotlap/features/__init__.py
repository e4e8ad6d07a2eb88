"""Features that are the same in training and serving, on Feast. Names are loaded when first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hotlap.features.offline import PolarsOfflineStore, PolarsOfflineStoreConfig

_HOMES = {
    "PolarsOfflineStore": "hotlap.features.offline",
    "PolarsOfflineStoreConfig": "hotlap.features.offline",
}

__all__ = ["PolarsOfflineStore", "PolarsOfflineStoreConfig"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hotlap.features' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
