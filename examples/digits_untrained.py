"""Handwritten digits from the start: the workload of `digits.py`, with a model that has learnt nothing yet.

hotlap train examples/digits_untrained.py --out runs/digits-weights --set schedule=one_cycle
hotlap optimize examples/digits.py@runs/digits-weights --out runs/digits --budget 90s
"""

from dataclasses import replace

import digits
import torch
from torch import nn


def model() -> nn.Module:
    torch.manual_seed(0)
    return digits.DigitNet()


workload = replace(digits.workload, name="digits-untrained", model=model)
