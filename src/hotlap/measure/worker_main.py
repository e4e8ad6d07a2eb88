"""The worker's side: serves calls until the parent goes away."""

from __future__ import annotations

import importlib
import os
import re
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

from hotlap.errors import HotlapError
from hotlap.measure import messages

_NOT_ASKED_FOR = ("openvino_telemetry",)
"""Packages that tell their makers of each conversion unless the user has declined; those that use them run without."""
_PACKAGE = str(Path(__file__).resolve().parents[1])


def serve(connection: socket.socket) -> None:
    """Answer calls, one at a time, with a state dict that they share."""
    state: dict[str, Any] = {}
    while True:
        try:
            request = messages.receive(connection)
        except ConnectionError:
            return
        try:
            module, _, name = request["function"].partition(":")
            function = getattr(importlib.import_module(module), name)
            answer = {"value": function(state, **request["arguments"])}
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the parent raises it again
            answer = {"error": _describe(error)}
        messages.send(connection, answer)


_PLACE = re.compile(r"(Exception from|Check .* failed at) \S+:\d+:?$")
"""Lines in which OpenVINO says where in its own source an error was raised, before it says what it was."""


def _describe(error: BaseException) -> dict[str, Any]:
    message = str(error).strip()
    if not isinstance(error, HotlapError):
        lines = [line.strip() for line in message.splitlines() if line.strip()]
        message = next((line for line in lines if not _PLACE.match(line)), (lines or [type(error).__name__])[0])
    return {
        "type": type(error).__name__,
        "message": message[:2000],
        "library": _library(error),
        "traceback": "".join(traceback.format_exception(error))[-8000:],
    }


def _library(error: BaseException) -> str | None:
    """The package that raised it, or None where hotlap itself did: that is what makes it a bug.

    What torch has types of its own for, such as a device that has no memory left, any call of a tensor may raise.
    """
    if type(error).__module__.partition(".")[0] == "torch":
        return "torch"
    frames = traceback.extract_tb(error.__traceback__)
    file = os.path.realpath(frames[-1].filename) if frames else ""
    if not frames or file.startswith(_PACKAGE + os.sep):
        return None
    parts = Path(file).parts
    for anchor in ("site-packages", "dist-packages"):
        if anchor in parts:
            return parts[parts.index(anchor) + 1].removesuffix(".py")
    return Path(file).name


if __name__ == "__main__":
    # A module that is None counts as not installed.
    sys.modules |= dict.fromkeys(_NOT_ASKED_FOR)  # type: ignore[arg-type]
    with socket.socket(fileno=int(sys.argv[1])) as parent:
        serve(parent)
    os._exit(0)
