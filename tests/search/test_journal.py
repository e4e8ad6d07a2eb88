"""The journal survives being cut off anywhere."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotlap.errors import OutputError
from hotlap.search.journal import Journal


def test_events_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    first = Journal(path)
    first.append("begin", settings={"seed": 1})
    first.append("candidate", key="a", reason="line\nbreak")
    first.close()
    again = Journal(path)
    assert [event["event"] for event in again.events] == ["begin", "candidate"]
    assert again.events[1]["reason"] == "line\nbreak"
    again.close()


@given(cut=st.integers(0, 400))
def test_a_kill_in_the_middle_of_a_line_loses_that_line_alone(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    journal = Journal(path)
    for index in range(8):
        journal.append("candidate", key=str(index), reason="x" * index)
    journal.close()
    data = path.read_bytes()
    cut = min(cut, len(data))
    path.write_bytes(data[:cut])
    again = Journal(path)
    whole = data[:cut].count(b"\n")
    assert [event["key"] for event in again.events] == [str(index) for index in range(whole)]
    again.append("candidate", key="next")
    again.close()
    last = Journal(path)
    assert [event["key"] for event in last.events] == [*(str(index) for index in range(whole)), "next"]
    last.close()


def test_damage_in_the_middle_is_said(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"event": "begin"}\n{"event": \n{"event": "end"}\n')
    with pytest.raises(OutputError, match=r"line 2 is damaged; start over with --force"):
        Journal(path)


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal._file.close()
    journal._file = open("/dev/full", "ab")  # noqa: SIM115 - the journal closes it
    with pytest.raises(OutputError, match=r"No space left on device.*make room and go on with --resume"):
        journal.append("candidate", key="a")
    with contextlib.suppress(OSError):
        journal.close()
