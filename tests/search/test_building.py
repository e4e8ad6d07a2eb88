"""What a build does beside making files."""

from pathlib import Path

import models
import pytest

from hotlap.core import to_json
from hotlap.machine import facts as machine
from hotlap.measure.worker import Worker
from hotlap.search.space import build_space
from hotlap.techniques import ModelFacts

WATCHING = """
import os, sys
def watch(event, arguments):
    # In a file, since the report is made by a child.
    if event in ("socket.getaddrinfo", "socket.connect"):
        os.write(log, f"{event} {arguments[:2]}\\n".encode())
log = os.open(os.environ["ASKED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
sys.addaudithook(watch)
def build(state, **arguments):
    from hotlap.search.work import building
    return building.build(state, **arguments)
def report(state):
    import multiprocessing, socket
    child = multiprocessing.get_context("fork").Process(target=socket.getaddrinfo, args=("localhost", 80))
    child.start()
    child.join()
"""


@pytest.mark.slow
def test_converting_and_quantizing_tells_nobody(tmp_path: Path) -> None:
    """OpenVINO and NNCF carry a package that reports each use to its makers unless the user has declined."""
    facts = ModelFacts(
        layers={"Conv2d": 2}, input_ranks=(4,), has_calibration=True, int8_overflows=machine.facts().int8_overflows
    )
    space = build_space(facts, threads=1, fixed_axes={"batch": 2}, unavailable={}, only=["nncf_int8"])
    candidate = next(c for c in space.candidates if c.runtime == "openvino")
    (tmp_path / "watching.py").write_text(WATCHING)
    # What the packages themselves read, so that they would report if they could.
    asked = tmp_path / "asked"
    environment = {"PYTHONPATH": str(tmp_path), "ASKED": str(asked), "CI": "", "HOME": str(tmp_path)}
    with Worker(environment=environment) as worker:
        worker.call(
            "watching:build", target=models.write(tmp_path, "convolutions"), candidate=to_json(candidate),
            work=str(tmp_path / "work"), seed=0, threads=1, timeout=300.0,
        )  # fmt: skip
        assert asked.read_text() == ""
        worker.call("watching:report", timeout=20.0)
        assert asked.read_text()
