"""`features apply`: the repository's definitions into its registry and online store."""

from __future__ import annotations

from pathlib import Path

from hotlap.core import Json


def apply(repo: Path | str) -> Json:
    """See hotlap.features.applied.apply."""
    from hotlap import features

    return features.apply(repo)
