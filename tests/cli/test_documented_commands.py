"""The commands in the pages of `doctor` and `profile` run as they stand there.

The code in those pages is run by tests/actions. A command times processes for several seconds.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import known_limits
import pytest
import typer
from typer.testing import CliRunner

from hotlap.machine.facts import facts

ROOT = Path(__file__).parents[2]


def commands() -> Iterator[str]:
    for page in ("doctor", "profile"):
        text = (ROOT / "docs" / f"{page}.md").read_text()
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
            yield from block.splitlines()


@pytest.mark.exhaustive
@pytest.mark.parametrize("line", list(commands()))
def test_a_documented_command_runs(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HOTLAP_HOME", str(tmp_path))
    known_limits.plant(tmp_path, threads=facts().cores)
    program, name, *arguments = shlex.split(line)
    assert program == "hotlap"
    app = typer.Typer()
    app.command()(getattr(import_module(f"hotlap.cli.{name}"), name))
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert done.stdout.strip()
