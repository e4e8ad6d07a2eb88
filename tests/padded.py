"""Workloads of padded texts, as text of their files."""

from pathlib import Path

import trainable

from hotlap.workload.opened import Opened, open_workload
from hotlap.workload.target import load_target

PADDED = (
    trainable.HEAD
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Embedding(20, 8), nn.Sequential(nn.Dropout(0.3), nn.Linear(8, 2))

    def forward(self, ids, attention_mask):
        weights = attention_mask.unsqueeze(2).float()
        return self.out((self.embed(ids) * weights).sum(1) / weights.sum(1))

class Texts(Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        length = 1 + index % 7
        ids, mask = torch.full((12,), PAD), torch.zeros(12, dtype=torch.int64)
        ids[:length] = torch.arange(length) + index % 5
        mask[:length] = 1
        return {"ids": ids, "attention_mask": mask}, index % 2

PAD = 0
workload = Workload(
    name="texts", model=Net, example=lambda batch: {
        "ids": torch.ones(batch, 12, dtype=torch.int64), "attention_mask": torch.ones(batch, 12, dtype=torch.int64)},
    training=Texts, loss=functional.cross_entropy, batch_size=16,
    dynamic={"ids": {0: "batch", 1: ("length", 2, 12)}, "attention_mask": {0: "batch", 1: ("length", 2, 12)}},
)
"""
)
LOOKS = """
class Looks(Net):
    def forward(self, ids, attention_mask):
        return self.out(self.embed(ids).mean(1))
import dataclasses
workload = dataclasses.replace(workload, model=Looks)
"""
FIXED = """
class Fixed(Net):
    def forward(self, ids, attention_mask):
        return self.out(self.embed(ids).reshape(-1, 12, 8).mean(1))
import dataclasses
workload = dataclasses.replace(workload, model=Fixed)
"""
DRAWS_BY_FUNCTION = """
class Drawing(Net):
    def forward(self, ids, attention_mask):
        weights = attention_mask.unsqueeze(2).float()
        embedded = functional.dropout(self.embed(ids), 0.3, self.training)
        return self.out((embedded * weights).sum(1) / weights.sum(1))
import dataclasses
workload = dataclasses.replace(workload, model=Drawing)
"""


def opened(folder: Path, add: str = "") -> Opened:
    """The workload of padded texts, with more text at its end, written into the folder and opened for training."""
    path = folder / "texts.py"
    path.write_text(PADDED + add)
    return open_workload(load_target(str(path)), needs=("training", "loss"), command="train")
