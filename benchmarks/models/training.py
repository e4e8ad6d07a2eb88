"""The benchmark's models to be trained from the start, on real data, without a score: only steps are timed."""

import sys
from dataclasses import replace

import torch
import untrained
from digit_data import ROOT

sys.path.insert(0, str(ROOT / "examples"))
import sentiment
import tabular


def _timed(workload, **changes):
    return replace(workload, evaluation=None, score=None, metric=None, slices=None, **changes)


def _adamw(parameters) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=3e-4)


resnet18_64 = _timed(untrained.resnet18_64, optimizer=_adamw, batch_size=64)
minilm_64 = _timed(sentiment.workload, name="minilm-64", model=sentiment.pretrained, batch_size=32)
lstm = _timed(untrained.lstm, optimizer=_adamw, batch_size=64)
vit = _timed(untrained.vit, optimizer=_adamw, batch_size=64)
mlp = _timed(tabular.workload, name="mlp")
