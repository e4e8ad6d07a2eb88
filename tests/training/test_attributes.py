import copy
import math
from collections import deque
from pathlib import Path

import numpy as np
import pytest
import torch

from hotlap.training import attributes
from hotlap.training.attributes import Attributes


class Counting(torch.nn.Linear):
    """A module with plain values of its own."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.best: object = math.nan
        self.seen: object = [0, torch.tensor([math.nan, 1.0]), {"a": (1, b"x")}]
        self.register_buffer("mean", torch.zeros(2), persistent=False)


class Scaled(torch.nn.Linear):
    """A module with one plain value."""

    scale = 1.0


def watched() -> tuple[Counting, Attributes]:
    model = Counting()
    return model, Attributes(model, torch.optim.SGD(model.parameters(), lr=0.1))


def test_nothing_that_stays_counts_as_changed_not_even_nan() -> None:
    model, own = watched()
    model.seen = [0, torch.tensor([math.nan, 1.0]), {"a": (1, b"x")}]
    assert not own.names()


@pytest.mark.parametrize(
    "seen",
    [
        [0.0, torch.tensor([math.nan, 1.0]), {"a": (1, b"x")}],
        [False, torch.tensor([math.nan, 1.0]), {"a": (1, b"x")}],
        [0, torch.tensor([math.nan, 2.0]), {"a": (1, b"x")}],
        [0, torch.tensor([math.nan, 1.0]).double(), {"a": (1, b"x")}],
        [0, torch.tensor([math.nan, 1.0]), {"a": [1, b"x"]}],
        [0, torch.tensor([math.nan, 1.0]), {"a": (1, b"y")}],
        [0, torch.tensor([math.nan, 1.0])],
        None,
    ],
)
def test_what_is_other_in_value_type_or_shape_is_named_and_comes_back(seen: object) -> None:
    model, own = watched()
    model.seen = seen
    assert own.names() == ["seen"]
    other, its = watched()
    its.restore(*own.capture())
    assert not Attributes(model, torch.optim.SGD(model.parameters())).names()
    assert type(other.seen) is type(seen)
    assert its.names() == ["seen"]


def test_a_buffer_changed_in_place_comes_back_in_place() -> None:
    model, own = watched()
    model.mean.add_(3)  # type: ignore[operator]
    other, its = watched()
    place = other.mean
    its.restore(*own.capture())
    assert other.mean is place
    assert torch.equal(other.mean, model.mean)  # type: ignore[arg-type]


def test_what_can_not_be_kept_is_left_alone() -> None:
    model, own = watched()
    model.seen = torch.eye(2).to_sparse()
    assert not own.names()


def test_a_class_that_sharding_puts_before_the_users_hides_nothing(tmp_path: Path) -> None:
    from torch import distributed
    from torch.distributed.fsdp import fully_shard

    distributed.init_process_group(
        "gloo", store=distributed.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1
    )
    try:
        model = Scaled(2, 2)
        fully_shard(model)
        own = Attributes(model, torch.optim.SGD(model.parameters(), lr=0.1))
        model.scale = 0.5
        assert own.names() == ["scale"]
    finally:
        distributed.destroy_process_group()


def test_of_torchs_own_layers_numbers_are_watched() -> None:
    model = torch.nn.Sequential(torch.nn.LSTM(2, 2), torch.nn.BatchNorm1d(2), torch.nn.Dropout(0.1))
    own = Attributes(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert own.capture() == ({}, {})
    model[2].p = 0.3
    model[1].momentum = 0.5
    kept = own.capture()
    assert sorted(own.names()) == ["1.momentum", "2.p"]
    model[2].p = 0.9
    own.restore(*kept)
    assert (model[1].momentum, model[2].p) == (0.5, 0.3)


def test_parameters_deep_in_a_collection_stay_themselves() -> None:
    model = type("Own", (torch.nn.Linear,), {})(2, 2)
    model.groups = {"decay": [(0, model.weight)]}  # type: ignore[assignment]
    model.seen = {}  # type: ignore[assignment]
    own = Attributes(model, torch.optim.SGD(model.parameters(), lr=0.1))
    model.weight.data.add_(1)
    assert own.capture() == ({}, {})
    assert own.lost() == []
    model.seen[model.weight] = torch.ones(2)  # type: ignore[index, operator]
    assert own.capture() == ({}, {})
    assert own.lost() == ["model..seen"]


def test_what_the_loss_keeps_comes_back_and_is_no_attribute_of_the_model() -> None:
    model, kept = torch.nn.Linear(2, 2), Counting()
    own = Attributes(model, torch.optim.SGD(model.parameters(), lr=0.1), loss=lambda: kept)
    assert not own.changed_by_passes()
    kept.best, kept.seen = 2.0, [1]
    kept.mean.add_(3)  # type: ignore[operator]
    assert own.changed_by_passes()
    assert not own.names()
    found = copy.deepcopy(own.capture())
    kept.best, kept.seen = 4.0, None
    kept.mean.zero_()  # type: ignore[operator]
    own.restore(*found)
    assert (kept.best, kept.seen) == (2.0, [1])
    assert torch.equal(kept.mean, torch.full((2,), 3.0))  # type: ignore[arg-type]


def test_an_iterator_in_a_hook_is_named() -> None:
    model, rates = torch.nn.Linear(2, 2), iter([0.1, 0.2])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.register_step_post_hook(lambda *_: next(rates, None))
    (said,) = Attributes(model, optimizer).warnings
    assert said.startswith(
        "the workload's `optimizer` has an iterator (optimizer._optimizer_step_post_hooks.0.rates), "
    )


def test_what_is_left_is_undone() -> None:
    model, own = watched()
    model.best, model.seen = 1.0, [1, 2]

    def leave() -> None:
        with own.undone_if_left():
            model.best, model.seen = 3.0, [4]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leave()
    assert (model.best, model.seen) == (1.0, [1, 2])


def test_a_checkpoint_encodes_each_value_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, own = watched()
    model.seen, encoded = [1], list[object]()
    theirs = attributes.encode
    monkeypatch.setattr(attributes, "encode", lambda value, prefix: encoded.append(value) or theirs(value, prefix))
    kept, _ = own.capture()
    assert kept == {"model..seen": [1]}
    assert sum(value == [1] for value in encoded) == 1


class Stateful(torch.nn.Linear):
    """A module and a loss with names that torch's own classes have too."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.state: object = None


class Loss:
    def __init__(self) -> None:
        self.state, self.training, self.window = 0, 1, deque(maxlen=3)
        self.stat: object = object()
        self.still = object()


def test_names_that_torchs_classes_have_too_are_kept() -> None:
    def made() -> tuple[Stateful, Loss, Attributes]:
        model, loss = Stateful(), Loss()
        return model, loss, Attributes(model, torch.optim.SGD(model.parameters(), lr=0.1), loss=loss)

    model, loss, own = made()
    model.state = (torch.ones(2), torch.zeros(2))
    loss.state, loss.training = 5, 6
    loss.window.extend([1.0, np.float32(2.0)])
    kept = own.capture()
    model, loss, own = made()
    own.restore(*kept)
    assert isinstance(model.state, tuple)
    assert torch.equal(model.state[0], torch.ones(2))
    assert (loss.state, loss.training, loss.window) == (5, 6, deque([1.0, 2.0], 3))


def test_what_no_checkpoint_can_hold_is_named_where_it_changes() -> None:
    model, loss = Stateful(), Loss()
    own = Attributes(model, torch.optim.SGD(model.parameters(), lr=0.1), loss=loss)
    assert own.lost() == []
    loss.stat, loss.other = object(), object()  # type: ignore[attr-defined]
    assert own.lost() == ["loss.stat", "loss.other"]


def test_all_is_put_back_but_for_what_can_not_be_kept() -> None:
    model, loss = Stateful(), Loss()
    own = Attributes(model, torch.optim.SGD(model.parameters(), lr=0.1), loss=loss)
    loss.state, loss.added = 5, 1  # type: ignore[attr-defined]
    loss.window.append(1)
    own.put_back()
    assert loss.state == 0
    assert not loss.window
    assert not hasattr(loss, "added")


def sets_a_variable() -> None:
    global MADE
    MADE = globals().get("MADE", 0) + 1


class Lengthless:
    def __len__(self) -> int:
        raise TypeError("object has no len()")


class Keeping:
    def __init__(self) -> None:
        self.odd, self.window = Lengthless(), deque([1])
        self.shared = self.window

    def __call__(self) -> None:
        sets_a_variable()


def test_what_has_no_length_and_what_a_function_makes_are_put_back() -> None:
    loss = Keeping()
    own = Attributes(torch.nn.Linear(1, 1), torch.optim.SGD([torch.zeros(1)], lr=0.1), loss=loss)
    loss()
    loss.window.append(2)
    assert globals()["MADE"] == 1
    assert own.lost() == []
    own.put_back()
    assert "MADE" not in globals()
    assert loss.shared is loss.window
    assert list(loss.window) == [1]
