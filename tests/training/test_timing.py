"""Timed steps: what is said of them beside their time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trainable

from hotlap.training import timing
from hotlap.training.settings import Settings

LOADER = """
import dataclasses
from torch.utils.data import DataLoader
workload = dataclasses.replace(workload, training=lambda: DataLoader(Rows(150, 3), batch_size=8, shuffle=True))
"""


@pytest.mark.parametrize(("add", "rows"), [(LOADER, 8), ("", 64)], ids=["a loader's own batches", "a Dataset"])
def test_a_step_has_the_rows_that_were_read(add: str, rows: int, tmp_path: Path) -> None:
    state: dict[str, Any] = {}
    timing.hold(state, target=trainable.write(tmp_path, "rows", add=add), settings=Settings().to_json())
    state["call"]()
    assert timing.held(state)["rows_a_step"] == rows
