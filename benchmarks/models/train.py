"""Make the weights of the benchmark's models: `runs/bench-weights/NAME.safetensors`.

    python benchmarks/models/train.py [NAME...] [--again]

Seeded; half a minute to five minutes each on two cores, in bf16 where autocast takes it. What is there already is kept
unless `--again` is given. The score that is printed is over held-out data, in fp32.
"""

import argparse
import time
from importlib import import_module

import minilm
import torch
from digit_data import WEIGHTS, Stage, digits, trained
from safetensors.torch import save_file
from torch import nn

from hotlap import Workload

FILES = ("resnet18", "conv1d", "unet", "vit", "lstm")


def train(net: nn.Module, stage: Stage, loss, generator: torch.Generator) -> None:
    """One rise and fall of the learning rate (Smith and Topin, 2017) over the stage's digits."""
    images, labels = (part[: stage.images] for part in digits("training"))
    steps = stage.epochs * (len(labels) // stage.batch)
    optimizer = torch.optim.AdamW(net.parameters(), lr=stage.rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=stage.rate, total_steps=steps)
    net.train()
    for _ in range(stage.epochs):
        for rows in torch.randperm(len(labels), generator=generator).split(stage.batch):
            if len(rows) < stage.batch:
                continue
            inputs, targets = stage.make(images[rows], labels[rows], generator)
            # Without the instructions bf16 is emulated, several times slower than fp32.
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported()):
                outputs = net(inputs)
            value = loss(outputs.float(), targets)
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    net.eval()


@torch.inference_mode()
def held_out_score(net: nn.Module, workload: Workload) -> float:
    scores = [workload.score(net(inputs), targets) for inputs, targets in workload.evaluation()]
    return torch.cat(scores).mean().item()


def make(name: str, module) -> None:
    """Train the model called `name` through its stages, keep its weights, print its held-out score."""
    began = time.monotonic()
    torch.manual_seed(0)
    WEIGHTS.mkdir(parents=True, exist_ok=True)
    if name == minilm.NAME:
        print(f"{name}: {minilm.train_head()}, {time.monotonic() - began:.0f} s", flush=True)
        return
    workload = next(w for w in vars(module).values() if isinstance(w, Workload) and w.name == name)
    net, first = module.BUILD(), getattr(module, "BEGINS_WITH", {}).get(name)
    if first:
        net = trained(net, first)
    net = net.to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(0)
    for stage in module.STAGES[name]:
        train(net, stage, workload.loss, generator)
        print(
            f"{name}: stage of {stage.images * stage.epochs} images done after {time.monotonic() - began:.0f} s",
            flush=True,
        )
    net = net.to(memory_format=torch.contiguous_format)
    unfinished = WEIGHTS / f"{name}.unfinished"
    save_file({key: value.contiguous() for key, value in net.state_dict().items()}, unfinished)
    unfinished.replace(WEIGHTS / f"{name}.safetensors")
    parameters = sum(p.numel() for p in net.parameters())
    seconds = time.monotonic() - began
    print(f"{name}: {parameters:,} parameters, {seconds:.0f} s, score {held_out_score(net, workload):.4f}", flush=True)


def main() -> None:
    modules = [import_module(file) for file in FILES]
    known = {name: module for module in modules for name in module.STAGES} | {minilm.NAME: minilm}
    parser = argparse.ArgumentParser(description="Make the weights of the benchmark's models.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(known)}")
    parser.add_argument("--again", action="store_true", help="make those that are there already, too")
    chosen = parser.parse_args()
    unknown = set(chosen.names) - set(known)
    if unknown:
        parser.error(f"no model called {', '.join(sorted(unknown))}; the models are {', '.join(known)}")
    for name in chosen.names or known:
        if chosen.again or not (WEIGHTS / f"{name}.safetensors").is_file():
            make(name, known[name])


if __name__ == "__main__":
    main()
