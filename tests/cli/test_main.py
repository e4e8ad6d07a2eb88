"""Errors become one sentence and an exit code; help is there for every command."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from hotlap.cli import main


@pytest.mark.parametrize("command", main.COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([command, "--help"]) == 0
    assert "Usage: hotlap" in capsys.readouterr().out


@pytest.mark.parametrize(("called", "kept"), [("optimize", True), ("train", True), ("tune", False), ("keys", False)])
def test_only_what_can_be_taken_up_is_said_to_be_kept_when_interrupted(called: str, kept: bool) -> None:
    command = typer.main.get_command(main.build_app())
    assert main._takes_up(command, [called, "file.py"]) == kept


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train", "a.py", "--out", "OUT"], "; what was done so far is kept"),
        (["optimize", "a.py", "--out=OUT"], "; what was done so far is kept"),
        (["train", "a.py", "--out", "none"], " before there was anything to keep; run it again"),
        (
            ["train", "a.py", "--out", "OUT/begun"],
            " before its first checkpoint; go on with --resume, or start over with --force",
        ),
        (["tune", "a.py", "--out", "OUT"], ""),
    ],
)
def test_an_interrupted_run_says_what_is_kept(arguments: list[str], told: str, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "settings.json").touch()
    command = typer.main.get_command(main.build_app())
    given = [one.replace("OUT", str(tmp_path)) for one in arguments]
    assert main._what_is_kept(command, given) == told


LEAVING = """
import atexit, sys, time
from hotlap.cli import main

def slow():
    print("leaving", flush=True)
    time.sleep(float(sys.argv[1]))
    print("left", flush=True)

atexit.register(slow)
main.run = lambda arguments: main.INTERRUPTED
main.main()
"""


@pytest.mark.parametrize(("seconds", "after", "left"), [(0.5, 0.0, True), (60.0, 1.2, False)])
def test_one_more_ctrl_c_spoils_no_leaving_but_ends_one_that_hangs(seconds: float, after: float, left: bool) -> None:
    command = [sys.executable, "-c", LEAVING, str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "leaving\n"
        time.sleep(after)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (main.INTERRUPTED, "")
    assert ("left" in out) == left


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("hotlap 0.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optimise"], "No such command 'optimise'"),
        (["optimize", "none.py", "--out", "out"], "none.py"),
        (["optimize", "none.py"], "Missing option '--out'"),
        (["optimize", "none.py", "--out", "out", "--budget", "soon"], "--budget soon: not a duration"),
        (
            ["optimize", "none.py", "--out", "out", "--objective", "beauty"],
            "--objective beauty: give one of latency",
        ),
        (["optimize", "none.py", "--out", "out", "--only", "magic"], "--only magic: no such technique"),
        (["optimize", "none.py", "--out", "out", "--device", "tpu"], "--device tpu: give one of cpu, cuda"),
    ],
)
def test_wrong_input_is_exit_2_and_one_sentence(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main.run(arguments) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert "Traceback" not in said.err
    assert said.out == ""
    assert not (tmp_path / "out" / "result.json").exists()


def test_a_bug_is_exit_1_and_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(main, "build_app", lambda: 1 / 0)
    assert main.run(["doctor"]) == 1
    assert "which is a bug of hotlap's: ZeroDivisionError" in capsys.readouterr().err
    assert main.run(["doctor", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_full_disk_is_no_bug(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def write() -> None:
        with open("/dev/full", "w") as file:
            file.write("x" * 100_000)

    monkeypatch.setattr(main, "build_app", write)
    assert main.run(["doctor"]) == 2
    assert capsys.readouterr().err == "hotlap: the disk is full; make room, then run it again\n"


def test_help_through_the_entry_point() -> None:
    run = subprocess.run([sys.executable, "-c", "from hotlap.cli.main import main; main()", "--help"], check=False)
    assert run.returncode == 0


def test_an_exit_of_the_users_code_is_no_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer()
    app.command()(lambda: sys.exit(0))
    monkeypatch.setattr(main, "build_app", lambda: app)
    assert main.run([]) == 2
    assert "ended by SystemExit: 0" in capsys.readouterr().err
