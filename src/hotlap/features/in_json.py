"""A value of a table as JSON, which has no form for instants, bytes and numbers without end."""

from __future__ import annotations

import base64
import math
from datetime import datetime
from typing import Any

from hotlap.core import Json


def in_json(value: Any) -> Json:
    """Instants as ISO 8601, bytes in base64, "NaN", "Infinity" and "-Infinity"; what else has no form, as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, list | tuple):
        return [in_json(one) for one in value]
    if isinstance(value, dict):
        return {str(name): in_json(one) for name, one in value.items()}
    if isinstance(value, datetime):
        return value.isoformat()
    return value if isinstance(value, str | int | float) or value is None else str(value)
