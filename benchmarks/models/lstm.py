"""A two-layer LSTM (Hochreiter and Schmidhuber, 1997) that reads a digit row by row."""

import torch
from digit_data import classifier, learn
from torch import nn


class RowReader(nn.Module):
    """Rows [batch, 28, 28] to scores [batch, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(28, 384, num_layers=2, batch_first=True)
        self.head = nn.Linear(384, 10)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        states, _ = self.lstm(rows)
        return self.head(states[:, -1])


def as_rows(images: torch.Tensor) -> torch.Tensor:
    return images[:, 0].contiguous()


workload = classifier("lstm", RowReader, as_rows, (28, 28))
STAGES = {"lstm": [learn(as_rows, epochs=5, rate=3e-3)]}
BUILD = RowReader
