"""What a run notes as it goes: one JSON line a step, and TensorBoard and MLflow where they are installed.

`HOTLAP_CHARTS` names those that are wanted, with commas between them, or says `none`; unset: all that are installed.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hotlap.core import Json
from hotlap.errors import InputError, OutputError
from hotlap.search.folder import check_plain, plain_file
from hotlap.workload.user_code import describe

CHARTS = "HOTLAP_CHARTS"
METRICS, FAILURE = "metrics.jsonl", "failure"
_CHARTED = ("loss", "rate", "gradient_norm", "examples_per_second", "score")
_FLUSH_SECONDS = 0.1
"""A line that follows so soon upon what was written waits for the next; a checkpoint, a score and the end write all."""
_TAIL_BYTES = 65536
_NO_PLAIN_FILE = (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EINVAL)
"""What opening a link, a folder and a pipe without a reader gives, and check_plain of what opens."""
_encode = json.JSONEncoder(allow_nan=False).encode


class Records:
    """Appends to `metrics.jsonl` in `folder`. What it holds past `size` bytes, of a run that was killed, goes first."""

    def __init__(self, folder: Path, *, size: int, name: str, settings: Json) -> None:
        self._path, self._flushed = folder / METRICS, 0.0
        try:
            self._file = os.fdopen(_opened_own(self._path), "ab")
            check_plain(self._file, self._path)
            # Where the file is gone, nothing is made up for the lines it had.
            self._file.truncate(min(size, self._path.stat().st_size))
            self._file.seek(0, os.SEEK_END)
        except OSError as error:
            if error.errno in _NO_PLAIN_FILE:
                raise OutputError(f"{self._path} is no plain file; move it away and go on with --resume") from error
            raise self._failed(error) from error
        self.warnings: list[str] = []
        self._charts: dict[str, Any] = {}
        for found in charts_wanted():
            with self._going_on(found):
                self._charts[found] = _CHARTS[found](folder, name, settings, size > 0)

    def add(self, line: Json) -> None:
        """Note one line, which has a `step`."""
        try:
            self._file.write(_encode(line).encode() + b"\n")
            now = time.monotonic()
            if now - self._flushed >= _FLUSH_SECONDS or "score" in line or FAILURE in line:
                self._file.flush()
                self._flushed = now
        except OSError as error:
            raise self._failed(error) from error
        if self._charts:
            numbers = {name: line[name] for name in _CHARTED if line.get(name) is not None}
            for found, chart in list(self._charts.items()):
                with self._going_on(found):
                    chart.add(line["step"], numbers)

    def mark(self) -> int:
        """Write all through to the disk; how many bytes there are, for the checkpoint that goes with them."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._failed(error) from error
        return self._file.tell()

    def close(self, *, finished: bool = True) -> None:
        """Close the file and the charts. `finished`: whether the run came to its end."""
        try:
            self._file.close()
        except OSError as error:
            finished = False
            raise self._failed(error) from error
        finally:
            for found in list(self._charts):
                chart = self._charts.pop(found)  # closed twice, MLflow would end the run around this one too
                with self._going_on(found):
                    chart.close(finished)

    @contextmanager
    def _going_on(self, chart: str) -> Iterator[None]:
        """Around what a chart does: no run ends because a server that draws it can't be reached."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever a server's own client raises
            if (failed := self._charts.pop(chart, None)) is not None:
                with suppress(Exception):
                    failed.close(False)
            self.warnings.append(f"{chart} has not all of the run: {describe(error)}")

    def _failed(self, error: OSError) -> OutputError:
        return OutputError(f"{self._path} can't be written ({error.strerror}); make room and go on with --resume")


def _opened_own(path: Path) -> int:
    """Not through a link, which leads to a file that is not ours to cut, and without waiting for a pipe's reader."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return os.open(path, flags, 0o666)


def failed_step(folder: Path) -> int | None:
    """The step whose numbers were not finite, where that is the last that the metrics in `folder` tell; else None."""
    try:
        with plain_file(folder / METRICS) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            line = json.loads(file.read().splitlines()[-1])
        return int(line["step"]) if FAILURE in line else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError, OverflowError):
        return None


def charts_wanted() -> list[str]:
    """The packages that a run is drawn with. Raises InputError where HOTLAP_CHARTS names one that there is not."""
    given = os.environ.get(CHARTS, "").strip()
    if given == "none":
        return []
    installed = [name for name in _CHARTS if importlib.util.find_spec(name)]
    if not given:
        return installed
    names = [name.strip() for name in given.split(",") if name.strip()]
    for name in names:
        if name not in _CHARTS:
            raise InputError(f"{CHARTS} names {name!r}; give {', '.join(_CHARTS)}, with commas, or none")
        if name not in installed:
            raise InputError(f"{CHARTS} names {name}, which is not installed; install it, or leave it out")
    return names


class _TensorBoard:
    def __init__(self, folder: Path, name: str, settings: Json, goes_on: bool) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))
        self._writer.add_text("settings", f"```\n{json.dumps(settings, indent=1)}\n```")

    def add(self, step: int, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self, finished: bool) -> None:
        self._writer.close()


class _MLflow:
    """Into the store that MLFLOW_TRACKING_URI names; else into `mlflow` beside the metrics. Where the user has begun a
    run, as a child of it. A training that is resumed goes on in the run it had.
    """

    def __init__(self, folder: Path, name: str, settings: Json, goes_on: bool) -> None:
        import mlflow

        self._mlflow: Any = mlflow
        around, noted = mlflow.active_run(), folder / "mlflow" / "run"
        noted.parent.mkdir(exist_ok=True)
        if around is None:
            if not os.environ.get("MLFLOW_TRACKING_URI"):
                mlflow.set_tracking_uri(f"sqlite:///{(folder / 'mlflow' / 'mlflow.db').absolute()}")
            mlflow.set_experiment(name)
        if goes_on and noted.exists():
            with suppress(Exception):  # It may not be on this server.
                mlflow.start_run(run_id=noted.read_text(), nested=around is not None)
                return
        if around is not None:
            begun = mlflow.start_run(run_name=folder.name, experiment_id=around.info.experiment_id, nested=True)
        else:
            begun = mlflow.start_run(run_name=folder.name)
        try:
            noted.write_text(begun.info.run_id)
            mlflow.log_params(settings)
        except Exception:
            with suppress(Exception):
                self.close(False)
            raise

    def add(self, step: int, numbers: dict[str, float]) -> None:
        self._mlflow.log_metrics(numbers, step=step, synchronous=False)

    def close(self, finished: bool) -> None:
        self._mlflow.end_run("FINISHED" if finished else "FAILED")


_CHARTS: dict[str, Any] = {"tensorboard": _TensorBoard, "mlflow": _MLflow}
