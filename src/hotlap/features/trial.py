"""Feast's trial of on-demand functions while they are applied: what goes wrong in it is told by the view's name.

Feast calls each function once, on rows that it makes up, and holds what it gives to the declared schema.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hotlap.errors import InputError
from hotlap.features.on_demand import place, wrong_kind
from hotlap.workload.user_code import describe, is_users

if TYPE_CHECKING:
    from types import FrameType

_TRIED = "tried by Feast on rows that it makes up"
_MADE = ("output_df", "output_dict")
"""What Feast's own code calls what a function gave."""


@contextmanager
def blaming() -> Iterator[None]:
    """Around Feast's apply: raises InputError where a function fails in its trial, or gives what was not declared."""
    from feast.errors import RegistryInferenceFailure, SpecifiedFeaturesNotPresentError

    try:
        yield
    except SpecifiedFeaturesNotPresentError as error:
        raise InputError(_declared_otherwise(str(error))) from error
    except RegistryInferenceFailure:
        raise
    except (Exception, SystemExit) as error:
        told = _told(error)
        if told is None:
            raise
        raise InputError(told) from error


def _told(error: BaseException) -> str | None:
    """What a function did in its trial; None where none was being tried."""
    from feast.on_demand_feature_view import OnDemandFeatureView

    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    tried = [number for number, frame in enumerate(frames) if frame.f_code.co_name == "infer_features"]
    view = frames[tried[0]].f_locals.get("self") if tried else None
    if not isinstance(view, OnDemandFeatureView):
        return None
    if any(is_users(frame.f_code.co_filename) for frame in frames[tried[0] :]):
        return f"view {view.name}: its function, {_TRIED}, raised {describe(error)}"
    function = getattr(view.feature_transformation, "udf", None)
    wrong = wrong_kind(_made(frames), view.mode, view.singleton) or f"gave what it can't take: {describe(error)}"
    return f"view {view.name}: its function{place(function)}, {_TRIED}, {wrong}"


def _made(frames: list[FrameType]) -> Any:
    return next((frame.f_locals[name] for frame in frames for name in _MADE if name in frame.f_locals), None)


def _declared_otherwise(told: str) -> str:
    """Feast's message, which quotes whole fields, as names with types: those declared otherwise than the function,
    when it was run, gave them.
    """
    declared, given = (
        dict(re.findall(r"name='([^']*)',\s*dtype=<?[^.,]*?\.?([A-Z0-9_]+)\b", part))
        for part in told.split("not found in")[:2]
    )
    view = told.rpartition(" for ")[2].strip("'")
    wanted = ", ".join(f"{name} {kind.lower()}" for name, kind in declared.items())
    got = ", ".join(f"{name} {given[name].lower()}" if name in given else f"no {name}" for name in declared)
    return (
        f"on-demand view {view} declares {wanted}, and its function, {_TRIED}, gives {got}; change the schema, or give "
        "that type (astype in pandas, a list in python)"
    )
