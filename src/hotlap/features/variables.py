"""What `feature_store.yaml` takes from the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hotlap.errors import InputError


def check_set(held: Any, path: Path, place: str = "") -> None:
    """Raise InputError where a value names a variable that is not set: Feast would send `${NAME}` as it stands."""
    for where, name in _unset(held, place):
        raise InputError(f"{path}: {where} takes ${{{name}}} from the environment, which has none; set {name}")


def _unset(held: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(held, dict | list):
        for name, one in held.items() if isinstance(held, dict) else enumerate(held):
            yield from _unset(one, f"{place}.{name}" if place else str(name))
    elif isinstance(held, str):
        yield from ((place, name) for name in re.findall(r"\$\{(\w+)\}", held) if name not in os.environ)
