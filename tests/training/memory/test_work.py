"""What is measured of a training's memory holds for all of its batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trainable

from hotlap.training.memory import steps, work
from hotlap.training.settings import settings_for
from hotlap.workload.target import load_target

TEXTS = """
import dataclasses

class Texts(Dataset):
    '''Padded to one length, so that all are of one size; the first one is short.'''
    def __len__(self):
        return 20

    def __getitem__(self, index):
        ids = torch.zeros(12, dtype=torch.int64)
        ids[: 1 + index % 12] = 1 + index
        return ids, ids

workload = dataclasses.replace(workload, training=Texts, batch_size=4)
"""


def test_texts_that_may_be_trimmed_count_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = trainable.write(tmp_path, "tokens", add=TEXTS)
    settings = settings_for(load_target(target).workload, {"threads": 1, "device": "cpu", "trim": True})
    seen: list[int] = []
    own = steps.Steps.step

    def step(self: Any, *given: Any) -> Any:
        handle = self.stepper.model.embed.register_forward_hook(lambda module, args, out: seen.append(args[0].shape[1]))
        found = own(self, *given)
        handle.remove()
        return found

    monkeypatch.setattr(steps.Steps, "step", step)
    state: dict[str, Any] = {}
    work.open_training(state, target=target, settings=settings.to_json())
    work.run_steps(state, settings=settings.to_json(), batch=4, steps=2)
    assert seen == [12, 12]


def test_steps_that_fp16_skips_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = trainable.write(tmp_path, "rows", add=trainable.LOUD)
    settings = settings_for(load_target(target).workload, {"threads": 1, "device": "cpu", "precision": "fp16"})
    skipped: list[bool] = []
    kept: list[int] = []
    own = steps.Steps.step

    def step(self: Any, *given: Any) -> Any:
        found = own(self, *given)
        skipped.append(found.skipped)
        kept.append(len(self.optimizer.state))
        return found

    monkeypatch.setattr(steps.Steps, "step", step)
    state: dict[str, Any] = {}
    work.open_training(state, target=target, settings=settings.to_json())
    work.run_steps(state, settings=settings.to_json(), batch=8, steps=3)
    assert skipped[0]
    assert kept[0] == 0
    assert skipped.count(False) == 3
    assert kept[-1] > 0
