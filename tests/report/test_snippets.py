"""The set-up as code for other loops: each is run and takes the steps of a loop written out by hand, the others' where
their packages are there; without them they parse and say what the settings say."""

from __future__ import annotations

import ast
import builtins
import copy
import importlib
import random
import symtable
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from hotlap.report.snippet_parts import RECOMPUTE
from hotlap.report.snippets import snippets
from hotlap.training import heap
from hotlap.training.by_length import by_length
from hotlap.training.masks import fast_masks
from hotlap.training.reading import MicroBatch
from hotlap.training.recompute import recompute_layers, repeated_layers
from hotlap.training.settings import Settings
from hotlap.training.trimming import trimmed
from hotlap.workload.workload import Workload

LOOPS = ("pytorch", "lightning", "accelerate")
IMAGES: dict[str, Any] = {
    "precision": "bf16", "layout": "channels_last", "compile": True, "fused": True, "batch_size": 32, "micro_batch": 8,
    "workers": 2, "prefetch": 3, "keep_memory": True,
}  # fmt: skip
TEXTS: dict[str, Any] = {"trim": True, "foreach": True, "checkpointing": True}
BY_LENGTH: dict[str, Any] = {"trim": True, "length_buckets": 3, "fast_dropout": True, "attention": "math"}
AT_ONCE: dict[str, Any] = {"at_once": True, "workers": 1, "batch_size": 16}
CUDA: dict[str, Any] = {"device": "cuda", "precision": "fp16", "pin": True, "micro_batch": 8, "layout": "channels_last"}
CHANGES = [{}, IMAGES, TEXTS, BY_LENGTH, {**BY_LENGTH, "micro_batch": 8}, AT_ONCE, CUDA, {"precision": "bf16"}]
DATA = [{}, {"own_batches": True}, {"weighted": True}]
ROWS = 25


class Sum(nn.Module):
    """Takes one or two inputs [rows, 3], gives a Tensor, tuple or dict of [rows, 2]."""

    def __init__(self, nested: Callable[[Any], Any]) -> None:
        super().__init__()
        self.nested, self.layer = nested, nn.Linear(3, 2)

    def forward(self, first: Any, second: Any = 0) -> Any:
        return self.nested(self.layer(first + second))


class Examples(Dataset[Any]):
    """Pairs whose inputs are `nested` of two rows."""

    def __init__(self, nested: Callable[[Any, Any], Any]) -> None:
        draw = torch.Generator().manual_seed(3)
        self.nested = nested
        self.rows, self.more = (torch.randn(ROWS, 3, generator=draw) for _ in range(2))
        self.labels = torch.randint(0, 2, (ROWS,), generator=draw)

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: Any) -> Any:
        return self.nested(self.rows[index], self.more[index]), self.labels[index]


KINDS: dict[str, tuple[Callable[..., Any], Callable[[Any], Any], Callable[[Any], Any]]] = {
    "tensor": (lambda first, second: first, lambda out: out, lambda out: out),
    "tuple": (lambda first, second: (first, second), lambda out: (out, out), lambda out: out[1]),
    "dict": (
        lambda first, second: {"second": second, "first": first},
        lambda out: {"logits": out, "nothing": None},
        lambda out: out["logits"],
    ),
}
"""By kind of the inputs: what makes them, how outputs nest, what a loss takes of them."""


@contextmanager
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        yield


def settings(**changes: Any) -> Any:
    return Settings(threads=torch.get_num_threads(), **changes).to_json()


def trained(changes: Any, names: dict[str, Any], loop: str = "pytorch", **data: Any) -> tuple[nn.Module, int]:
    """The model after a loop's snippet ran, and how many steps the optimizer took."""
    steps = 0

    def count(*given: Any) -> None:
        nonlocal steps
        steps += 1

    hook = register_optimizer_step_post_hook(count)
    model = copy.deepcopy(names["model"])
    try:
        with seeded():
            exec(snippets(settings(**changes), **data)[loop], {**names, "model": model})
    finally:
        hook.remove()
    return model, steps


def by_hand(model: nn.Module, loader: Any, loss: Any, *, epochs: int, half: bool = False) -> nn.Module:
    """A model trained with whole batches, one pass each."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters())
    with seeded():
        for _ in range(epochs):
            for inputs, targets in loader:
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                    if isinstance(inputs, dict):
                        outputs = model(inputs["first"], inputs["second"])
                    else:
                        outputs = model(inputs) if torch.is_tensor(inputs) else model(inputs[0], inputs[1])
                optimizer.zero_grad()
                loss(outputs, targets).backward()
                optimizer.step()
    return model


def assert_alike(model: nn.Module, other: nn.Module, tolerance: float = 1e-6) -> None:
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "changes",
    [{}, {"micro_batch": 3}, {"micro_batch": 3, "fused": True}, {"at_once": True, "micro_batch": 5}, {"foreach": True}],
    ids=["whole", "parts", "parts, fused", "at once, parts", "foreach"],
)
def test_the_plain_one_takes_the_steps_of_whole_batches(kind: str, changes: Any) -> None:
    nested, given, logits = KINDS[kind]
    data = Examples(nested)
    model = Sum(given)

    def loss(outputs: Any, targets: Any) -> Any:
        return functional.cross_entropy(logits(outputs), targets)

    names = {"model": model, "dataset": data, "loss_function": loss}
    made, steps = trained({"batch_size": 8, "epochs": 2, **changes}, names)
    order = DataLoader(data, batch_size=8, shuffle=True)
    assert_alike(made, by_hand(model, order, loss, epochs=2))
    assert steps == 2 * 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [({}, 1e-6), ({"micro_batch": 3}, 1e-6), ({"micro_batch": 3, "precision": "bf16", "fused": True}, 1e-4)],
    ids=["whole", "parts", "bf16, fused, parts"],
)
@pytest.mark.parametrize(("loop", "package"), [("lightning", "pytorch_lightning"), ("accelerate", "accelerate")])
def test_other_loops_take_the_steps_of_whole_batches(
    loop: str, package: str, changes: Any, tolerance: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, loop, importlib.import_module(package))
    if loop == "accelerate":
        # It keeps the number format of the first test's for the whole process.
        sys.modules[loop].state.AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.chdir(tmp_path)
    nested, given, logits = KINDS["dict"]
    model = Sum(given)

    def loss(outputs: Any, targets: Any) -> Any:
        assert logits(outputs).dtype == torch.float32
        return functional.cross_entropy(logits(outputs), targets)

    def of_hand(outputs: Any, targets: Any) -> Any:
        return functional.cross_entropy(logits(outputs).float(), targets)

    # Each of them draws from the generators before it shuffles, which gives other orders.
    theirs = DataLoader.__init__

    def in_order(self: Any, *given: Any, shuffle: Any = None, **named: Any) -> None:
        theirs(self, *given, **named)

    monkeypatch.setattr(DataLoader, "__init__", in_order)
    batches = list(DataLoader(Examples(nested), batch_size=8))
    names = {"model": model, "dataset": Examples(nested), "loss_function": loss}
    made, steps = trained({"batch_size": 8, "epochs": 2, **changes}, names, loop)
    assert steps == 2 * 4
    assert_alike(made, by_hand(model, batches, of_hand, epochs=2, half="precision" in changes), tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_in_half_precision_reach_the_loss_in_fp32(kind: str) -> None:
    nested, given, logits = KINDS[kind]
    model, kinds = Sum(given), set()

    def loss(outputs: Any, targets: Any) -> Any:
        kinds.add(logits(outputs).dtype)
        return functional.cross_entropy(logits(outputs).float(), targets)

    data = Examples(nested)
    names = {"model": model, "dataset": data, "loss_function": loss}
    made, _ = trained({"batch_size": 8, "precision": "bf16", "micro_batch": 3}, names)
    assert kinds == {torch.float32}
    assert_alike(made, by_hand(model, DataLoader(data, batch_size=8, shuffle=True), loss, epochs=1, half=True), 1e-4)


def test_parts_are_weighted_by_what_their_loss_is_averaged_over() -> None:
    draw = torch.Generator().manual_seed(1)
    labels = torch.where(torch.rand(ROWS, generator=draw) < 0.5, -100, torch.randint(0, 2, (ROWS,), generator=draw))
    rows = torch.randn(ROWS, 3, generator=draw)
    batches = [(rows[:12], labels[:12]), (rows[12:13], torch.tensor([-100])), (rows[13:], labels[13:])]
    data = TensorDataset(rows, labels)
    names = {
        "model": Sum(lambda out: out), "dataset": data, "batches": batches, "loss_function": functional.cross_entropy,
        "loss_weight": lambda targets: (targets != -100).sum().item(),
    }  # fmt: skip
    made, steps = trained({"batch_size": 8, "micro_batch": 1}, names, weighted=True)
    whole = DataLoader(data, batch_size=8, shuffle=True)
    with seeded():
        counted = [batch for batch in whole if (batch[1] != -100).any()]
    assert_alike(made, by_hand(names["model"], counted, functional.cross_entropy, epochs=1))
    assert steps == len(counted)
    made, steps = trained({"batch_size": 8}, names, weighted=True, own_batches=True)
    assert_alike(made, by_hand(names["model"], batches[::2], functional.cross_entropy, epochs=1))
    assert steps == 2


def test_a_loader_of_ones_own_is_read_at_once_in_its_own_order() -> None:
    data = Subset(Examples(KINDS["tuple"][0]), range(4, 20))
    model = Sum(lambda out: out)
    names = {"model": model, "batches": DataLoader(data, batch_size=5), "loss_function": functional.cross_entropy}
    made, steps = trained({"at_once": True}, names, own_batches=True)
    assert_alike(made, by_hand(model, DataLoader(data, batch_size=5), functional.cross_entropy, epochs=1))
    assert steps == 4


def test_images_and_weights_lie_channels_last_and_repeated_layers_are_recomputed() -> None:
    seen = []

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(width, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())

        def forward(self, images: Any) -> Any:
            seen.append(images.is_contiguous(memory_format=torch.channels_last))
            return self.layers(images)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks, self.head = nn.Sequential(Block(3), Block(4)), nn.Linear(4, 2)

        def forward(self, images: Any) -> Any:
            return self.head(self.blocks(images).mean((2, 3)))

    data = TensorDataset(torch.randn(6, 3, 8, 8), torch.randint(0, 2, (6,)))
    names = {"model": Net(), "dataset": data, "loss_function": functional.cross_entropy}
    plain, _ = trained({"batch_size": 4, "layout": "channels_last"}, names)
    assert len(seen) == 4
    assert all(seen)
    again, _ = trained({"batch_size": 4, "layout": "channels_last", "checkpointing": True}, names)
    assert len(seen) == 4 + 2 * 4  # Each block of two steps twice more.
    for one, two in zip(plain.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, two)
    assert recompute_layers(copy.deepcopy(names["model"])) == list(repeated_layers(names["model"]))


def test_layers_in_lists_of_lists_are_recomputed() -> None:
    def block() -> nn.Module:
        return nn.Sequential(nn.Linear(2, 2), nn.ReLU())

    model = nn.ModuleDict({"stages": nn.ModuleList([nn.ModuleList([block(), block()]) for _ in range(2)])})
    names: dict[str, Any] = {}
    exec(f"{_imported_by(snippets(settings(checkpointing=True))['pytorch'])}\n{RECOMPUTE}", names)
    names["recompute"](model)
    again = [name for name, module in model.named_modules() if "forward" in vars(module)]
    assert again == list(repeated_layers(model)) == [f"stages.{outer}.{inner}" for outer in "01" for inner in "01"]


def _imported_by(code: str) -> str:
    return "\n".join(line for line in code.splitlines() if line.startswith(("import ", "from ")))


def test_it_trims_as_hotlap_does() -> None:
    names: dict[str, Any] = {"model": nn.Linear(1, 1), "dataset": TensorDataset(torch.empty(0)), "loss_function": None}
    names["dataset"] = [(torch.zeros(1), torch.zeros(1))]
    names["loss_function"] = functional.mse_loss
    exec(snippets(settings(trim=True), least_length=2)["pytorch"], names)
    draw, cut = random.Random(0), 0
    for _ in range(300):
        rows, width = draw.randint(1, 3), draw.randint(2, 7)
        ids = torch.tensor([[draw.choice((0, 0, 1)) for _ in range(width)] for _ in range(rows)])
        lengths = torch.tensor([[draw.randint(1, width)] for _ in range(rows)])
        mask = (torch.arange(width) < lengths).long()
        inputs: Any = draw.choice([ids * mask, {"ids": ids * mask, "mask": mask}, (ids * mask, torch.rand(rows, 4))])
        targets = draw.choice([torch.zeros(rows, width), ids, mask - 1, torch.zeros(rows)])
        wanted = trimmed(MicroBatch(inputs=inputs, targets=targets, rows=rows, weight=1.0, start=0), 2)
        found = names["trimmed"](inputs, targets)
        torch.testing.assert_close(found, (wanted.inputs, wanted.targets), rtol=0, atol=0)
        cut += wanted.inputs is not inputs
    assert cut > 30


@pytest.mark.parametrize("weighted", [False, True])
def test_it_puts_rows_in_passes_by_length_as_hotlap_does(weighted: bool) -> None:
    names: dict[str, Any] = {"model": nn.Linear(1, 1), "dataset": [(torch.zeros(1), torch.zeros(1))]}
    names |= {"loss_function": functional.mse_loss, "loss_weight": lambda targets: float((targets >= 0).sum())}
    exec(snippets(settings(trim=True, length_buckets=3), weighted=weighted)["pytorch"], names)
    workload = Workload(
        model=nn.Identity,
        example=lambda batch: torch.ones(batch, 1),
        loss_weight=names["loss_weight"] if weighted else None,
    )
    draw, cut = random.Random(0), 0
    for _ in range(200):
        rows, width = draw.randint(1, 9), draw.randint(2, 30)
        mask = (torch.arange(width) < torch.tensor([[draw.randint(1, width)] for _ in range(rows)])).long()
        inputs: Any = draw.choice([mask, {"ids": mask * 3, "mask": mask}, torch.rand(rows, width)])
        labels = torch.tensor([draw.choice((-1, 1)) for _ in range(rows)])
        targets = draw.choice([labels, torch.where(mask == 1, 2, -1), torch.randint(-1, 2, mask.shape)])
        weight = names["loss_weight"](targets) if weighted else float(rows)
        if not weight:
            continue
        whole = MicroBatch(inputs=inputs, targets=targets, rows=rows, weight=weight, start=0)
        wanted = [one for one in by_length(whole, 3, workload) if one.weight]
        found = list(names["by_length"](inputs, targets))
        assert [part[2] for part in found] == pytest.approx([one.weight / weight for one in wanted])
        torch.testing.assert_close([part[:2] for part in found], [(one.inputs, one.targets) for one in wanted])
        cut += len(wanted) > 1
    assert cut > 30


def test_it_draws_masks_as_hotlap_does() -> None:
    names: dict[str, Any] = {"model": nn.Linear(1, 1), "dataset": [(torch.zeros(1), torch.zeros(1))]}
    names["loss_function"] = functional.mse_loss
    try:
        exec(snippets(settings(fast_dropout=True))["pytorch"], names)
        torch.manual_seed(1)
        found = functional.dropout(torch.ones(300, 300), 0.3)
    finally:
        names["_dropout_library"]._destroy()
    torch.manual_seed(1)
    with fast_masks():
        assert torch.equal(functional.dropout(torch.ones(300, 300), 0.3), found)


@pytest.mark.parametrize(
    "changes", CHANGES, ids=["plain", "images", "texts", "length", "lengths in parts", "at once", "cuda", "bf16"]
)
@pytest.mark.parametrize("data", DATA, ids=["dataset", "own batches", "weighted"])
@pytest.mark.parametrize("loop", LOOPS)
def test_it_is_python_and_every_name_in_it_is_known(loop: str, changes: Any, data: Any) -> None:
    code = snippets(Settings(**changes).to_json(), **data)[loop]
    ast.parse(code)
    top = symtable.symtable(code, "snippet", "exec")
    known = {one.get_name() for one in top.get_symbols() if one.is_assigned() or one.is_imported()}
    known |= {"model", "loss_function", "batches" if "own_batches" in data else "dataset", *dir(builtins)}
    known |= {"loss_weight"} if "weighted" in data else set()
    assert global_names(top) - known == set()
    assert {one.get_name() for one in top.get_symbols() if one.is_imported()} <= global_names(top)
    assert max(map(len, code.splitlines())) <= 120


def global_names(table: symtable.SymbolTable) -> set[str]:
    top = table.get_type() == "module"
    found = {one.get_name() for one in table.get_symbols() if one.is_referenced() and (top or one.is_global())}
    return found.union(*map(global_names, table.get_children()))


def test_each_setting_is_said() -> None:
    found = snippets(Settings(**IMAGES).to_json())
    for words in ('precision="bf16-mixed"', "self.manual_backward(share * loss)", "return torch.optim.AdamW(model"):
        assert words in found["lightning"]
    for words in ('mixed_precision="bf16"', "accelerator.backward(share * loss)"):
        assert words in found["accelerate"]
    for code in found.values():
        for words in (
            "batch_size=32",
            "size=8",
            "num_workers=2,",
            "prefetch_factor=3",
            "memory_format=torch.channels_last",
        ):
            assert words in code
        for option, value in heap.KEEPING.values():
            assert f"_c_library.mallopt({option}, {value})" in code
        for words in ("model.compile()", "fused=True", "torch.set_num_threads(1)"):
            assert words in code
    cuda = snippets(Settings(**CUDA).to_json())
    assert 'leaf.to("cuda", non_blocking=True)' in cuda["pytorch"]
    assert 'accelerator="cuda"' in cuda["lightning"]
    assert all("pin_memory=True" in code for code in cuda.values())
    assert "scaler.scale((share * loss)).backward()" in cuda["pytorch"]


def test_what_is_left_to_ones_own_loop_is_named() -> None:
    given = Settings(clip=0.5, schedule="cosine", batch_size=32, epochs=7, threads=1).to_json()
    for text in snippets(given).values():
        assert "# Also yours, and not in here: clip=0.5, schedule=cosine.\n" in text
    proposed = " ".join(f"word{number}" for number in range(40))
    for text in snippets(given, proposal=proposed).values():
        lines = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("# ")]
        assert proposed in " ".join(lines)
    assert not any("Also yours" in text for text in snippets(Settings(batch_size=32).to_json()).values())


def test_an_optimizer_of_ones_own_is_asked_for() -> None:
    for code in snippets(Settings(fused=True).to_json(), own_optimizer=True).values():
        assert "make_optimizer(parameters), yours with fused=True." in code
        assert "make_optimizer([one for one in model.parameters() if one.requires_grad])\n" in code
        assert "AdamW" not in code


def test_batches_of_ones_own_are_read_as_they_come() -> None:
    for code in snippets(Settings(**IMAGES).to_json(), own_batches=True).values():
        assert "loader = batches\n" in code
        assert "passes" not in code
        assert "Dataset" not in code


def test_batches_that_accelerate_takes_as_they_are_go_to_the_device() -> None:
    def moved(loop: str = "accelerate", **changes: Any) -> bool:
        code = snippets(Settings(**{**CUDA, "layout": "contiguous", **changes}).to_json(), own_batches=True)[loop]
        assert ("leaf.to(" in code) == ("placed((inputs, targets))" in code)
        return "leaf.to(" in code

    assert moved()
    assert not moved(at_once=True)  # A DataLoader, which it moves.
    assert not moved(device="cpu", precision="bf16")
    assert not moved("lightning")  # It moves what any iterable gives.
    assert "leaf.to(" not in snippets(Settings(**CUDA).to_json())["accelerate"]
