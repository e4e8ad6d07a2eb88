"""What the user's code raises is told with the user's own line, and nothing of hotlap's is blamed on it."""

from __future__ import annotations

import importlib.util
import json

import pytest

from hotlap.errors import OutputError, WorkloadError
from hotlap.workload import user_code
from hotlap.workload.user_code import describe, is_users, naming, own_line, running


@pytest.fixture
def users(tmp_path):
    """A module of the user's, from its source."""

    def make(source):
        path = tmp_path / "theirs.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location("theirs", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return make


def test_the_innermost_line_of_the_users_own(users):
    module = users("import json\ndef outer():\n    inner()\ndef inner():\n    json.loads('[')  # here\n")
    with (
        pytest.raises(
            WorkloadError, match=r"`score` raised JSONDecodeError: .*theirs\.py:5: json\.loads\('\['\)  # here"
        ),
        running("score"),
    ):
        module.outer()


def test_a_path_is_shown_from_the_current_folder(users, tmp_path, monkeypatch):
    module = users("def fail():\n    raise KeyError('x')\n")
    monkeypatch.chdir(tmp_path)
    with (
        pytest.raises(WorkloadError, match=r"raised KeyError: 'x' \(theirs\.py:2: raise KeyError\('x'\)\)$"),
        running("f"),
    ):
        module.fail()


def test_where_no_line_is_the_users_none_is_shown():
    assert own_line(ValueError("never raised")) is None
    assert describe(ValueError("never raised")) == "ValueError: never raised"


def test_which_files_are_the_users():
    assert is_users(__file__)
    assert not any(map(is_users, (json.__file__, pytest.__file__, user_code.__file__, "<string>")))


def test_long_and_many_lined_messages_are_cut():
    assert describe(ValueError("\n\n  first\nsecond")) == "ValueError: first"
    assert describe(ValueError("x" * 5000)) == "ValueError: " + "x" * 400 + "..."
    assert describe(ValueError()) == "ValueError"


def test_a_line_that_ends_in_a_colon_goes_on_with_the_next():
    assert describe(ValueError("backend raised:\n\n  Error: one:\n  this\nand more")) == (
        "ValueError: backend raised: Error: one: this"
    )
    assert describe(ValueError("nothing follows:\n")) == "ValueError: nothing follows:"


def test_hotlaps_own_errors_and_interrupts_pass():
    for error in (OutputError("no room"), KeyboardInterrupt()):
        with pytest.raises(type(error)), running("model"):
            raise error


def test_exits_are_caught():
    with pytest.raises(WorkloadError, match=r"`model` raised SystemExit: 3"), running("model"):
        raise SystemExit(3)


def test_what_is_printed_goes_to_stderr(capsys):
    with running("model"):
        print("noise")
    assert capsys.readouterr() == ("", "noise\n")


def test_a_check_names_its_field():
    with pytest.raises(WorkloadError, match=r"^the workload's `training`: too small$"), naming("training"):
        raise WorkloadError("too small")
