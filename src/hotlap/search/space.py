"""Which candidates there are: chains of techniques, a runtime, its options. Pure: nothing is imported but tables.

The chains follow from what each technique and runtime says it takes and gives; there is no hand-kept matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hotlap import forms, runtimes, techniques
from hotlap.core import Candidate, Device, Form, Json, Step
from hotlap.techniques import ModelFacts
from hotlap.workload.examples import BATCH

_LONG_MS = 10.0
_NARROWNESS = ("fp32", "bf16", "fp16", "int8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """What is worth trying, the likeliest first in each family, and what is not, with the reason."""

    candidates: tuple[Candidate, ...]
    left_out: tuple[tuple[str, str], ...]


def build_space(
    facts: ModelFacts,
    *,
    threads: int,
    fixed_axes: Mapping[str, int],
    unavailable: Mapping[str, str | None],
    baseline_ms: float = 0.0,
    streams: bool = False,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
) -> Space:
    """Every chain that fits together.

    `baseline_ms`: the original's call, by which threads are chosen. `streams`: whether several calls may run at the
    same time. `fixed_axes`: sizes of the named axes in the
    measured call. `unavailable`: why each runtime can't run here, or None. `only`, `skip`: names of techniques,
    runtimes or precisions to keep or leave out.
    """
    found: dict[str, Candidate] = {}
    left_out: list[tuple[str, str]] = []
    counts = _thread_counts(threads, facts.device, baseline_ms)
    for runtime in runtimes.RUNTIMES:
        reason = unavailable.get(runtime)
        if reason:
            left_out.append((runtime, reason))
            continue
        for names in _chains(runtimes.get(runtime).TAKES, facts.device):
            reason = next(filter(None, (techniques.get(name).supports(facts) for name in names)), None)
            if reason:
                left_out.append((" ".join([runtime, *names]), reason))
                continue
            for candidate in _variants(runtime, names, facts, counts, fixed_axes, streams):
                if _wanted(candidate, only, skip):
                    found.setdefault(candidate.key, candidate)
    return Space(candidates=tuple(found.values()), left_out=tuple(left_out))


def _chains(takes: Form, device: Device) -> list[tuple[str, ...]]:
    """Chains of at most one layout and one number format that end in a form the runtime takes."""
    formats = [name for name in techniques.TECHNIQUES if techniques.get(name).PRECISION is not None]
    layouts = [name for name in techniques.TECHNIQUES if techniques.get(name).PRECISION is None]
    chains = [()] + [(name,) for name in formats + layouts] + [(a, b) for a in layouts for b in formats]
    return [chain for chain in chains if _fits(chain, takes)]


def _fits(chain: tuple[str, ...], takes: Form) -> bool:
    """Whether the model can pass through the chain and arrive in the form wanted.

    Module techniques go to torch's own runtimes alone: the others lay memory out and narrow numbers by themselves.
    """
    for name in chain:
        changes = techniques.get(name).CHANGES
        gives = {gives for start, gives in changes.items() if forms.route("module", start) is not None}
        if "module" in changes and takes != "exported":
            return False
        if takes not in gives and not ("module" in changes and takes == "exported"):
            return False
    return True


def _variants(
    runtime: str,
    names: tuple[str, ...],
    facts: ModelFacts,
    counts: Sequence[int],
    fixed_axes: Mapping[str, int],
    streams: bool,
) -> list[Candidate]:
    threads = counts[0]
    precision = _narrowest([techniques.get(name).PRECISION for name in names])
    chains: list[tuple[list[str], tuple[Step, ...]]] = [([], ())]
    for name in names:
        chains = [
            ([*labels, label], (*steps, Step(technique=name, options=_pairs(options))))
            for labels, steps in chains
            for label, options in techniques.get(name).variants(facts)
        ]
    found = []
    for label, given in runtimes.get(runtime).variants(facts.device, precision):
        for labels, steps in chains:
            options = {**given, "fixed_axes": dict(fixed_axes)} if given.get("static") else dict(given)
            narrowest = _narrowest([precision, options.pop("precision", None)])
            ways: list[tuple[int, str, dict[str, Json]]] = [(count, "", {}) for count in counts]
            if runtimes.get(runtime).MICRO_BATCHES:
                ways += _micro_batches(options, threads)
            if streams and runtimes.get(runtime).STREAMS and facts.device == "cpu":
                ways += _streams(threads)
            for count, way, more in ways:
                words = [runtime, narrowest if precision != narrowest or not names else ""]
                words += [f"{name} {text}".strip() for name, text in zip(names, labels, strict=True)]
                words += [
                    label if label != narrowest else "",
                    f"{count} thread{'s' if count > 1 else ''}" if count != threads else "",
                    way,
                ]
                found.append(
                    Candidate(
                        steps=steps,
                        runtime=runtime,
                        device=facts.device,
                        threads=count,
                        options=_pairs({**options, **more}),
                        precision=narrowest,
                        same_numbers=narrowest == "fp32",
                        name=", ".join(filter(None, words)).replace("_", " "),
                    )
                )
    return found


def _thread_counts(threads: int, device: Device, baseline_ms: float) -> list[int]:
    """All our cores first; half of them and one, where handing work around may cost more than it brings.

    That it does in calls of some milliseconds at most: longer ones get no fewer than half, nor one.
    """
    if device == "cuda":
        return [threads]
    least = 1 if baseline_ms < _LONG_MS else 2
    return [threads, *sorted({count for count in (threads // 2, 1) if least <= count < threads}, reverse=True)]


def _micro_batches(options: Mapping[str, Json], threads: int) -> list[tuple[int, str, dict[str, Json]]]:
    """All our threads, each with rows of its own: one at a time, or its whole share. Each (threads, label, option)."""
    batch = options.get("fixed_axes", {}).get(BATCH, 1)
    shares = dict.fromkeys([1, batch // threads])
    return [
        (threads, f"micro-batches of {rows}", {"micro_batch": rows})
        for rows in shares
        if 1 <= rows < batch and batch % rows == 0
    ]


def _streams(threads: int) -> list[tuple[int, str, dict[str, Json]]]:
    """A thread each, and two each where there are four and more. Each (threads, label, option)."""
    counts = [count for count in (threads, threads // 2) if count > 1]
    return [(threads, f"{count} streams", {"streams": count}) for count in counts]


def _narrowest(precisions: Sequence[str | None]) -> str:
    return max((p for p in precisions if p is not None), key=_NARROWNESS.index, default="fp32")


def _pairs(options: Mapping[str, Json]) -> tuple[tuple[str, Json], ...]:
    return tuple(sorted(options.items()))


def _wanted(candidate: Candidate, only: Sequence[str], skip: Sequence[str]) -> bool:
    traits = {candidate.runtime, candidate.precision, *(step.technique for step in candidate.steps)}
    return (not only or bool(traits & set(only))) and not traits & set(skip)


def names() -> tuple[str, ...]:
    """What `--only` and `--skip` understand."""
    return (*runtimes.RUNTIMES, *techniques.TECHNIQUES, *_NARROWNESS)
