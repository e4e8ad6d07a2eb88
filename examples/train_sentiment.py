"""Make `data/sentiment_head.safetensors`: train the head of `sentiment.py` on top of the frozen MiniLM.

    python examples/train_sentiment.py

Seeded; about a minute and a half on two cores. The accuracy that is printed is over the 3,000 held-out reviews,
which training never saw.
"""

import time
from collections.abc import Iterable

import torch
from safetensors.torch import save_file
from sentiment import HEAD, SentimentNet, bucketed, pretrained, score, workload

EPOCHS = 15


@torch.inference_mode()
def embedded(net: SentimentNet, batches: Iterable) -> tuple[torch.Tensor, torch.Tensor]:
    """What the frozen encoder makes of the reviews, [reviews, 384], and their mean sentiment."""
    pairs = [(net.embed(**inputs), sentiment) for inputs, sentiment in batches]
    return torch.cat([e for e, _ in pairs]).clone(), torch.cat([s for _, s in pairs]).clone()


def train(head: torch.nn.Module, embeddings: torch.Tensor, sentiment: torch.Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    head.train()
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(sentiment), generator=generator).split(64):
            optimizer.zero_grad()
            workload.loss(head(embeddings[rows]).squeeze(1), sentiment[rows]).backward()
            optimizer.step()
        schedule.step()
    head.eval()


def main() -> None:
    started = time.monotonic()
    torch.manual_seed(0)
    net = pretrained()
    train(net.head, *embedded(net, bucketed("training", 50)))
    save_file(net.head.state_dict(), HEAD)
    embeddings, sentiment = embedded(net, workload.evaluation())
    with torch.inference_mode():
        accuracy = score(net.head(embeddings).squeeze(1), sentiment).mean().item()
    print(f"{time.monotonic() - started:.0f} s, held-out accuracy {accuracy:.4f}")


if __name__ == "__main__":
    main()
