"""The second form of a model beside the one that takes any shapes: that for the measured ones."""

from __future__ import annotations

from collections.abc import Mapping

from hotlap.core import Json, Signature


def fixed_axes(options: Mapping[str, Json]) -> dict[str, int]:
    """The sizes that the option `static` fixes, by the axis's name; empty where it is not given."""
    return dict(options.get("fixed_axes", {})) if options.get("static") else {}


def fixed_shapes(signature: Signature, fixed: Mapping[str, int]) -> list[tuple[int, ...]]:
    """The inputs' shapes with these axes fixed; -1 for an axis that stays open."""
    return [
        tuple(fixed.get(axis, -1) if isinstance(axis, str) else axis for axis in spec.shape)
        for spec in signature.inputs
    ]
