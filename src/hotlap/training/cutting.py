"""The check that a batch may be computed in passes: that loss, gradients and buffers are then the same.

Layers with batch statistics or randomness are known by their kind. What else ties the rows of a batch together is not
assumed but tried, on a few real rows, in one pass and in two: a loss that sets rows against each other, one that adds
up and takes no mean, functions that draw or take batch statistics, buffers that forward writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from hotlap.core import Json
from hotlap.errors import WorkloadError
from hotlap.training import comparing, kernels, preparing
from hotlap.training.loading import Source
from hotlap.training.reading import MicroBatch, Window, of_tensors, picked
from hotlap.training.settings import Settings
from hotlap.training.stepping import NotFinite
from hotlap.workload.workload import Workload

if TYPE_CHECKING:
    import torch

    from hotlap.training.loop import Parts

    _Step = tuple[float, list[torch.Tensor], list[torch.Tensor]]
    _Kept = tuple[Json, list[torch.Tensor]]

FEW = 8
"""Rows: what ties those of a batch together shows in a few."""
TOLERANCE = 3e-5
"""Relative. In fp32 sums in another order differ by 1e-6, by 1e-5 in 20 layers without normalization; a term of the
loss that balances classes over the batch, with a weight of 0.01, makes a difference of 7e-5."""


def in_two(settings: Settings, examples: int | None) -> Settings | None:
    """Settings that compute a step of a few rows in two passes, in fp32; None where there are not two rows."""
    rows = min(FEW, settings.batch_size, examples or FEW)
    return replace(settings.for_comparing(), batch_size=rows, micro_batch=(rows + 1) // 2) if rows > 1 else None


def why_not(parts: Parts, whole: Source, cut: Source) -> str | None:
    """Why passes give another result: three windows of `whole` against those of `cut`, which has them in passes: what a
    loss is averaged over may be the same in all rows of one of them by chance.

    None where they give the same. Only the parts' model changes: what its forward writes into buffers, and gradients.
    """
    kinds = preparing.not_exact(parts.model)
    if kinds:
        return f"layers with {' and '.join(kinds)} would give another result"
    last = max(0, (whole.windows or 1) - 2)  # The very last may be short.
    places = sorted({0, last // 2, last})
    pairs = ((_window(whole, place), _window(cut, place)) for place in places)
    return _why_not(parts, pairs, may_draw=True)


def why_not_by_length(parts: Parts, windows: Sequence[Window]) -> str | None:
    """Why passes of other rows than a batch has them in order give another result: as `why_not`, by windows of a few
    rows, but dropout's masks may be others. Not for what draws anything else (kernels.seen_in)."""
    if "batch statistics" in preparing.not_exact(parts.model):
        return "layers with batch statistics would give another result"
    with kernels.even_masks():
        return _why_not(parts, ((one, halved(one, parts.opened.workload)) for one in windows))


def casts_alike(parts: Parts, window: Window) -> bool:
    """Whether gradients of a window in passes are the same to the last bit where autocast casts weights once for all of
    them: not where forward writes weights, or casts them within a checkpoint of its own. Weights and buffers stay."""
    import torch

    written = [*parts.model.parameters(), *parts.model.buffers()]
    stood = list(zip(written, _copies(written), strict=True))
    found: list[list[torch.Tensor]] = []
    try:
        for once in (False, True):
            parts.stepper.casts_once = once
            _put_back(stood)
            parts.stepper.gradients(window, sum(one.weight for one in window.micro_batches) or 1.0)
            # The gradients themselves: those of the next run are others, as these go out of the parameters.
            found.append(comparing.gradients_of(parts.model))
            parts.model.zero_grad(set_to_none=True)
    except (WorkloadError, NotFinite):
        return False
    finally:
        parts.stepper.casts_once = False
        parts.model.zero_grad(set_to_none=True)
        _put_back(stood)
    return len(window.micro_batches) > 1 and all(torch.equal(*pair) for pair in zip(*found, strict=True))


def halved(window: Window, workload: Workload) -> Window:
    """The window with each of its passes in two, where its rows can be picked; neighbours and halves are torn apart."""
    import torch

    def halves(one: MicroBatch) -> list[MicroBatch]:
        if one.rows < 2 or not of_tensors(one):
            return [one]
        first, second = torch.randperm(one.rows, generator=torch.Generator().manual_seed(0)).tensor_split(2)
        return [picked(one, first, 0, workload), picked(one, second, len(first), workload)]

    return replace(window, micro_batches=tuple(half for one in window.micro_batches for half in halves(one)))


def _why_not(parts: Parts, windows: Iterable[tuple[Window, Window]], *, may_draw: bool = False) -> str | None:
    """Of pairs of a window and the same in passes. `may_draw`: what the model draws may be other numbers then."""
    before, frozen = _copies(parts.model.buffers()), _frozen(parts)
    worst = 0.0
    try:
        pairs = list(windows)
        for whole, cut in pairs:
            worst = comparing.furthest(worst, _apart(*(_computed(parts, one, before) for one in (whole, cut))))
        accumulates = _accumulates(parts, *pairs[0], before)
    except (WorkloadError, NotFinite) as error:
        return f"a few rows of a batch could not be computed alone: {error}"
    finally:
        parts.model.zero_grad(set_to_none=True)
    if worst > TOLERANCE:
        drew = may_draw and parts.stepper.draws
        why = "the model draws random numbers" if drew else "what a row gives hangs on the others"
        return f"in two passes loss, gradients or buffers differ by {worst:.1g}: {why}"
    if accumulates or _frozen(parts) != frozen:
        return "forward or the loss changes what it keeps in each pass (a counter, weights that follow others)"
    return None


def _window(source: Source, place: int) -> Window:
    window: Window = next(iter(source.epoch(0, place)))
    source.close()
    return window


def _apart(one: _Step, other: _Step) -> float:
    return comparing.furthest(
        comparing.of_losses(one[0], other[0]),
        comparing.of_tensors(one[1], other[1]),
        comparing.of_each(one[2], other[2]),
    )


def _computed(parts: Parts, window: Window, buffers: list[torch.Tensor]) -> _Step:
    """A window's loss and gradients, and the buffers afterwards, from `buffers` on."""
    _put_back(zip(parts.model.buffers(), buffers, strict=True))
    loss = parts.stepper.gradients(window, sum(one.weight for one in window.micro_batches) or 1.0)
    return loss, comparing.gradients_of(parts.model), _copies(parts.model.buffers())


def _accumulates(parts: Parts, whole: Window, cut: Window, buffers: list[torch.Tensor]) -> bool:
    """Whether forward or the loss keeps something elsewhere that a window in passes leaves other than one in one pass;
    what one more of these leaves as it is, was only written over, such as the last loss."""
    once, twice, in_passes = (_kept_after(parts, windows, buffers) for windows in ([whole], [whole, whole], [cut]))
    grown = [place for place in {*once, *twice} if not _alike(once.get(place), twice.get(place))]
    return any(not _alike(once.get(place), in_passes.get(place)) for place in grown)


def _kept_after(parts: Parts, windows: Sequence[Window], buffers: list[torch.Tensor]) -> dict[str, _Kept]:
    """What forward and the loss have changed elsewhere after these windows, by place, begun where training begins."""
    parts.attributes.put_back()
    for window in windows:
        _computed(parts, window, buffers)
    values, tensors = parts.attributes.capture()
    found = {
        place: (_rounded(value), [tensors[name].clone() for name in sorted(tensors) if f".{place}." in name])
        for place, value in values.items()
    }
    parts.attributes.put_back()
    return found


def _alike(one: _Kept | None, other: _Kept | None) -> bool:
    if one is None or other is None:
        return one is other
    return one[0] == other[0] and comparing.of_each(one[1], other[1]) <= TOLERANCE


def _rounded(value: Json) -> Json:
    """Sums in another order differ in their last digits."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return f"{value:.4g}" if isinstance(value, float) else value


def _frozen(parts: Parts) -> list[tuple[int, int, str]]:
    """What tells of each parameter that is not trained, the loss's own too, whether something wrote it."""
    import torch

    modules = [one for one in parts.attributes.owners if isinstance(one, torch.nn.Module)]
    every = {id(one): one for module in modules for one in module.parameters(recurse=False)}
    found = (one.detach() for one in [*parts.model.parameters(), *every.values()] if not one.requires_grad)
    return [(one.data_ptr(), one._version, str(float(one.double().sum()))) for one in found]


def _put_back(stood: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
    for one, value in stood:
        one.data.copy_(value)


def _copies(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    return [one.detach().clone() for one in tensors]
