"""Golden inputs and outputs: a few calls whose answers are known, kept as safetensors.

A header is checked here in full before the safetensors package sees it: its length, its JSON, and that its tensors
fill the rest of the file without gap or overlap (the format's own rules, github.com/huggingface/safetensors).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hotlap.artifact import fields, strict_json
from hotlap.core import Array, Json, Signature
from hotlap.errors import ArtifactRefused

MOST_HEADER_BYTES = 100_000_000
"""The format's own limit."""
_HEADER_DEPTH = 3
_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "F16": 2, "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip


class Case(NamedTuple):
    """One call: flat inputs and the outputs they gave, both in signature order."""

    inputs: Sequence[Array]
    outputs: Sequence[Array]


def encode(cases: Sequence[tuple[Sequence[Array], Sequence[Array]]]) -> bytes:
    """The bytes of golden.safetensors: tensors called `<case>/input/<index>` and `<case>/output/<index>`."""
    from safetensors.numpy import save

    tensors = {}
    for number, (inputs, outputs) in enumerate(cases):
        for side, arrays in (("input", inputs), ("output", outputs)):
            for index, array in enumerate(arrays):
                tensors[f"{number}/{side}/{index}"] = np.asarray(array, order="C")
    data: bytes = save(tensors)
    return data


def decode(data: bytes, signature: Signature, what: str) -> list[Case]:
    """The cases in the bytes of golden.safetensors. Raises ArtifactRefused where they are anything else."""
    check_header(data, what)
    from safetensors.numpy import load

    tensors = load(data)
    sides = (("input", signature.inputs), ("output", signature.outputs))
    count = len(tensors) // sum(len(specs) for _, specs in sides)
    wanted = {f"{case}/{side}/{i}" for case in range(count) for side, specs in sides for i in range(len(specs))}
    if not count or wanted != set(tensors):
        raise ArtifactRefused(f"{what} does not hold the inputs and outputs of the signature")

    def arrays(case: int, side: str, amount: int) -> list[Array]:
        return [tensors[f"{case}/{side}/{index}"].copy() for index in range(amount)]

    return [
        Case(
            inputs=arrays(case, "input", len(signature.inputs)),
            outputs=arrays(case, "output", len(signature.outputs)),
        )
        for case in range(count)
    ]


def check_header(data: bytes, what: str) -> None:
    """Raise ArtifactRefused unless `data` is a well-formed safetensors file of dense tensors."""
    if len(data) < 8:
        raise ArtifactRefused(f"{what} is {len(data)} bytes long, too short for a safetensors header")
    length = int.from_bytes(data[:8], "little")
    if length > MOST_HEADER_BYTES:
        raise ArtifactRefused(f"{what} says its header has {length:,} bytes; {MOST_HEADER_BYTES:,} are allowed")
    if length > len(data) - 8:
        raise ArtifactRefused(f"{what} says its header has {length:,} bytes, but {len(data) - 8:,} follow")
    header = strict_json.parse(
        data[8 : 8 + length], f"{what}'s header", most_bytes=MOST_HEADER_BYTES, most_depth=_HEADER_DEPTH
    )
    spans = []
    for name, item in fields.mapping(header, f"{what}'s header").items():
        where = f"{what}: {name!r:.80}"
        if name == "__metadata__":
            fields.mapping(item, where)
        else:
            spans.append((_span(item, where), where))
    _check_spans([(*span, where) for span, where in sorted(spans)], len(data) - 8 - length, what)


def _span(item: Json, where: str) -> tuple[int, int]:
    """Where the tensor's bytes begin and end, after its type and shape have been found to need just as many."""
    tensor = fields.record(item, where, "dtype", "shape", "data_offsets")
    if not isinstance(tensor["dtype"], str) or tensor["dtype"] not in _BYTES:
        raise ArtifactRefused(f"{where} has the type {tensor['dtype']!r:.40}, which is not one of NumPy's")
    shape = [fields.whole(size, f"{where}.shape", 0, 2**62) for size in fields.items(tensor["shape"], where)]
    if len(shape) > 32:
        raise ArtifactRefused(f"{where} has {len(shape)} axes; at most 32 are allowed")
    offsets = fields.items(tensor["data_offsets"], where)
    if len(offsets) != 2:
        raise ArtifactRefused(f"{where} has {len(offsets)} data_offsets, not 2")
    begin, end = (fields.whole(offset, f"{where}.data_offsets", 0, 2**62) for offset in offsets)
    needed = math.prod(shape) * _BYTES[tensor["dtype"]]
    if end - begin != needed:
        raise ArtifactRefused(f"{where} has {end - begin:,} bytes where its shape needs {needed:,}")
    return begin, end


def _check_spans(spans: Sequence[tuple[int, int, str]], size: int, what: str) -> None:
    position = 0
    for begin, end, where in spans:
        if begin != position:
            problem = "overlaps the tensor before it" if begin < position else "leaves a gap before it"
            raise ArtifactRefused(f"{where} {problem}")
        position = end
    if position != size:
        raise ArtifactRefused(f"{what} has {size:,} bytes of tensors where its header speaks of {position:,}")


def difference(cases: Sequence[Case], answers: Sequence[Sequence[Array]]) -> float:
    """How far the answers are from the cases' outputs, at most, as a share of each output's largest magnitude.

    1.0 where a whole number or truth value differs, infinity where one side is NaN or the shapes differ.
    """
    worst = 0.0
    for index in range(len(cases[0].outputs)):
        known = [np.asarray(case.outputs[index]) for case in cases]
        scale = max((_magnitude(array) for array in known), default=0.0) or 1.0
        for array, answer in zip(known, (np.asarray(given[index]) for given in answers), strict=True):
            worst = max(worst, _gap(array, answer, scale))
    return worst


def _magnitude(array: Array) -> float:
    if array.dtype.kind not in "fc":
        return 0.0
    return float(np.abs(array[np.isfinite(array)]).max(initial=0.0))


def _gap(known: Array, answer: Array, scale: float) -> float:
    if known.shape != answer.shape or known.dtype != answer.dtype:
        return math.inf
    if known.size == 0:
        return 0.0
    if known.dtype.kind not in "fc":
        return float((known != answer).any())
    wide = np.complex128 if known.dtype.kind == "c" else np.float64
    same = (known == answer) | (np.isnan(known) & np.isnan(answer))
    with np.errstate(invalid="ignore"):
        gaps = np.where(same, 0.0, np.abs(known.astype(wide) - answer.astype(wide)) / scale)
    return math.inf if np.isnan(gaps).any() else float(gaps.max())
