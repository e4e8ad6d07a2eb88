"""The output folder of one run: taken by one process at a time, never left with anything half-written."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from hotlap.errors import OutputError

_LOCK = ".lock"
_OURS = (
    "artifact", "result.json", "report.html", "journal.jsonl", "work",
    "model.safetensors", "checkpoints", "metrics.jsonl", "settings.json", "tensorboard", "mlflow", _LOCK,
)  # fmt: skip
_LEAST_FREE_BYTES = 256 * 2**20
_IN_USE = "--out {} is in use by another run; wait for it or give another folder"
_held: set[int] = set()


def _let_go() -> None:
    """A forked child (a loader process) must not hold the lock on when its parent is gone."""
    for lock in _held:
        os.close(lock)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


class RunFolder:
    """`--out`, locked for as long as the process lives. The lock goes when the process does, however it ends.

    `begun` is the file that tells a run from an empty folder: it is written first. `resume`: None for a command that
    can't take up a run. `keeps_work`: whether `work` stays as it is for a run that takes this one up.
    """

    def __init__(
        self,
        path: Path,
        *,
        resume: bool | None,
        force: bool,
        begun: str = "journal.jsonl",
        keeps_work: bool = True,
    ) -> None:
        self.path, self._begun, self._keeps_work = path, path / begun, keeps_work
        if resume and force:
            raise OutputError("--resume takes up a run and --force starts it over; give one of them")
        try:
            existed = path.exists()
        except OSError as error:  # a name that is too long, say
            raise OutputError(f"--out {path} can't be written: {error.strerror}") from error
        self._new = not existed
        if existed and not path.is_dir():
            raise OutputError(f"--out {path} is a file; give a folder")
        held = existed and any(path.iterdir())
        if held and not (resume or force):
            if _is_locked(path / _LOCK):
                raise OutputError(_IN_USE.format(path))
            go_on = "" if resume is None else "go on with --resume, "
            raise OutputError(f"--out {path} exists; {go_on}start over with --force, or give another")
        if force and held and not (path / _LOCK).exists():
            raise OutputError(f"--out {path} holds files that no run of hotlap made; --force won't delete them")
        if resume and not self._begun.exists():
            raise OutputError(f"--resume: there is no run in {path}; leave --resume out to start one")
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise OutputError(f"--out {path} can't be written: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_at(self._lock, path / _LOCK):  # another run has ended meanwhile, and taken the file away
                raise BlockingIOError
        except BlockingIOError:
            os.close(self._lock)
            raise OutputError(_IN_USE.format(path)) from None
        _held.add(self._lock)
        self._emptied = not held
        self.work = path / "work"
        free = shutil.disk_usage(path).free
        if free < _LEAST_FREE_BYTES:
            self.close()
            raise OutputError(
                f"--out {path}: {free / 2**20:.0f} MiB of disk are free; make room first: at least "
                f"{_LEAST_FREE_BYTES / 2**20:.0f} MiB are needed"
            )
        if force:
            self._emptied = True
            self._empty()
        self.work.mkdir(mode=0o700, exist_ok=True)

    def _empty(self) -> None:
        for name in _OURS:
            item = self.path / name
            if item.is_dir() and not item.is_symlink():
                shutil.rmtree(item)
            elif name != _LOCK:
                item.unlink(missing_ok=True)

    def close(self) -> None:
        """Let another run have it. Where nothing was begun, one that this run made is taken away, and one that was
        empty is empty again.
        """
        if not self._keeps_work:
            shutil.rmtree(self.work, ignore_errors=True)
        begun = self._begun.exists() and self._begun.stat().st_size
        if self._new and not begun:
            shutil.rmtree(self.path, ignore_errors=True)
        elif self._emptied and not begun:
            with suppress(OSError):
                self._empty()
                if [one.name for one in self.path.iterdir()] == [_LOCK]:
                    (self.path / _LOCK).unlink()
        _held.discard(self._lock)
        os.close(self._lock)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()


def _is_locked(path: Path) -> bool:
    """Whether another run holds the lock at this place."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # A shared one: another run that begins just now is not kept out by this look.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system that has no locks
        return False
    finally:
        os.close(handle)
    return False


def _is_at(handle: int, path: Path) -> bool:
    """Whether an open file still has that name."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


def check_keeps(folder: Path, weights: Path | None) -> None:
    """Raise OutputError where --force would delete the weights that the run is to start from."""
    if weights is not None and weights.resolve().is_relative_to(folder.resolve()):
        raise OutputError(
            f"--force would delete {weights}, which this run starts from; give another --out, or copy the weights first"
        )


@contextmanager
def plain_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to read. Raises OSError, also for what is no plain file: a pipe, which waits for a writer, or a device,
    which may never end."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        check_plain(file, path)
        yield file


def check_plain(file: IO[bytes], path: Path) -> None:
    """Raise OSError (EINVAL) where an open file is a pipe, a device or the like."""
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        raise OSError(errno.EINVAL, "is no plain file", str(path))


def read_plain(path: Path) -> bytes:
    """All of a plain file. Raises OSError as `plain_file` does."""
    with plain_file(path) as file:
        return file.read()


def write_whole(path: Path, data: bytes) -> None:
    """Put `data` at `path` so that whoever looks, after any crash, finds the old file or the new, never a part.

    Raises OutputError where the folder can't be written or the disk is full; the file that was there stays.
    """
    with written_whole(path) as temporary, temporary.open("xb") as file:
        file.write(data)


@contextmanager
def written_whole(path: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """A path beside `path` to write a file at; once the block is through it is flushed and gets its name.

    Raises OutputError as `write_whole` does, and, unless it may `overwrite`, where another run was faster; where files
    can't have a second name, that is seen but for an instant.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield temporary
        sync(temporary)
        if overwrite:
            temporary.replace(path)
        else:
            _name_new(temporary, path)
        sync(path.parent)
    except FileExistsError:
        raise OutputError(f"{path} was made by another run meanwhile; name another file, or remove it") from None
    except IsADirectoryError:
        raise OutputError(f"{path} is a folder, where a file is to go; move it away") from None
    except OSError as error:
        raise OutputError(
            f"{path}: can't be written ({error.strerror or error}); free space, or choose another place"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _name_new(temporary: Path, path: Path) -> None:
    """Give a file its name. Raises FileExistsError where that is taken."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system that knows no second name
        if path.exists():
            raise FileExistsError from None
        temporary.rename(path)


def sync(path: Path) -> None:
    """Make what was written, or a rename in a folder, last through a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
