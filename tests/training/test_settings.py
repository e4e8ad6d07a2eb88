"""Settings as a file: what one command writes another takes."""

from pathlib import Path
from typing import Any

import pytest

from hotlap.training.settings import Settings, read_settings, write_settings


@pytest.mark.parametrize("chosen", [True, False])
def test_what_is_written_is_read_again(chosen: bool, tmp_path: Path) -> None:
    given = Settings(batch_size=8, precision="bf16", threads=3)
    told: dict[str, Any] = {"target": "digits.py", "digest": "0" * 64, "threads_chosen": chosen, "own": {}}
    write_settings(tmp_path / "settings.json", given, **told, snippets={"pytorch": "import torch"})
    wanted = given.to_json()
    if not chosen:
        del wanted["threads"]
    assert read_settings(tmp_path / "settings.json") == wanted


def test_what_the_workload_itself_said_is_left_to_it(tmp_path: Path) -> None:
    given = Settings(batch_size=16, epochs=5, precision="bf16")
    told: dict[str, Any] = {"target": "digits.py", "digest": "0" * 64, "threads_chosen": True}
    write_settings(tmp_path / "settings.json", given, **told, own={"batch_size": 8, "epochs": 5})
    found = read_settings(tmp_path / "settings.json")
    assert (found["batch_size"], found["precision"]) == (16, "bf16")
    assert "epochs" not in found
