"""Opening the workload, once a process; what a search has to know of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hotlap.core import Array, Device, Json, to_json

_OTHER_FORMAT = "most of the model's weights are {}; in the names of candidates fp32 stands for the model's own format"


def opened_workload(state: dict[str, Any], target: str, threads: int) -> Any:
    """The workload, opened once a process."""
    if "opened" not in state:
        import torch

        from hotlap.workload.opened import open_workload
        from hotlap.workload.target import load_target

        torch.set_num_threads(threads)
        state["opened"] = open_workload(load_target(target))
    return state["opened"]


def original_outputs(opened: Any, arrays: list[Array]) -> list[Array]:
    """The original's outputs for flat inputs, as arrays."""
    import torch

    from hotlap.workload.inputs import call, flatten_outputs, restore_inputs, to_arrays

    with torch.inference_mode():
        tensors = [torch.from_numpy(array.copy()) for array in arrays]
        return to_arrays(flatten_outputs(call(opened.model, restore_inputs(tensors, opened.signature))))


def study(
    state: dict[str, Any],
    *,
    target: str,
    work: str,
    seed: int,
    threads: int,
    batch: int,
    most_examples: int,
    seconds: float,
) -> Json:
    """Open the workload, check what it gives, and say what the search has to know about it."""
    from hotlap.search.work import calibration
    from hotlap.workload import roles
    from hotlap.workload.features import to_ask

    opened = opened_workload(state, target, threads)
    workload = opened.workload
    features = to_ask(workload, opened.loaded.file)
    has_evaluation = workload.evaluation is not None and workload.score is not None
    facts = None
    if has_evaluation:
        facts = roles.check_evaluation(opened, seed=seed, max_examples=most_examples, seconds=seconds)
    count, missing = calibration.keep(opened, Path(work), seed=seed, facts=facts)
    ranks = tuple(len(spec.shape) for spec in opened.signature.inputs)
    leaves = [type(leaf).__name__ for leaf in opened.model.modules() if not any(True for _ in leaf.children())]
    arrays = opened.example_arrays(batch)
    sizes = {
        name: array.shape[axis]
        for spec, array in zip(opened.signature.inputs, arrays, strict=True)
        for axis, name in enumerate(spec.shape)
        if isinstance(name, str)
    }
    parameters = list(opened.model.parameters())
    own = number_format(parameters)
    return {
        "name": opened.loaded.name,
        "digest": opened.loaded.digest,
        "signature": to_json(opened.signature),
        "arrays": arrays,
        "sizes": sizes,
        "layers": {name: leaves.count(name) for name in sorted(set(leaves))},
        "ranks": list(ranks),
        "calibration": count,
        "calibration_missing": None if count else missing,
        "evaluation": has_evaluation,
        "selection": facts.selection if facts else 0,
        "confirmation": facts.confirmation if facts else 0,
        "metric": workload.metric is not None,
        "sliced": workload.slices is not None,
        "parameters": sum(parameter.numel() for parameter in parameters),
        "bytes": sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        "precision": own,
        "warnings": [*opened.warnings, *([] if own == "fp32" else [_OTHER_FORMAT.format(own)])],
        "features": features,
    }


def number_format(parameters: Sequence[Any]) -> str:
    """The number format of most of a model's weights; fp32 where it has none."""
    numbers: Counter[str] = Counter()
    for one in parameters:
        numbers[str(one.dtype).removeprefix("torch.")] += one.numel()
    most = max(numbers, key=lambda name: numbers[name], default="float32")
    return {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float64": "fp64"}.get(most, most)


def profile(state: dict[str, Any], *, target: str, batch: int, threads: int, limits: Json, device: Device) -> Json:
    """Where the original's time goes, against the machine's limits."""
    from hotlap.machine.limits import Limits
    from hotlap.profiling.profile import profile_workload

    opened = opened_workload(state, target, threads)
    return profile_workload(opened, batch=batch, threads=threads, limits=Limits.from_json(limits), device=device)
