"""The benchmark's models to be trained from the start, on real data; without a score where only steps are timed."""

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


class _Third(torch.utils.data.Dataset):
    """Every third of the training reviews: an epoch, after which the score is looked at, is 79 steps of them."""

    def __init__(self) -> None:
        self.reviews = sentiment.Reviews()

    def __len__(self) -> int:
        return len(self.reviews) // 3

    def __getitem__(self, index: int):
        return self.reviews[3 * index]


def _every_third_batch():
    for index, batch in enumerate(sentiment.evaluation()):
        if index % 3 == 0:
            yield batch


minilm_score = replace(
    sentiment.workload,
    name="minilm-score",
    model=sentiment.pretrained,
    training=_Third,
    evaluation=_every_third_batch,
    slices=None,
    batch_size=32,
    epochs=8,
)
