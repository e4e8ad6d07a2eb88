"""Blame: what the user's own code raises becomes one sentence that names the field and shows the user's line."""

from __future__ import annotations

import linecache
import site
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hotlap.errors import HotlapError, WorkloadError

_LONGEST = 400
_HERE = Path(__file__).resolve().parents[1]
_LIBRARIES = tuple(
    str(Path(path).resolve())
    for path in (
        str(_HERE),
        *site.getsitepackages(),
        sysconfig.get_path("stdlib"),
        sysconfig.get_path("platstdlib"),
    )
)


class running:  # noqa: N801 - used as a function is
    """Around a call of the workload's `field`: what it raises becomes a WorkloadError with the user's own line.

    What it prints goes to stderr, since stdout holds the result. Put nothing of hotlap's own inside, or its bugs
    would be blamed on the user. A training step enters this five times: a generator would take six times as long.
    """

    __slots__ = ("_field", "_stdout")

    def __init__(self, field: str) -> None:
        self._field = field

    def __enter__(self) -> None:
        self._stdout, sys.stdout = sys.stdout, sys.stderr

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        sys.stdout = self._stdout
        if isinstance(error, (Exception, SystemExit)) and not isinstance(error, HotlapError):
            raise WorkloadError(f"the workload's `{self._field}` raised {describe(error)}") from error


def describe(error: BaseException) -> str:
    """`Type: message (file:line: the line)`, where the line is the innermost one that is the user's own."""
    line = own_line(error)
    return f"{_message(error)} ({line})" if line else _message(error)


def own_line(error: BaseException) -> str | None:
    """`file:line: source` of the innermost frame outside hotlap, the standard library and installed packages."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return _place(error.filename, error.lineno, error.text)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if is_users(frame.filename) and frame.lineno:
            return _place(frame.filename, frame.lineno, frame.line)
    return None


def is_users(filename: str) -> bool:
    """Whether that source file is the user's own: not hotlap's, Python's or an installed package's."""
    if filename.startswith("<") or {"site-packages", "dist-packages"} & set(Path(filename).parts):
        return False
    return not str(Path(filename).resolve()).startswith(_LIBRARIES)


def _place(filename: str, lineno: int, line: str | None) -> str:
    path = Path(filename)
    if path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    source = (line or linecache.getline(filename, lineno)).strip()
    return f"{path}:{lineno}: {source}" if source else f"{path}:{lineno}"


def _message(error: BaseException) -> str:
    text = str(error.msg if isinstance(error, SyntaxError) else error).strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    text = lines[0] if lines else ""
    for line in lines[1:]:
        if not text.endswith(":"):
            break
        text = f"{text} {line}"
    if len(text) > _LONGEST:
        text = text[:_LONGEST] + "..."
    hint = ""
    if isinstance(error, ModuleNotFoundError) and error.name == "torch" and "torch" not in sys.modules:
        hint = "; pip install 'hotlap[optimize]'"
    return f"{type(error).__name__}: {text}{hint}" if text else type(error).__name__


@contextmanager
def naming(field: str) -> Iterator[None]:
    """Around a check of what the workload's `field` gave: its WorkloadError is told apart by the field's name."""
    try:
        yield
    except WorkloadError as error:
        raise WorkloadError(f"the workload's `{field}`: {error}") from error
