"""Make `data/tabular.safetensors`: train the perceptron of `tabular.py` on the first 20,000 diamonds.

    python examples/train_tabular.py

Seeded; about a minute on two cores. The score that is printed is over the 5,000 held-out rows, which training
never saw.
"""

import time

import torch
from safetensors.torch import save_file
from tabular import WEIGHTS, PriceNet, score, workload


def train(net: PriceNet, generator: torch.Generator) -> None:
    diamonds = workload.training()
    net.mean.copy_(diamonds.numbers.mean(0))
    net.deviation.copy_(diamonds.numbers.std(0))
    net.layers[-1].bias.data.fill_(diamonds.log_price.mean())
    steps = workload.epochs * (len(diamonds) // workload.batch_size)
    optimizer = workload.optimizer(net.parameters())
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(workload.epochs):
        order = torch.randperm(len(diamonds), generator=generator)
        for rows in order.split(workload.batch_size)[: len(diamonds) // workload.batch_size]:
            inputs, log_price = diamonds[rows]
            optimizer.zero_grad()
            workload.loss(net(**inputs), log_price).backward()
            optimizer.step()
            schedule.step()


@torch.inference_mode()
def held_out_score(net: PriceNet) -> float:
    scores = [score(net(**inputs), log_price) for inputs, log_price in workload.evaluation()]
    return torch.cat(scores).mean().item()


def main() -> None:
    started = time.monotonic()
    torch.manual_seed(0)
    net = PriceNet()
    train(net, torch.Generator().manual_seed(0))
    save_file(net.state_dict(), WEIGHTS)
    parameters = sum(p.numel() for p in net.parameters())
    seconds = time.monotonic() - started
    print(f"{parameters:,} parameters, {seconds:.0f} s, held-out score {held_out_score(net):.4f}")


if __name__ == "__main__":
    main()
