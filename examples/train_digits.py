"""Make `data/digits.safetensors`: train the small ResNet of `digits.py` on the first 6,000 digits.

    python examples/train_digits.py

Seeded; about two minutes on two cores. Images are shifted by up to two pixels, the learning rate rises and falls
once (Smith and Topin, 2017), and convolutions run in bf16. The accuracy that is printed is over the 4,000
held-out images, which training never saw.
"""

import time

import torch
from digits import WEIGHTS, DigitNet, score, workload
from safetensors.torch import save_file
from torch.nn import functional


def shifted(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Move each image of the batch by -2 to 2 pixels in both directions, filling with zeros."""
    padded = functional.pad(images, (2, 2, 2, 2))
    corners = torch.randint(0, 5, (len(images), 2), generator=generator).tolist()
    return torch.stack([padded[i, :, y : y + 28, x : x + 28] for i, (y, x) in enumerate(corners)])


def train(net: DigitNet, generator: torch.Generator) -> None:
    digits = workload.training()
    steps = workload.epochs * (len(digits) // workload.batch_size)
    optimizer = workload.optimizer(net.parameters())
    rate = optimizer.param_groups[0]["lr"]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps)
    net.train()
    for epoch in range(workload.epochs):
        order = torch.randperm(len(digits), generator=generator)
        for rows in order.split(workload.batch_size)[: len(digits) // workload.batch_size]:
            images = shifted(digits.images[rows], generator).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                outputs = net(images)
            loss = workload.loss(outputs.float(), digits.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.4f}, held-out accuracy {accuracy(net):.4f}", flush=True)


@torch.inference_mode()
def accuracy(net: DigitNet) -> float:
    """The share of held-out images that come out right, in fp32."""
    was_training = net.training
    net.eval()
    scores = [score(net(images), labels) for images, labels in workload.evaluation()]
    net.train(was_training)
    return torch.cat(scores).mean().item()


def main() -> None:
    started = time.monotonic()
    torch.manual_seed(0)
    net = DigitNet().to(memory_format=torch.channels_last)
    train(net, torch.Generator().manual_seed(0))
    net = net.to(memory_format=torch.contiguous_format).eval()
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, WEIGHTS)
    parameters = sum(p.numel() for p in net.parameters())
    print(f"{parameters:,} parameters, {time.monotonic() - started:.0f} s, held-out accuracy {accuracy(net):.4f}")


if __name__ == "__main__":
    main()
