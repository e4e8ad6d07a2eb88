"""What a run notes reaches the file in time, without a write for each step."""

from pathlib import Path

import pytest

from hotlap.training import records
from hotlap.training.records import Records


def test_steps_are_written_together_and_nothing_that_counts_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "_CHARTS", ())
    monkeypatch.setattr(records, "_FLUSH_SECONDS", 1e9)
    made = Records(tmp_path, size=0, name="rows", settings={})

    def lines() -> int:
        return len((tmp_path / "metrics.jsonl").read_bytes().splitlines())

    made.add({"step": 1, "loss": 0.5})
    made.add({"step": 2, "loss": 0.5})
    assert lines() == 0
    assert made.mark() == (tmp_path / "metrics.jsonl").stat().st_size > 0
    assert lines() == 2
    made.add({"step": 2, "score": 0.9})
    assert lines() == 3
    made.add({"step": 3, "loss": 0.5})
    made.close()
    assert lines() == 4


def test_the_size_is_that_of_the_file_also_after_lines_were_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "_CHARTS", ())
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"step": 2}\n')
    made = Records(tmp_path, size=12, name="rows", settings={})
    assert made.mark() == 12
    made.add({"step": 2, "loss": 0.5})
    assert made.mark() == (tmp_path / "metrics.jsonl").stat().st_size
    made.close()
