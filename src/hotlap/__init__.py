"""hotlap makes PyTorch models fast and proves it.

The public names are loaded when first used: `import hotlap` loads neither torch nor any runtime.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hotlap.actions.compare import compare
    from hotlap.actions.doctor import doctor
    from hotlap.actions.init import init
    from hotlap.actions.monitor import monitor
    from hotlap.actions.optimize import optimize
    from hotlap.actions.profile import profile
    from hotlap.actions.train import train
    from hotlap.actions.tune import tune
    from hotlap.actions.verify import verify
    from hotlap.artifact.load import load
    from hotlap.workload.workload import Workload

__version__ = "0.1.0"

_HOMES = {
    "Workload": "hotlap.workload.workload",
    "compare": "hotlap.actions.compare",
    "doctor": "hotlap.actions.doctor",
    "init": "hotlap.actions.init",
    "load": "hotlap.artifact.load",
    "monitor": "hotlap.actions.monitor",
    "optimize": "hotlap.actions.optimize",
    "profile": "hotlap.actions.profile",
    "train": "hotlap.actions.train",
    "tune": "hotlap.actions.tune",
    "verify": "hotlap.actions.verify",
}

__all__ = [
    "Workload", "__version__", "compare", "doctor", "init", "load", "monitor", "optimize", "profile", "train", "tune",
    "verify",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hotlap' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
