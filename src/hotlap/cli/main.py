"""`hotlap`: finds the commands, and turns errors into one clear sentence and an exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
import traceback
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer

from hotlap.errors import HotlapError, InputError, Refusal
from hotlap.workload.user_code import describe

COMMANDS = (
    "doctor", "init", "profile", "optimize", "tune", "train", "verify", "compare", "monitor", "features", "keys",
)  # fmt: skip

# typer carries its own copy of click and gives only this class of it a public name.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]

_TAKEN_UP = ("journal.jsonl", "checkpoints")
"""What a run that can be taken up has written by then."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

OK, BUG, USER_ERROR, ANSWER_IS_NO, INTERRUPTED = 0, 1, 2, 3, 130


def build_app() -> typer.Typer:
    """The whole command line. A command's module holds a function of its name, or an `app` of subcommands."""
    app = typer.Typer(
        name="hotlap",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_top)
    for name in COMMANDS:
        module = import_module(f"hotlap.cli.{name}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name)
        else:
            app.command(name)(getattr(module, name))
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        from hotlap import __version__

        print(f"hotlap {__version__}")
        raise typer.Exit


def _top(
    version: bool = typer.Option(
        False, "--version", help="Print the version and leave.", is_eager=True, callback=_print_version
    ),
) -> None:
    """Makes PyTorch models fast, and proves it."""


def main() -> None:
    """Run the command line and leave with its exit code."""
    code = run(sys.argv[1:])
    if code == INTERRUPTED:
        _leave_in_peace()
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)


def _leave_in_peace() -> None:
    """One more Ctrl-C would spoil the leaving, and change the exit code; a second later it ends what hangs there."""
    began = time.monotonic()

    def again(number: int, frame: Any) -> None:
        if time.monotonic() - began > 1:
            os._exit(INTERRUPTED)

    signal.signal(signal.SIGINT, again)


def run(arguments: list[str]) -> int:
    """Run the command line on `arguments`; gives the exit code of DESIGN.md section 2."""
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    command = None
    try:
        command = typer.main.get_command(build_app())
        outcome = command.main(arguments, prog_name="hotlap", standalone_mode=False)
    except HotlapError as error:
        if debug:
            traceback.print_exc()
        print(f"hotlap: {error}", file=sys.stderr)
        return USER_ERROR if isinstance(error, InputError) else ANSWER_IS_NO if isinstance(error, Refusal) else BUG
    except _UsageError as error:
        error.show()  # type: ignore[attr-defined]
        return USER_ERROR
    except (KeyboardInterrupt, typer.Abort):
        outcome = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except SystemExit as error:  # of the user's own code: typer's own exits are no such exceptions here
        print(f"hotlap: ended by {describe(error)} before the command was done; take that call out", file=sys.stderr)
        return USER_ERROR
    except Exception as error:  # noqa: BLE001 - the last resort: a bug gets a sentence and exit code 1
        if debug:
            traceback.print_exc()
        return _unexpected(error, go_on="go on with --resume" if _takes_up(command, arguments) else "run it again")
    # Typer may turn an interrupt into its exit code by itself.
    if outcome == INTERRUPTED:
        print(f"hotlap: interrupted{_what_is_kept(command, arguments)}", file=sys.stderr)
    return outcome if isinstance(outcome, int) else OK


def _what_is_kept(command: Any, arguments: list[str]) -> str:
    """The end of the sentence that says that a run was interrupted."""
    if not _takes_up(command, arguments):
        return ""
    after = dict(pairwise(arguments))
    out = next((one.partition("=")[2] for one in arguments if one.startswith("--out=")), after.get("--out"))
    if out is None or any((Path(out) / name).exists() for name in _TAKEN_UP):
        return "; what was done so far is kept"
    if (Path(out) / "settings.json").exists():
        return " before its first checkpoint; go on with --resume, or start over with --force"
    return " before there was anything to keep; run it again"


def _takes_up(command: Any, arguments: list[str]) -> bool:
    """Whether the command that was called can take up a run where it was."""
    called = getattr(command, "commands", {}).get(arguments[0]) if arguments else None
    return any(parameter.name == "resume" for parameter in getattr(called, "params", ()))


def _unexpected(error: Exception, *, go_on: str) -> int:
    """A sentence for what nobody else has turned into one; a full disk is no bug, wherever it is met."""
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        where = f" at {error.filename}" if error.filename else ""
        print(f"hotlap: the disk is full{where}; make room, then {go_on}", file=sys.stderr)
        return USER_ERROR
    print(
        f"hotlap: an unexpected failure, which is a bug of hotlap's: {type(error).__name__}: {error} "
        "(run again with --debug for the whole story)",
        file=sys.stderr,
    )
    return BUG
