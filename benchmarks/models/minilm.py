"""MiniLM with a head like that of `examples/sentiment.py`, at exactly 64 and 128 tokens.

Reviews are short, so a text is two or four of one sign, one after the other: most of its tokens are real ones. A
small drop is proven on many texts alone, so 8,000 reviews judge and the others train the head.
"""

import sys
from collections.abc import Iterator
from functools import cache

import torch
from digit_data import ROOT, WEIGHTS, missing
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import Dataset

from hotlap import Workload

sys.path.insert(0, str(ROOT / "examples"))
import sentiment

NAME = "minilm"
HELD_OUT = 8_000
TOKENS_A_REVIEW = 32
EPOCHS = 3
"""More made it no better on held-out reviews, and more sensitive to small changes of its inputs."""
START, END = 101, 102
"""The tokens that BERT's texts begin and end with."""


@cache
def reviews(part: str) -> tuple[list[list[int]], torch.Tensor]:
    """Token ids and mean sentiment of the reviews of "training" or "evaluation"."""
    halves = [sentiment.tokenized(half) for half in ("evaluation", "training")]
    rows, values = [row for ids, _ in halves for row in ids], torch.cat([values for _, values in halves])
    chosen = slice(None, HELD_OUT) if part == "evaluation" else slice(HELD_OUT, None)
    return rows[chosen], values[chosen]


@cache
def texts(part: str, length: int) -> tuple[sentiment.Inputs, torch.Tensor]:
    """Texts [n, length] of `length // 32` reviews of one sign, cut or filled up, and their mean sentiment [n]."""
    rows, values = reviews(part)
    together = length // TOKENS_A_REVIEW
    joined, means = [], []
    for sign in (1, -1):
        chosen = [index for index, value in enumerate(values.tolist()) if value * sign > 0]
        for first in range(0, len(chosen) - together + 1, together):
            few = chosen[first : first + together]
            tokens = [token for index in few for token in rows[index][1:-1]]
            joined.append([START, *tokens[: length - 2], END])
            means.append(values[few].mean())
    order = torch.randperm(len(joined), generator=torch.Generator().manual_seed(0))
    inputs = sentiment.padded(joined, length)
    return {name: value[order] for name, value in inputs.items()}, torch.stack(means)[order]


class Texts(Dataset):
    """(inputs of one text, its mean sentiment) of the training texts."""

    def __init__(self, length: int) -> None:
        self.inputs, self.values = texts("training", length)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> tuple[sentiment.Inputs, torch.Tensor]:
        return {name: value[index] for name, value in self.inputs.items()}, self.values[index]


def model() -> nn.Module:
    path = WEIGHTS / f"{NAME}.safetensors"
    if not path.is_file():
        raise missing(NAME)
    net = sentiment.pretrained()
    net.head.load_state_dict(load_file(path))
    return net


def of_length(length: int) -> Workload:
    """The workload at exactly `length` tokens."""

    def evaluation() -> Iterator[tuple[sentiment.Inputs, torch.Tensor]]:
        inputs, values = texts("evaluation", length)
        for rows in torch.arange(len(values)).split(50):
            yield {name: value[rows] for name, value in inputs.items()}, values[rows]

    return Workload(
        name=f"minilm-{length}",
        model=model,
        example=lambda batch: sentiment.example(batch, length),
        evaluation=evaluation,
        score=sentiment.score,
        training=lambda: Texts(length),
        loss=sentiment.loss,
    )


length64 = of_length(64)
length128 = of_length(128)


def train_head() -> str:
    """Train the head on the frozen MiniLM's means of single reviews; what was reached, in words."""
    net = sentiment.pretrained()
    rows, values = reviews("training")
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    batches = [order[first : first + 50] for first in range(0, len(order), 50)]
    with torch.inference_mode():
        means = [net.embed(**sentiment.padded([rows[index] for index in batch])) for batch in batches]
    embedded, targets = torch.cat(means).clone(), values[[index for batch in batches for index in batch]]
    optimizer = torch.optim.AdamW(net.head.parameters(), lr=1e-3, weight_decay=0.1)
    net.head.train()
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(targets)).split(64):
            optimizer.zero_grad()
            sentiment.loss(net.head(embedded[chosen]).squeeze(1), targets[chosen]).backward()
            optimizer.step()
    save_file(net.head.state_dict(), WEIGHTS / f"{NAME}.safetensors")
    return f"head trained on {len(targets):,} reviews"
