"""A training set-up in the words of the loops that people have: plain PyTorch, Lightning, Accelerate.

Each is whole: with what stands in its first comment defined, it runs, and takes the steps that `hotlap train` takes
with these settings, in a random order of its own.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass

from hotlap.core import Json
from hotlap.report import snippet_parts as parts
from hotlap.training.by_length import groups
from hotlap.training.masks import LEAST, draw
from hotlap.training.settings import beside_the_workload

_HALVES = {"bf16": "torch.bfloat16", "fp16": "torch.float16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """The settings, and what else decides how a loop reads; `micro_batch` is None where a batch is one pass."""

    settings: Json
    own_batches: bool
    weighted: bool
    least_length: int
    own_optimizer: bool
    proposal: str | None

    @property
    def passes(self) -> str | None:
        """What gives the parts of a batch, where it is computed in several; None where it is one pass."""
        by_length = self.settings["length_buckets"] > 1
        if self.micro_batch:
            return "in_passes" if by_length else "passes"
        return "by_length" if by_length else None

    @property
    def micro_batch(self) -> int | None:
        size = self.settings["micro_batch"]
        return size if size and size < self.settings["batch_size"] and not self.own_batches else None


def snippets(
    settings: Json,
    *,
    own_batches: bool = False,
    weighted: bool = False,
    least_length: int = 1,
    own_optimizer: bool = False,
    proposal: str | None = None,
) -> dict[str, str]:
    """Code by the loop's name: `pytorch`, `lightning`, `accelerate`, for settings that `tune` chose.

    settings: as settings.json holds them. own_batches: `training` gives batches of its own, which are read as they
    come. weighted: the workload has a `loss_weight`. least_length: of a trimmed batch (trimming.least_length).
    own_optimizer: the workload makes its optimizer itself. proposal: what to do about the learning rate, in a sentence.
    """
    plan = _Plan(
        settings=settings,
        own_batches=own_batches,
        weighted=weighted,
        least_length=least_length,
        own_optimizer=own_optimizer,
        proposal=proposal,
    )
    return {"pytorch": _pytorch(plan), "lightning": _lightning(plan), "accelerate": _accelerate(plan)}


def _pytorch(plan: _Plan) -> str:
    device, half = plan.settings["device"], _HALVES.get(plan.settings["precision"])
    scaled = plan.settings["precision"] == "fp16"
    moved = device != "cpu"
    outputs = ["outputs = call(model, inputs)", "loss = loss_function(outputs, targets)"]
    if half:
        outputs = [
            f'with torch.autocast("{device}", dtype={half}):',
            "    outputs = call(model, inputs)",
            "loss = loss_function(in_fp32(outputs), targets)",
        ]
    part = "(share * loss)" if plan.passes else "loss"
    outputs.append(f"scaler.scale({part}).backward()" if scaled else f"{part}.backward()")
    body = [
        *_unless_weightless(plan, "continue"),
        "optimizer.zero_grad()",
        *_in_passes(plan, [*_prepared(plan, moved), *outputs]),
        *(["scaler.step(optimizer)", "scaler.update()"] if scaled else ["optimizer.step()"]),
    ]
    helpers = _helpers(plan, moved=moved, widened=half is not None)
    return _text(
        _imports(plan, helpers),
        helpers,
        [
            *([f'model.to("{device}")'] if moved else []),
            *_prepared_model(plan),
            f"optimizer = {_optimizer(plan)}",
            *([f'scaler = torch.amp.GradScaler("{device}")'] if scaled else []),
            *_loader(plan),
            *_epochs(plan, body),
        ],
    )


def _lightning(plan: _Plan) -> str:
    settings = plan.settings
    half = settings["precision"] != "fp32"
    precision = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[settings["precision"]]
    loss = ["loss = loss_function(outputs, targets)"]
    if half:
        loss = [
            "with torch.autocast(self.device.type, enabled=False):",
            "    loss = loss_function(in_fp32(outputs), targets)",
        ]
    steps = [*_prepared(plan, False), "outputs = call(self.model, inputs)", *loss]
    if plan.passes:
        steps = [
            "optimizer = self.optimizers()",
            "optimizer.zero_grad()",
            *_in_passes(plan, [*steps, "self.manual_backward(share * loss)"]),
            "optimizer.step()",
        ]
    else:
        steps.append("return loss")
    by_hand = [*_unlike(plan, "Lightning's accumulate_grad_batches"), "self.automatic_optimization = False"]
    helpers = _helpers(plan, widened=half)
    return _text(
        _imports(plan, helpers, "import lightning  # or: import pytorch_lightning as lightning"),
        helpers,
        [
            *_prepared_model(plan),
            "",
            "",
            "class Module(lightning.LightningModule):",
            "    def __init__(self):",
            "        super().__init__()",
            "        self.model = model",
            *_indented(by_hand if plan.passes else [], 2),
            "",
            "    def training_step(self, batch, index):",
            "        inputs, targets = batch",
            *_indented([*_unless_weightless(plan, "return None"), *steps], 2),
            "",
            "    def configure_optimizers(self):",
            f"        return {_optimizer(plan)}",
            "",
            "",
            *_loader(plan),
            f'trainer = lightning.Trainer(max_epochs={settings["epochs"]}, accelerator="{settings["device"]}",',
            f'                            devices=1, precision="{precision}")',
            "trainer.fit(Module(), loader)",
        ],
    )


def _accelerate(plan: _Plan) -> str:
    settings = plan.settings
    precision = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}[settings["precision"]]
    # It moves what its own DataLoaders give, and takes any other iterable as it is.
    moved = plan.own_batches and not settings["at_once"] and settings["device"] != "cpu"
    steps = [
        *_prepared(plan, moved),
        "outputs = call(model, inputs)" + ("  # Accelerate widens them to fp32" if precision != "no" else ""),
        "loss = loss_function(outputs, targets)",
        f"accelerator.backward({'share * loss' if plan.passes else 'loss'})",
    ]
    body = [
        *_unless_weightless(plan, "continue"),
        "optimizer.zero_grad()",
        *_unlike(plan, "Accelerate's gradient_accumulation_steps"),
        *_in_passes(plan, steps),
        "optimizer.step()",
    ]
    helpers = _helpers(plan, moved=moved)
    return _text(
        _imports(plan, helpers, "import accelerate"),
        helpers,
        [
            *_prepared_model(plan),
            f"optimizer = {_optimizer(plan)}",
            *_loader(plan),
            f'accelerator = accelerate.Accelerator(mixed_precision="{precision}", cpu={settings["device"] == "cpu"})',
            "model, optimizer, loader = accelerator.prepare(model, optimizer, loader)",
            *_epochs(plan, body),
        ],
    )


def _imports(plan: _Plan, helpers: list[str], framework: str = "") -> list[str]:
    """What the helpers and the loop need, and what is to stand before."""
    settings, used = plan.settings, "\n".join(helpers)
    names = [] if plan.own_batches and not settings["at_once"] else ["DataLoader"]
    names += ["Dataset", "Subset", "default_convert"] if settings["at_once"] else []
    again = settings["checkpointing"]
    return [
        *(["import ctypes"] if settings["keep_memory"] else []),
        f"from collections.abc import Mapping{', Sequence' if settings['length_buckets'] > 1 else ''}",
        *(["from contextlib import contextmanager, nullcontext", "from functools import partial"] if again else []),
        "",
        *([framework] if framework else []),
        *(["import numpy"] if settings["at_once"] else []),
        "import torch",
        *(["from torch.utils import _pytree as pytree"] if "pytree." in used else []),
        *(["from torch.utils.checkpoint import checkpoint"] if again else []),
        *([f"from torch.utils.data import {', '.join(names)}"] if names else []),
        "",
        *_yours(plan),
        *([f"torch.set_num_threads({settings['threads']})"] if settings["device"] == "cpu" else []),
        *(parts.MATH_ATTENTION.splitlines() if settings["attention"] == "math" else []),
        *(parts.KEPT_MEMORY.splitlines() if settings["keep_memory"] else []),
    ]


def _yours(plan: _Plan) -> list[str]:
    """What a person has to define first."""
    data = (
        "batches, an iterable of (inputs, targets)" if plan.own_batches else "dataset, whose items are (input, target)"
    )
    words = f"# Yours, before this line: model; {data};"
    weight = "; loss_weight(targets), what that loss is averaged over" if plan.weighted else ""
    form = _form(plan)
    optimizer = f"; make_optimizer(parameters), yours{f' with {form}' if form else ''}" if plan.own_optimizer else ""
    return [words, f"# loss_function(outputs, targets), a mean{weight}{optimizer}.", *_left_out(plan)]


def _left_out(plan: _Plan) -> list[str]:
    """What a person gave `tune` beside the workload, and has in a loop of their own; what is theirs to decide."""
    found = beside_the_workload(plan.settings)
    told = [f"# Also yours, and not in here: {', '.join(found)}."] if found else []
    proposed = textwrap.wrap(plan.proposal or "", width=100, initial_indent="# ", subsequent_indent="# ")
    return [*told, *proposed]


def _helpers(plan: _Plan, *, moved: bool = False, widened: bool = False) -> list[str]:
    """The functions that a loop calls, in the order that it calls them in."""
    settings = plan.settings
    images = settings["layout"] == "channels_last"
    found = [parts.AT_ONCE] if settings["at_once"] else []
    found += [parts.RECOMPUTE] if settings["checkpointing"] else []
    if plan.passes == "in_passes":
        found.append(parts.IN_PASSES)
    if settings["length_buckets"] > 1:
        weight, total = "len(rows)", "len(leaves[0])"
        if plan.weighted:
            weight, total = "float(loss_weight(part[1]))", "float(loss_weight(targets))"
        found.append(parts.BY_LENGTH.format(most=settings["length_buckets"], weight=weight, total=total))
        found.append(inspect.getsource(groups))
    if plan.micro_batch:
        found.append((parts.WEIGHTED_PASSES if plan.weighted else parts.PASSES).format(size=plan.micro_batch))
    found += [parts.TRIMMED.format(least=plan.least_length)] if settings["trim"] else []
    if images or moved:
        found.append(_placed(settings, images, moved))
    found.append(parts.CALL)
    found += [parts.IN_FP32] if widened else []
    found += [inspect.getsource(draw), parts.FAST_DROPOUT.format(least=LEAST)] if settings["fast_dropout"] else []
    return [line for text in found for line in ("", "", *text.splitlines())] + ["", ""]


def _placed(settings: Json, images: bool, moved: bool) -> str:
    told = (["tensors on the device"] if moved else []) + (["images in the layout of the weights"] if images else [])
    there = f'leaf.to("{settings["device"]}", non_blocking={settings["pin"]})' if moved else "leaf"
    return parts.PLACED.format(told=", ".join(told), layout=parts.IMAGES if images else "", there=there)


def _prepared(plan: _Plan, moved: bool) -> list[str]:
    """A pass's batch, made ready for the model."""
    found = ["inputs, targets = trimmed(inputs, targets)"] if plan.settings["trim"] else []
    if moved or plan.settings["layout"] == "channels_last":
        found.append("inputs, targets = placed((inputs, targets))")
    return found


def _prepared_model(plan: _Plan) -> list[str]:
    settings = plan.settings
    return [
        *(["model.to(memory_format=torch.channels_last)"] if settings["layout"] == "channels_last" else []),
        *(["recompute(model)"] if settings["checkpointing"] else []),
        *(["model.compile()"] if settings["compile"] else []),
        "model.train()",
    ]


def _optimizer(plan: _Plan) -> str:
    form = _form(plan)
    if plan.own_optimizer:
        return "make_optimizer([one for one in model.parameters() if one.requires_grad])"
    return f"torch.optim.AdamW(model.parameters(){f', {form}' if form else ''})"


def _form(plan: _Plan) -> str:
    return next((f"{name}=True" for name in ("fused", "foreach") if plan.settings[name]), "")


def _loader(plan: _Plan) -> list[str]:
    """A loader of shuffled batches; of batches read at once, where the settings say so."""
    settings, size = plan.settings, plan.settings["batch_size"]
    if plan.own_batches and not settings["at_once"]:
        return ["loader = batches"]
    if plan.own_batches:
        kept = [f"{name}=batches.{name}" for name in ("batch_sampler", "num_workers", "pin_memory")]
        return _made(["AtOnce(batches.dataset)", "collate_fn=default_convert", *kept])
    words = ["dataset", f"batch_size={size}", "shuffle=True"]
    if settings["at_once"]:
        words = ["AtOnce(dataset)", "collate_fn=default_convert", *words[1:]]
    if settings["workers"]:
        words += [f"num_workers={settings['workers']}", f"prefetch_factor={settings['prefetch']}"]
        words += ["persistent_workers=True"]
    return _made([*words, "pin_memory=True"] if settings["pin"] else words)


def _made(words: list[str]) -> list[str]:
    """A DataLoader on one line, or on several where that would be long."""
    line = f"loader = DataLoader({', '.join(words)})"
    return [line] if len(line) <= 100 else ["loader = DataLoader(", *(f"    {word}," for word in words), ")"]


def _epochs(plan: _Plan, body: list[str]) -> list[str]:
    return [
        f"for epoch in range({plan.settings['epochs']}):",
        "    for inputs, targets in loader:",
        *_indented(body, 2),
    ]


def _in_passes(plan: _Plan, body: list[str]) -> list[str]:
    if not plan.passes:
        return body
    return [f"for inputs, targets, share in {plan.passes}(inputs, targets):", *_indented(body, 1)]


def _unless_weightless(plan: _Plan, leave: str) -> list[str]:
    """Leaving out a batch whose loss is averaged over nothing."""
    return ["if not loss_weight(targets):", f"    {leave}"] if plan.weighted else []


def _unlike(plan: _Plan, setting: str) -> list[str]:
    """Why the loop's own way of adding gradients up is not taken, where they are added up."""
    if not plan.micro_batch:
        return []
    count = -(-plan.settings["batch_size"] // plan.micro_batch)
    return [
        f"# Not {setting}={count}, which divides each pass's loss by {count} whatever",
        "# its rows, also in the short last batch of an epoch: another gradient than the whole batch's.",
    ]


def _indented(lines: Iterable[str], levels: int) -> list[str]:
    return [f"{'    ' * levels}{line}" if line else "" for line in lines]


def _text(*blocks: list[str]) -> str:
    return "".join(f"{line}\n" for block in blocks for line in block)
