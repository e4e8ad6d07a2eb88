"""Calibration inputs are drawn once a search; each build reads what was kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest

from hotlap.search.work import calibration
from hotlap.workload import roles
from hotlap.workload.opened import open_workload
from hotlap.workload.target import load_target

COUNTING = """
def counted():
    with open(__file__ + ".drawn", "a") as file:
        file.write("x")
    return data(3)[0].split(24)
"""


@pytest.fixture
def opened(tmp_path: Path) -> Any:
    file = Path(models.write(tmp_path, "convolutions"))
    text = file.read_text().replace("calibration=lambda: iter(data(3)[0].split(16))", "calibration=counted")
    file.write_text(text.replace("workload = Workload(", COUNTING + "\nworkload = Workload("))
    return open_workload(load_target(str(file)))


def drawn(opened: Any) -> int:
    return len(Path(f"{opened.loaded.file}.drawn").read_text())


def as_arrays(make: Any) -> list[list[np.ndarray]]:
    return [list(batch) for batch in make()]


def test_they_are_drawn_once_and_read_as_they_were(opened: Any, tmp_path: Path) -> None:
    facts = roles.check_evaluation(opened, seed=0)
    assert calibration.keep(opened, tmp_path / "work", seed=0, facts=facts) == (64, None)
    assert drawn(opened) == 1
    make, reason = calibration.kept(opened, tmp_path / "work", seed=0)
    again, _ = calibration.kept(opened, tmp_path / "work", seed=0)
    assert reason is None
    assert drawn(opened) == 1
    plain, _, _ = roles.calibration_arrays(opened, seed=0)
    for found in (as_arrays(make), as_arrays(make), as_arrays(again)):
        for got, want in zip(found, as_arrays(plain), strict=True):
            np.testing.assert_array_equal(got[0], want[0])


def test_what_is_too_much_to_keep_or_finds_no_room_is_drawn_again(
    opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    assert calibration.keep(opened, tmp_path / "file", seed=0, facts=None)[0] == 64
    monkeypatch.setattr(calibration, "_MOST_BYTES", 100)
    assert calibration.keep(opened, tmp_path / "work", seed=0, facts=None)[0] == 64
    assert not (tmp_path / "work").exists()
    make, _ = calibration.kept(opened, tmp_path / "work", seed=0)
    assert drawn(opened) == 3
    assert sum(len(batch[0]) for batch in as_arrays(make)) == 64
