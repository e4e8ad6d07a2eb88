"""Settings as a file: what one command writes another takes."""

from pathlib import Path

import pytest

from hotlap.training.settings import Settings, read_settings, write_settings


@pytest.mark.parametrize("chosen", [True, False])
def test_what_is_written_is_read_again(chosen: bool, tmp_path: Path) -> None:
    given = Settings(batch_size=8, precision="bf16", threads=3)
    told = {"target": "digits.py", "digest": "0" * 64, "threads_chosen": chosen}
    write_settings(tmp_path / "settings.json", given, **told, snippets={"pytorch": "import torch"})
    wanted = given.to_json()
    if not chosen:
        del wanted["threads"]
    assert read_settings(tmp_path / "settings.json") == wanted
