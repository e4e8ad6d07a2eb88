"""How an optimization begins: how many examples choose and confirm, and that a run taken up has the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import models
import pytest

from hotlap.actions import begin
from hotlap.errors import InputError, OutputError
from hotlap.measure.worker import Worker
from hotlap.search.journal import Journal
from hotlap.search.result import figures_of_baseline
from hotlap.search.setting import start_worker

pytestmark = pytest.mark.slow

SLOW = """
import time
from dataclasses import replace

class Slow(Net):
    def forward(self, image):
        time.sleep(0.02 * len(image))
        return super().forward(image)

workload = replace(workload, model=lambda: seeded(Slow))
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = Path(models.write(tmp_path_factory.mktemp("slow"), "convolutions"))
    file.write_text(file.read_text().replace("torch.randn(64,", "torch.randn(640,") + SLOW)
    return {"target": str(file), "batch": 1, "seed": 0, "threads": 1}


@pytest.fixture
def student(tmp_path: Path) -> Iterator[Worker]:
    with start_worker(1, None, tmp_path) as worker:
        yield worker


def test_a_run_that_is_taken_up_chooses_and_confirms_by_the_same_examples(
    settings: dict[str, Any], student: Worker, tmp_path: Path
) -> None:
    study = begin.study_of(student, settings, tmp_path, 1000.0, 10**6)
    assert (study["selection"], study["confirmation"]) == (192, 448)
    first = begin.with_scores(student, study, settings, tmp_path, 4.0, None)
    assert first["selection"] == len(first["selection_scores"]) < 192
    assert first["confirming"] == {"selection": first["selection"], "confirmation": first["confirmation"]}
    assert first["confirmation"] < 448
    (told,) = [text for text in first["warnings"] if "examples choose" in text]
    assert f"{first['selection']} of 192 selection examples choose, since the original takes" in told
    assert f"so do {first['confirmation']} of 448 that confirm; more --budget uses more" in told

    journal = Journal(tmp_path / "journal.jsonl")
    begin.note(journal, settings, first)
    begun = begin.same_run(journal, settings, study["digest"])
    again = begin.with_scores(student, study, settings, tmp_path, 1000.0, begun)
    for name in ("selection", "selection_batches", "score_seconds", "confirmation", "confirming"):
        assert again[name] == first[name], name
    begin.note(journal, settings, again)
    assert [event["event"] for event in journal.events] == ["begin", "resumed"]
    with pytest.raises(OutputError, match="that run had seed 0, this one 1; give the same"):
        begin.same_run(journal, {**settings, "seed": 1}, study["digest"])
    with pytest.raises(OutputError, match="the workload has changed since that run"):
        begin.same_run(journal, settings, "other")
    journal.close()


def test_with_time_for_all_examples_all_are_used(settings: dict[str, Any], student: Worker, tmp_path: Path) -> None:
    study = begin.study_of(student, settings, tmp_path, 1000.0, 10**6)
    found = begin.with_scores(student, study, settings, tmp_path, 1000.0, None)
    assert (found["selection"], found["confirmation"], found["confirming"]) == (192, 448, None)
    assert not [text for text in found["warnings"] if "examples choose" in text]


def test_an_original_that_gives_no_answer_is_named(
    settings: dict[str, Any], student: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = begin.study_of(student, settings, tmp_path, 1000.0, 10**6)
    monkeypatch.setattr(begin, "_patience", lambda budget: 0.0)
    told = "the original can't be scored on one batch of selection data: no answer within 0 s; more --budget gives it"
    with pytest.raises(InputError, match=told):
        begin.with_scores(student, study, settings, tmp_path, 1.0, None)


@pytest.mark.parametrize(("convert", "format_"), [("", "fp32"), (".half()", "fp16"), (".double()", "fp64")])
def test_the_originals_own_number_format_is_named(
    convert: str, format_: str, settings: dict[str, Any], student: Worker, tmp_path: Path
) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        models.HEAD
        + f"workload = Workload(name='own', model=lambda: seeded(lambda: nn.Linear(4, 2)){convert},\n"
        + f"    example=lambda batch: noise(batch, 4){convert})\n"
    )
    study = begin.study_of(student, {**settings, "target": str(file)}, tmp_path, 1000.0, 10**6)
    found = figures_of_baseline(study, threads=1, median_ms=1.0, score=None, multiply_adds=None, peak_memory_bytes=None)
    assert (found["name"], found["precision"]) == (f"eager, {format_} (the original)", format_)
    told = [text for text in study["warnings"] if text.startswith(f"most of the model's weights are {format_}; in")]
    assert bool(told) == (format_ != "fp32")
