"""`hotlap init` at the command line."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from hotlap.cli.init import init
from hotlap.errors import OutputError


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the command in an empty folder; errors come through, as `cli.main` wants them."""
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command()(init)
    return lambda *arguments: CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_it_says_what_was_written_what_is_missing_and_what_comes_next(run, tmp_path):
    result = run()
    assert (tmp_path / "workload.py").exists()
    lines = result.stdout.splitlines()
    assert lines[0] == "wrote workload.py"
    assert lines[1].startswith("it does not run yet: the workload's `model` raised NotImplementedError")
    assert lines[2:4] == ["next:", "  1. fill in `model` and `example` in workload.py"]


def test_it_says_what_runs(run):
    lines = run("mine.py", "--model", "torch.nn:ReLU", "--input", "int64:4").stdout.splitlines()
    assert lines[1] == "it runs: input int64 [batch, 4] -> output_0 int64 [batch, 4]"


def test_json_is_all_that_is_on_stdout(run):
    answer = json.loads(run("mine.py", "--json").stdout)
    assert answer["path"] == "mine.py"
    assert answer["signature"] is None
    assert len(answer["next_steps"]) == 4


def test_quiet(run):
    assert run("mine.py", "--quiet").stdout == "wrote mine.py\n"


def test_it_overwrites_nothing(run):
    run("mine.py")
    with pytest.raises(OutputError, match=r"mine\.py exists"):
        run("mine.py")
