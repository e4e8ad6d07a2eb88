"""Cutting off the columns of a batch that are padding in every row, and the check that this changes nothing.

Texts of a Dataset are padded to one length, so that a batch of short ones is mostly padding, which costs as much as
text. Padding are the last columns in which the attention mask is 0 in every row and each other input of whole numbers
holds one and the same number; where there is no mask, those in which that number is 0. Whether the model, the loss and
the gradients ignore such columns is not assumed but tried, on real batches, before a run takes part in it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from hotlap.errors import WorkloadError
from hotlap.training import comparing, preparing
from hotlap.training.reading import MicroBatch, Window, of_tensors, picked
from hotlap.workload.workload import Workload

if TYPE_CHECKING:
    import torch

    from hotlap.training.loop import Parts
    from hotlap.training.processes import Processes

_WINDOWS = 4
_WINDOWS_BY_LENGTH = 2
"""Windows that are also put in passes by length, which `cutting` tries too."""
_ROWS = 16
"""Of each: what a row's padding changes shows in a few."""
_MOST_LOOKED_AT = 64
"""Windows, where none of them has padding."""
_ENOUGH_SECONDS = 3.0
"""Of windows that take so long fewer do, one at least; where none has padding, so long again is looked for one."""
NO_PADDING = "no batch has columns that are padding in every row"
LABELLED = "targets have labels above 0, or several, beside padding; fill them up with -100 or 0"
ONE_LENGTH = "no batch has rows of several lengths that can be told apart"
TOLERANCE = 1e-5
"""Relative, of the loss and of the gradients' norm: fp32 sums in another order differ by about 1e-6."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trimmed:
    """What a check found. `kept` is the share of the numbers in all columns that is left, `difference` the largest
    relative one of loss and gradients; `reason` says why batches can't be trimmed, None where they can."""

    kept: float
    difference: float
    reason: str | None


def least_length(workload: Workload) -> int:
    """The shortest that the workload allows axis 1 of an input to be: the low end of its `dynamic`, or 1."""
    ends = [axes[1][1] for axes in (workload.dynamic or {}).values() if isinstance(axes.get(1), tuple)]
    return max([1, *(int(low) for low in ends)])


def trimmed(micro_batch: MicroBatch, least: int) -> MicroBatch:
    """The micro-batch without columns that are padding in every row, at least `least` wide."""
    from torch.utils import _pytree as pytree

    inputs = micro_batch.inputs
    width = _width(inputs)
    if width is None:
        return micro_batch
    used = max(_used(inputs, width), least)
    if used >= width or _says_something(micro_batch, width, used):
        return micro_batch

    def cut(leaf: Any) -> Any:
        return leaf[:, :used] if _is_as_wide(leaf, micro_batch.rows, width) else leaf

    def cut_target(leaf: Any) -> Any:
        return leaf[:, :used] if _is_of_tokens(leaf, micro_batch.rows, width) else leaf

    targets = pytree.tree_map(cut_target, micro_batch.targets)
    return replace(micro_batch, inputs=pytree.tree_map(cut, inputs), targets=targets)


def _says_something(micro_batch: MicroBatch, width: int, used: int) -> bool:
    """Whether targets of as many columns hold labels in those that are padding in the inputs."""
    return not all(_is_padding(leaf[:, used:]) for leaf in _targets_of_tokens(micro_batch, width))


def _targets_of_tokens(micro_batch: MicroBatch, width: int) -> list[torch.Tensor]:
    from torch.utils import _pytree as pytree

    return [leaf for leaf in pytree.tree_leaves(micro_batch.targets) if _is_of_tokens(leaf, micro_batch.rows, width)]


def lengths(micro_batch: MicroBatch) -> torch.Tensor | None:
    """How many columns each row has up to its last that is no padding, [rows]; None where nothing tells, where what
    belongs to a row is not in a Tensor of so many rows, or where what lies beyond is not the same in all of them."""
    import torch

    if not of_tensors(micro_batch):
        return None
    masks = _masks(micro_batch.inputs)
    width = _width(micro_batch.inputs)
    if width is None or any(bool((mask[:, 0] == 0).any()) for mask in masks):
        return None
    told = masks or [leaf for leaf in _whole(micro_batch.inputs) if leaf.shape[1] == width]
    columns = torch.arange(1, width + 1, device=told[0].device)
    found = (torch.stack([leaf != 0 for leaf in told]).any(0) * columns).amax(1)
    beyond = columns > found[:, None]
    beside = [leaf for leaf in _whole(micro_batch.inputs) if _is_as_wide(leaf, micro_batch.rows, width)]
    beside += _targets_of_tokens(micro_batch, width)
    return found.cpu() if all(_is_constant(leaf[beyond]) for leaf in beside) else None


def check(plain: Parts, other: Parts, processes: Processes, tolerance: float = TOLERANCE) -> Trimmed:
    """Compute real windows as they are and trimmed, and compare losses and gradients.

    `plain` and `other` are alike but for `trim` and `length_buckets`, in fp32, and of no further use afterwards. Layers
    that draw are off, since dropout draws other numbers for another width; where functions draw, too, all is computed
    as in evaluation but for batch statistics. Each of several processes computes windows of its own, apart from the
    others; what one of them refuses all refuse.
    """
    for parts in (plain, other):
        for name in preparing.not_exact(parts.model).get("randomness", []):
            parts.model.get_submodule(name).eval()
    ours = _compared(plain, other)
    plain.source.close()
    found: list[_Compared] = processes.gathered(ours)
    whole = sum(one.whole for one in found)
    kept = sum(one.left for one in found) / whole if whole else 1.0
    tested, labelled = any(one.tested for one in found), any(one.labelled for one in found)
    worst = comparing.furthest(*(one.worst for one in found))
    failed = next((one.failed for one in found if one.failed), None)
    reason = None
    if failed is not None:
        kept, worst, reason = 1.0, 0.0, failed
    elif not tested and labelled:
        reason = LABELLED
    elif not tested:
        reason = NO_PADDING if other.settings.length_buckets == 1 else ONE_LENGTH
    elif not worst <= tolerance:
        how, why = "without padding,", "the model or the loss looks at it"
        if other.settings.length_buckets > 1:
            how, why = "in passes by length", "what a row gives hangs on the others, or on its padding"
        reason = f"{how} loss or gradients differ by {worst:.1g}: {why}"
    return Trimmed(kept=kept, difference=worst, reason=reason)


@dataclass(slots=True)
class _Compared:
    """All numbers in the columns of all rows that were looked at, those left when trimmed, the windows that were
    computed both ways, the passes whose padding has labels, the largest difference, and why the model takes no trimmed
    batch."""

    whole: int = 0
    left: int = 0
    tested: int = 0
    labelled: int = 0
    worst: float = 0.0
    failed: str | None = None


def _compared(plain: Parts, other: Parts) -> _Compared:
    from hotlap.training.stepping import NotFinite

    found, began = _Compared(), time.monotonic()
    wanted = _WINDOWS if other.settings.length_buckets == 1 else _WINDOWS_BY_LENGTH
    for window in islice(plain.source.epoch(0, 0), _MOST_LOOKED_AT):
        found.whole += _area(window.micro_batches)
        found.left += _area(other.stepper.passes_of(window))
        few = few_of(window, _ROWS, plain.opened.workload)
        found.labelled += sum(map(_is_labelled, window.micro_batches))
        counts = any(one.weight for one in few.micro_batches)
        if counts and _area(other.stepper.passes_of(few)) < _area(few.micro_batches):
            try:
                found.worst = comparing.furthest(found.worst, _difference_of_few(plain, other, few, window))
                found.tested += 1
            except WorkloadError as error:
                found.failed = f"the model does not take shorter inputs: {error}"
            except NotFinite as error:
                found.failed = f"the {error.what} of a batch is not finite"
        enough = _ENOUGH_SECONDS if found.tested else 2 * _ENOUGH_SECONDS
        if found.failed or found.tested == wanted or time.monotonic() - began > enough:
            break
    return found


def _is_labelled(one: MicroBatch) -> bool:
    """Whether it can't be trimmed for what its targets hold beside padding."""
    width = _width(one.inputs)
    if width is None:
        return False
    used = _used(one.inputs, width)
    return used < width and _says_something(one, width, used)


def _area(micro_batches: Sequence[MicroBatch]) -> int:
    """The numbers in the columns of all rows."""
    return sum(one.rows * (_width(one.inputs) or 0) for one in micro_batches)


def few_of(window: Window, count: int, workload: Workload) -> Window:
    """A window of so many rows of this one's first pass, of all lengths; itself where they can't be had, or weigh
    nothing."""
    import torch

    one = window.micro_batches[0]
    if one.rows <= count or not of_tensors(one):
        return window
    found = lengths(one)
    order = torch.arange(one.rows) if found is None else found.argsort(stable=True)
    # In the order of the batch: what pairs neighbours is seen to be torn apart when they are put in passes.
    few = picked(one, order[torch.linspace(0, one.rows - 1, count).long()].sort().values, 0, workload)
    return replace(window, micro_batches=(few,)) if few.weight else window


def _difference_of_few(plain: Parts, other: Parts, few: Window, whole: Window) -> float:
    """Of the whole window where a few of its rows can't be computed: some models take batches of one size alone."""
    try:
        return _difference(plain, other, few)
    except WorkloadError:
        if few is whole:
            raise
        return _difference(plain, other, whole)


def _difference(plain: Parts, other: Parts, window: Window) -> float:
    """The largest relative difference, of the loss, of all gradients together, and of each buffer."""
    weight = sum(one.weight for one in window.micro_batches)
    if not weight:
        return 0.0
    before = plain.stepper.gradients(window, weight)
    if plain.stepper.draws and plain.model.training:
        for parts in (plain, other):
            _without_randomness(parts.model)
        for one, value in _of_one_shape(other.model, plain.model):
            one.data.copy_(value)
        before = plain.stepper.gradients(window, weight)
    after = other.stepper.gradients(window, weight)
    return comparing.furthest(
        comparing.of_losses(before, after),
        _gradients_difference(plain.model, other.model),
        *(comparing.of_tensors([one], [value]) for one, value in _of_one_shape(plain.model, other.model)),
    )


def _of_one_shape(one: torch.nn.Module, other: torch.nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The buffers that both have; a mask may be made as wide as a batch is."""
    found = dict(other.named_buffers())
    return [
        (value, found[name])
        for name, value in one.named_buffers()
        if name in found and found[name].shape == value.shape
    ]


def _gradients_difference(plain: torch.nn.Module, other: torch.nn.Module) -> float:
    return comparing.of_tensors(comparing.gradients_of(plain), comparing.gradients_of(other))


def _without_randomness(model: torch.nn.Module) -> None:
    model.eval()
    for name in preparing.not_exact(model).get("batch statistics", []):
        model.get_submodule(name).train()


def _masks(inputs: Any) -> list[torch.Tensor]:
    named = inputs.items() if isinstance(inputs, dict) else ()
    return [value for name, value in named if "mask" in name and _is_whole(value)]


def _is_whole(leaf: Any) -> bool:
    """A Tensor [rows, columns] of whole numbers or truths."""
    import torch

    return isinstance(leaf, torch.Tensor) and leaf.ndim == 2 and not leaf.is_floating_point()


def _whole(inputs: Any) -> list[torch.Tensor]:
    from torch.utils import _pytree as pytree

    return [leaf for leaf in pytree.tree_leaves(inputs) if _is_whole(leaf)]


def _width(inputs: Any) -> int | None:
    """The columns of the inputs; None where nothing tells which of them are padding."""
    leaves = _masks(inputs) or _whole(inputs)
    widths = {leaf.shape[1] for leaf in leaves}
    return int(widths.pop()) if len(widths) == 1 else None


def _used(inputs: Any, width: int) -> int:
    """How many columns are left when those at the end that are padding in every row are cut."""
    import torch

    masks = _masks(inputs)
    others = [leaf for leaf in _whole(inputs) if leaf.shape[1] == width]
    if any(bool((mask[:, 0] == 0).any()) for mask in masks):
        # Padded on the left, or a mask that marks padding with 1.
        return width
    filled = [(mask != 0).any(0) for mask in masks]
    # Beside a mask padding is any one number; numbers that differ are none, whatever a mask of that name means.
    filled += [(leaf != (leaf[0, -1] if masks else 0)).any(0) for leaf in others]
    places = torch.stack(filled).any(0).nonzero()
    return int(places[-1]) + 1 if len(places) else 0


def _is_as_wide(leaf: Any, rows: int, width: int) -> bool:
    import torch

    return isinstance(leaf, torch.Tensor) and leaf.ndim >= 2 and tuple(leaf.shape[:2]) == (rows, width)


def _is_of_tokens(leaf: Any, rows: int, width: int) -> bool:
    """Whether targets have a column for each of the inputs'. Floats [rows, columns] are classes that happen to be as
    many: shares of each, or one of them marked."""
    return _is_as_wide(leaf, rows, width) and not (leaf.ndim == 2 and leaf.is_floating_point())


def _is_padding(columns: Any) -> bool:
    """One number, and none that a label may well have: classes and tokens are counted from 0, what counts for nothing
    is -100 or 0."""
    return _is_constant(columns) and (columns.is_complex() or bool((columns.flatten()[:1] <= 0).all()))


def _is_constant(columns: Any) -> bool:
    return not columns.numel() or bool((columns == columns.flatten()[0]).all())
