"""Checks of single fields of a manifest. Each gives the value, or raises ArtifactRefused with the field's name.

An artifact never causes an import by name: runtimes are looked up in hotlap's own table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hotlap.core import TOLERANCE, Candidate, Json, Signature
from hotlap.errors import ArtifactRefused
from hotlap.runtimes import RUNTIMES

MOST_NAME = 128
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_WHOLE = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_DTYPES = frozenset((*_WHOLE, "bool", "float16", "float32", "float64", "complex64", "complex128"))
_MOST_TENSORS, _MOST_RANK, _MOST_SIZE, _MOST_THREADS = 10_000, 32, 2**48, 4096


def record(value: Json, where: str, *names: str) -> dict[str, Any]:
    """An object with exactly these fields."""
    found = mapping(value, where)
    missing = [name for name in names if name not in found]
    unknown = [name for name in found if name not in names]
    if missing:
        raise ArtifactRefused(f"{where} has no {missing[0]!r}")
    if unknown:
        raise ArtifactRefused(f"{where} has {unknown[0][:80]!r}, which this format does not know")
    return found


def mapping(value: Json, where: str) -> dict[str, Any]:
    """An object with any fields."""
    if not isinstance(value, dict):
        raise ArtifactRefused(f"{where} is {_shown(value)}, not an object")
    return value


def items(value: Json, where: str) -> list[Any]:
    """A list."""
    if not isinstance(value, list):
        raise ArtifactRefused(f"{where} is {_shown(value)}, not a list")
    return value


def text(value: Json, where: str, *, most: int = 200) -> str:
    """A string of printable characters, so that it may be shown on a terminal."""
    if not isinstance(value, str) or len(value) > most or not value.isprintable():
        raise ArtifactRefused(f"{where} is {_shown(value)}, not at most {most} printable characters")
    return value


def hexadecimal(value: Json, where: str, digits: int) -> str:
    """A string of that many lower-case hexadecimal digits."""
    if not isinstance(value, str) or not re.fullmatch(f"[0-9a-f]{{{digits}}}", value):
        raise ArtifactRefused(f"{where} is {_shown(value)}, not {digits} hexadecimal digits")
    return value


def whole(value: Json, where: str, low: int, high: int) -> int:
    """A whole number from `low` to `high`."""
    if type(value) is not int or not low <= value <= high:
        raise ArtifactRefused(f"{where} is {_shown(value)}, not a whole number from {low} to {high}")
    return value


def number(value: Json, where: str, low: float, high: float) -> float:
    """A number from `low` to `high`."""
    if type(value) not in (int, float) or not low <= value <= high:
        raise ArtifactRefused(f"{where} is {_shown(value)}, not a number from {low:g} to {high:g}")
    return float(value)


def flag(value: Json, where: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ArtifactRefused(f"{where} is {_shown(value)}, not true or false")
    return value


def file_name(name: str) -> str:
    """The name of a file right in the artifact's folder; each way of leaving it has its own message."""
    shown = f"files lists {name[:80]!r}, which"
    if len(name) > MOST_NAME:
        raise ArtifactRefused(f"{shown} is longer than {MOST_NAME} characters")
    if not name.isprintable():
        raise ArtifactRefused(f"{shown} holds control characters")
    if "\\" in name:
        raise ArtifactRefused(f"{shown} holds a backslash")
    if name.startswith("/"):
        raise ArtifactRefused(f"{shown} is an absolute path")
    if ".." in name.split("/"):
        raise ArtifactRefused(f"{shown} leads out of the folder with '..'")
    if "/" in name:
        raise ArtifactRefused(f"{shown} lies in a folder; an artifact's files lie beside its manifest")
    if not _NAME.fullmatch(name):
        raise ArtifactRefused(f"{shown} is no plain file name of letters, digits, '.', '_' and '-'")
    return name


def candidate(value: Json) -> Candidate:
    """A core.Candidate whose runtime is one of hotlap's."""
    found = record(
        value, "candidate", "steps", "runtime", "device", "threads", "options", "precision", "same_numbers", "name"
    )
    for index, step in enumerate(items(found["steps"], "candidate.steps")):
        where = f"candidate.steps[{index}]"
        text(record(step, where, "technique", "options")["technique"], f"{where}.technique")
        _options(step["options"], f"{where}.options")
    _options(found["options"], "candidate.options")
    one_of(found["runtime"], "candidate.runtime", RUNTIMES)
    one_of(found["device"], "candidate.device", ("cpu", "cuda"))
    one_of(found["precision"], "candidate.precision", TOLERANCE)
    whole(found["threads"], "candidate.threads", 1, _MOST_THREADS)
    flag(found["same_numbers"], "candidate.same_numbers")
    text(found["name"], "candidate.name", most=1000)
    return Candidate.from_json(found)


def _options(value: Json, where: str) -> None:
    """Pairs of a name and a number, word, flag, null, or flat list or object of them."""
    for index, pair in enumerate(items(value, where)):
        place = f"{where}[{index}]"
        if not isinstance(pair, list) or len(pair) != 2:
            raise ArtifactRefused(f"{place} is {_shown(pair)}, not a name and its value")
        name, given = text(pair[0], place), pair[1]
        inner = given if isinstance(given, list) else list(given.values()) if isinstance(given, dict) else [given]
        for item in inner:
            if isinstance(item, str):
                text(item, f"{where}.{name}")
            elif item is not None and not isinstance(item, (bool, int, float)):
                raise ArtifactRefused(f"{where}.{name} is {_shown(given)}, not a plain value")


def signature(value: Json) -> Signature:
    """A core.Signature whose names differ, whose axes are sizes or names, and whose tree holds each output once."""
    found = record(value, "signature", "inputs", "outputs", "input_kind", "output_tree", "ranges")
    for side in ("inputs", "outputs"):
        _specs(found[side], f"signature.{side}")
    one_of(found["input_kind"], "signature.input_kind", ("tensor", "tuple", "dict"))
    if found["input_kind"] == "tensor" and len(found["inputs"]) != 1:
        raise ArtifactRefused(f"signature.input_kind is 'tensor', but there are {len(found['inputs'])} inputs")
    leaves: list[int] = []
    _tree(found["output_tree"], leaves)
    if sorted(leaves) != list(range(len(found["outputs"]))):
        raise ArtifactRefused("signature.output_tree does not hold each output once")
    for axis, ends in mapping(found["ranges"], "signature.ranges").items():
        where = f"signature.ranges[{text(axis, 'signature.ranges')!r}]"
        if not isinstance(ends, list) or len(ends) != 2:
            raise ArtifactRefused(f"{where} is {_shown(ends)}, not a smallest and a largest size")
        low = whole(ends[0], where, 0, _MOST_SIZE)
        if ends[1] is not None:
            whole(ends[1], where, low, _MOST_SIZE)
    return Signature.from_json(found)


def _specs(value: Json, where: str) -> None:
    specs = items(value, where)
    if not 1 <= len(specs) <= _MOST_TENSORS:
        raise ArtifactRefused(f"{where} has {len(specs):,} tensors, not 1 to {_MOST_TENSORS:,}")
    for index, item in enumerate(specs):
        spec = record(item, f"{where}[{index}]", "name", "dtype", "shape")
        text(spec["name"], f"{where}[{index}].name")
        one_of(spec["dtype"], f"{where}[{index}].dtype", _DTYPES)
        shape = items(spec["shape"], f"{where}[{index}].shape")
        if len(shape) > _MOST_RANK:
            raise ArtifactRefused(f"{where}[{index}].shape has {len(shape)} axes; at most {_MOST_RANK} are allowed")
        for size in shape:
            if isinstance(size, str):
                text(size, f"{where}[{index}].shape")
            else:
                whole(size, f"{where}[{index}].shape", 0, _MOST_SIZE)
    if len({spec["name"] for spec in specs}) != len(specs):
        raise ArtifactRefused(f"{where} has two tensors of one name")


def _tree(tree: Json, leaves: list[int]) -> None:
    """Walk the tree, whose depth the manifest's own limit bounds."""
    if tree is None:
        return
    if type(tree) is int:
        leaves.append(tree)
        return
    kind, inner = next(iter(tree.items())) if isinstance(tree, dict) and len(tree) == 1 else (None, None)
    if kind in ("tuple", "list") and isinstance(inner, list):
        children = inner
    elif kind in ("dict", "dataclass") and isinstance(inner, dict):
        children = list(inner.values())
    else:
        raise ArtifactRefused(f"signature.output_tree holds {_shown(tree)}, which nests nothing")
    for child in children:
        _tree(child, leaves)


def one_of(value: Json, where: str, allowed: Mapping[str, Any] | tuple[str, ...] | frozenset[str]) -> None:
    """One of these words."""
    if not isinstance(value, str) or value not in allowed:
        raise ArtifactRefused(f"{where} is {_shown(value)}; it may be {', '.join(sorted(allowed))}")


def _shown(value: Json) -> str:
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    return f"{value!r:.80}"
