"""Real servers of the tests' own: a process each, on a free port, in a folder that goes with it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PASSWORD = "hunter2-of-the-tests"
_READY_S = 60


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def program(name: str) -> str:
    found = shutil.which(name) or next(map(str, sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))), None)
    assert found, f"{name} is not installed; .ci/run names the package"
    return found


@contextmanager
def _running(command: list[str], ready: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """The process, once it has said that it is ready; ended by SIGINT, which both servers take for a fast end."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    try:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if ready in line:
                break
        else:
            raise AssertionError(f"{command[0]} ended: {''.join(said)}")
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGINT)
        process.wait(_READY_S)
        process.stdout.close()  # type: ignore[union-attr]


@contextmanager
def redis(port: int | None = None) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """The port, and the process."""
    port = port or free_port()
    with tempfile.TemporaryDirectory(prefix="redis") as folder:
        command = [
            program("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", "",
            "--appendonly", "no", "--requirepass", PASSWORD,
        ]  # fmt: skip
        with _running(command, "Ready to accept connections") as process:
            yield port, process


@contextmanager
def postgres() -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """The port, and the process. The server refuses to run as root, so it then runs as `postgres`."""
    port = free_port()
    other = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="postgres", dir="/tmp"))
    try:
        if other:
            shutil.chown(folder, "postgres", "postgres")
        (folder / "password").write_text(PASSWORD)
        (folder / "password").chmod(0o644)
        data = str(folder / "data")
        options: dict[str, Any] = {"cwd": folder, "env": {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}, **other}
        subprocess.run(
            [program("initdb"), "-D", data, "-U", "taxi", "-A", "scram-sha-256", "--pwfile", str(folder / "password")],
            check=True, capture_output=True, **options,
        )  # fmt: skip
        command = [
            program("postgres"), "-D", data, "-p", str(port), "-c", "listen_addresses=127.0.0.1", "-c",
            f"unix_socket_directories={folder}", "-c", "fsync=off",
        ]  # fmt: skip
        with _running(command, "ready to accept connections", **options) as process:
            yield port, process
    finally:
        shutil.rmtree(folder)
