"""An iterable of batches that keeps something from epoch to epoch goes on as if it had never been stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trainable

import hotlap
from hotlap.training.loop import Loop

KINDS = """
import dataclasses
from torch.utils.data import DataLoader, IterableDataset

def batch(draw):
    rows = torch.from_numpy(draw.normal(size=(16, 6))).float()
    return rows, rows[:, :3].argmax(1)

class Counted:
    '''Another order in each epoch, by its own count.'''
    def __init__(self):
        self.epoch = 0

    def __iter__(self):
        draw = np.random.default_rng(self.epoch)
        self.epoch += 1
        return (batch(draw) for _ in range(5))

class Stream(IterableDataset):
    def __init__(self):
        self.epoch, self.path = 0, "GIVEN"

    def __iter__(self):
        draw = np.random.default_rng(self.epoch)
        self.epoch += 1
        for _ in range(40):
            row = torch.from_numpy(draw.normal(size=6)).float()
            yield row, row[:3].argmax()

class Stateful:
    '''Counts batches over all epochs, and keeps the count itself.'''
    def __init__(self):
        self.count = 0

    def __iter__(self):
        while True:
            made = batch(np.random.default_rng(self.count))
            self.count += 1
            yield made
            if self.count % 5 == 0:
                return

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]

class Once:
    '''Its own iterator, which counts and is never wound back.'''
    def __init__(self):
        self.count = 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.count == 5:
            raise StopIteration
        self.count += 1
        return batch(np.random.default_rng(self.count))

rows, labels = drawn(7, 80, 6), torch.arange(80) % 3
drawn_here = np.random.default_rng(8)

def drawn_before():
    '''Draws its order before it gives an iterator, by a global generator and by one of its file.'''
    order = torch.randperm(80)[torch.from_numpy(drawn_here.permutation(80))]
    return ((rows[some], labels[some]) for some in order.split(16))

class Drawing:
    '''Draws each batch by a generator of its own, which its state leaves out.'''
    def __init__(self):
        self.draw, self.place = np.random.default_rng(9), 0

    def __iter__(self):
        while self.place < 5:
            self.place += 1
            yield batch(self.draw)
        self.place = 0

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, state):
        self.place = state["place"]

class KeptDrawing(Drawing):
    '''Its state holds where the generator stands; that is made only once it is needed.'''
    def __init__(self):
        self.draw, self.place = None, 0

    def __iter__(self):
        self.draw = self.draw or np.random.default_rng(9)
        return super().__iter__()

    def state_dict(self):
        return {"place": self.place, "draw": self.draw and self.draw.bit_generator.state}

    def load_state_dict(self, state):
        self.place = state["place"]
        if state["draw"] is not None:
            self.draw = np.random.default_rng()
            self.draw.bit_generator.state = state["draw"]

class Ordered(Drawing):
    '''Its state holds where the generator stood when the order was drawn, which is drawn again.'''
    def __iter__(self):
        self.before = self.before if self.place else self.draw.bit_generator.state
        self.draw.bit_generator.state = self.before
        order = torch.from_numpy(self.draw.permutation(80)).split(16)
        while self.place < 5:
            self.place += 1
            yield rows[order[self.place - 1]], labels[order[self.place - 1]]
        self.place = 0

    def state_dict(self):
        return {"place": self.place, "before": self.before}

    def load_state_dict(self, state):
        self.place, self.before = state["place"], state["before"]

KINDS = {
    "once": Once, "counted": Counted, "loader": lambda: DataLoader(Stream(), batch_size=8), "stateful": Stateful,
    "drawn before": drawn_before, "drawing": Drawing, "drawing, kept": KeptDrawing, "ordered": Ordered,
}
workload = dataclasses.replace(workload, training=KINDS["GIVEN"])
"""


class Killed(BaseException):
    """Stands for a kill."""


def saves_and_dies(monkeypatch: pytest.MonkeyPatch, method: str, call: int, *, before: bool) -> None:
    """Let the run save, then 'die', before or after the given call of one of the loop's methods."""
    own: Callable[..., Any] = getattr(Loop, method)
    count = [0]

    def dying(self: Loop, *given: Any) -> Any:
        count[0] += 1
        if before and count[0] == call:
            self._save()
            raise Killed
        found = own(self, *given)
        if not before and count[0] == call:
            self._save()
            raise Killed
        return found

    monkeypatch.setattr(Loop, method, dying)


@pytest.mark.parametrize(
    "kind", ["once", "counted", "loader", "stateful", "drawn before", "drawing", "drawing, kept", "ordered"]
)
@pytest.mark.parametrize("place", ["within an epoch", "in its scoring", "between epochs"])
def test_it_goes_on_exactly(kind: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = trainable.write(tmp_path, "rows", add=KINDS.replace("GIVEN", kind))
    given: dict[str, Any] = {"settings": {"epochs": 3}, "threads": 1, "device": "cpu"}
    hotlap.train(target, out=tmp_path / "whole", **given)
    with monkeypatch.context() as patch:
        if place == "between epochs":
            saves_and_dies(patch, "_epoch", 3, before=True)
        elif place == "in its scoring":
            saves_and_dies(patch, "_judge", 2, before=True)
        else:
            saves_and_dies(patch, "_window", 12, before=False)
        with pytest.raises(Killed):
            hotlap.train(target, out=tmp_path / "out", **given)
    hotlap.train(target, out=tmp_path / "out", resume=True, **given)
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "whole"))
    assert one == other


def test_what_has_not_changed_is_not_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Dataset's own path, say, may be another when a run goes on."""
    from hotlap.training.iterables import BatchesSource
    from hotlap.training.settings import settings_for
    from hotlap.workload.target import load_target

    target = trainable.write(tmp_path, "rows", add=KINDS.replace("GIVEN", "loader"))
    workload = load_target(target).workload
    assert workload.training is not None
    source = BatchesSource(workload.training(), workload, settings_for(workload, {}))
    assert source.state(within_epoch=False) is None
    assert len(list(source.epoch(0, 0))) == 5
    assert source.state(within_epoch=False) == {"values": {"dataset.epoch": 1}}
    assert source.state(within_epoch=True) is None
    assert not source.ahead
