"""Where a command can't go on, the error says what failed and what to do: never exit 1."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotlap.cli.main import run
from hotlap.errors import CandidateFailed, InputError, OutOfMemory, WorkerDied, WorkerTimeout, WrongOutputs
from hotlap.measure.required import required

DYING = """
import os
import torch
from hotlap import Workload

class Net(torch.nn.Module):
    def forward(self, x):
        if x.shape[0] == {batch}:
            os.abort()
        return x * 2

workload = Workload(name="dying", model=Net, example=lambda batch: torch.ones(batch, 3))
"""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (WorkerTimeout("no answer within 9 s"), "it can't be done: no answer within 9 s; more --budget"),
        (OutOfMemory("used 2 GiB"), "it can't be done: used 2 GiB; a smaller --batch or evaluation batch needs less"),
        (WorkerDied("killed by SIGSEGV"), "it can't be done: its process was killed by SIGSEGV; run the model by"),
        (WorkerDied("left with exit code 3: bye"), "its process was lost: left with exit code 3: bye; run the model"),
        (WrongOutputs("NaN"), "it can't be done: NaN"),
        (CandidateFailed("TypeError in torch: no"), "it can't be done: TypeError in torch: no"),
    ],
)
def test_each_failure_says_what_to_do(error: CandidateFailed, said: str) -> None:
    with pytest.raises(InputError) as raised, required("it can't be done", longer="more --budget"):
        raise error
    assert said in str(raised.value)
    assert raised.value.__cause__ is error


@pytest.mark.slow
@pytest.mark.parametrize("command", ["optimize --out {folder}/out --budget 30s", "compare {file}", "profile"])
def test_an_original_that_ends_its_process_is_told_by_each_command(
    command: str, tmp_path: Path, own_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "dying.py"
    file.write_text(DYING.format(batch=2))
    name, *rest = command.format(folder=tmp_path, file=file).split()
    assert run([name, str(file), *rest, "--threads", "1"]) == 2
    told = capsys.readouterr().err
    assert "its process was killed by SIGABRT" in told
    assert str(file) in told
    assert "Traceback" not in told
