"""What a .onnx file refers to outside itself, read from its protobuf without the onnx package.

ONNX lets a tensor name a file, an offset and a length; a dozen advisories come from following such names (CVE-2022-
25882, CVE-2024-27318, CVE-2026-27489, GHSA-538c-55jv-c5g9). Allowed is what hotlap itself writes: tensors of the
main graph's initializers whose bytes lie within `<file>.data`. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from hotlap.errors import ArtifactRefused

_CHILDREN: Mapping[str, Mapping[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
}
"""Every way from a model to a tensor: for each message, the fields that lead on."""

_ONCE = {
    "ModelProto": {7},
    "TrainingInfoProto": {1, 2},
    "AttributeProto": {5, 6, 22},
    "SparseTensorProto": {1, 2},
}
"""Fields that are not repeated: given twice, protobuf would merge what was checked apart."""

_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_KEY, _VALUE = 1, 2
_MAIN_INITIALIZER = ("ModelProto", "GraphProto")
_MOST_DEPTH = 64
_MOST_FIELDS = 10_000_000
_MOST_TAG = 2**32 - 1
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_NUMBER = re.compile(rb"[0-9]{1,18}")

Field = tuple[int, int, int, int]
"""Number, wire type, and where its value begins and ends; for a varint the value stands in place of the end."""


def check(data: bytes, name: str, sizes: Mapping[str, int]) -> None:
    """Raise ArtifactRefused unless all external data lies within `<name>.data`, of the size in `sizes`.

    data: the bytes of the .onnx file. name: the file's name.
    """
    if data[4:8] == b"ORTM":
        # ONNX Runtime would read it as its own format, where the walk below sees nothing.
        raise ArtifactRefused(f"{name} is in ONNX Runtime's own format, not an ONNX model")
    walk = _Walk(data, f"{name}.data", sizes)
    try:
        walk.message("ModelProto", 0, len(data), ())
    except ArtifactRefused as error:
        raise ArtifactRefused(f"{name} {error}") from None


class _Walk:
    def __init__(self, data: bytes, allowed: str, sizes: Mapping[str, int]) -> None:
        self.data, self.allowed, self.sizes = data, allowed, sizes
        self.fields_left = _MOST_FIELDS

    def message(self, kind: str, start: int, end: int, above: tuple[str, ...]) -> None:
        if len(above) > _MOST_DEPTH:
            raise ArtifactRefused(f"is nested more than {_MOST_DEPTH} deep")
        if kind == "TensorProto":
            self.tensor(start, end, above)
            return
        children = _CHILDREN[kind]
        seen = set()
        for number, wire, first, last in self.fields(start, end):
            if number not in children:
                continue
            if wire != _BYTES:
                raise ArtifactRefused(f"is no ONNX model: field {number} of a {kind} is no message")
            if number in seen and number in _ONCE.get(kind, ()):
                raise ArtifactRefused(f"has field {number} of a {kind} twice")
            seen.add(number)
            self.message(children[number], first, last, (*above, kind))

    def tensor(self, start: int, end: int, above: tuple[str, ...]) -> None:
        entries: dict[bytes, bytes] = {}
        external = False
        for number, wire, first, last in self.fields(start, end):
            if number == _DATA_LOCATION:
                external = external or wire != _VARINT or last != 0
            elif number == _EXTERNAL_DATA:
                if wire != _BYTES:
                    raise ArtifactRefused("has external data that is no message")
                key, value = self.entry(first, last)
                if key in entries:
                    raise ArtifactRefused(f"has external data with {_shown(key)} twice")
                entries[key] = value
        if external or entries:
            self.external(entries, above)

    def entry(self, start: int, end: int) -> tuple[bytes, bytes]:
        found: dict[int, bytes] = {}
        for number, wire, first, last in self.fields(start, end):
            if number not in (_KEY, _VALUE) or wire != _BYTES or number in found:
                raise ArtifactRefused("has external data that is not a key and its value")
            found[number] = self.data[first:last]
        return found.get(_KEY, b""), found.get(_VALUE, b"")

    def external(self, entries: Mapping[bytes, bytes], above: tuple[str, ...]) -> None:
        unknown = [key for key in entries if key not in (b"location", b"offset", b"length")]
        if unknown:
            raise ArtifactRefused(f"has external data with the unknown key {_shown(unknown[0])}")
        location = entries.get(b"location", b"")
        if location != self.allowed.encode():
            raise ArtifactRefused(
                f"has external data at {_shown(location)}; only {self.allowed!r}, beside it, is allowed"
            )
        if self.allowed not in self.sizes:
            raise ArtifactRefused(f"has external data in {self.allowed!r}, which the manifest does not list")
        if above != _MAIN_INITIALIZER:
            raise ArtifactRefused("has external data in a tensor that is no initializer of the main graph")
        if b"length" not in entries:
            raise ArtifactRefused("has external data without a length")
        offset, length = (_size(entries.get(key, b"0"), key) for key in (b"offset", b"length"))
        if offset + length > self.sizes[self.allowed]:
            raise ArtifactRefused(
                f"has external data past the end of {self.allowed!r}: bytes {offset:,} to {offset + length:,} of "
                f"{self.sizes[self.allowed]:,}"
            )

    def fields(self, start: int, end: int) -> Iterator[Field]:
        """The fields of the message in data[start:end]."""
        position = start
        while position < end:
            self.fields_left -= 1
            if self.fields_left < 0:
                raise ArtifactRefused(f"has more than {_MOST_FIELDS:,} fields")
            tag, position = self.varint(position, end)
            if tag > _MOST_TAG:
                # protobuf drops the higher bits, and so would see another field than this walk.
                raise ArtifactRefused("is no ONNX model: a field's number is too large")
            number, wire = tag >> 3, tag & 7
            if wire == _VARINT:
                value, position = self.varint(position, end)
                yield number, wire, position, value
                continue
            if wire == _BYTES:
                length, position = self.varint(position, end)
            elif wire in (_FIXED64, _FIXED32):
                length = 8 if wire == _FIXED64 else 4
            else:
                raise ArtifactRefused(f"is no ONNX model: wire type {wire}")
            if number == 0 or length > end - position:
                raise ArtifactRefused("is no ONNX model: a field is longer than what holds it")
            yield number, wire, position, position + length
            position += length

    def varint(self, position: int, end: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if position >= end:
                raise ArtifactRefused("is no ONNX model: it ends within a number")
            byte = self.data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFFFFFFFFFFFFFF, position
        raise ArtifactRefused("is no ONNX model: a number has more than ten bytes")


def _size(value: bytes, key: bytes) -> int:
    if not _NUMBER.fullmatch(value):
        raise ArtifactRefused(f"has external data whose {key.decode()} is {_shown(value)}, not a whole number")
    return int(value)


def _shown(value: bytes) -> str:
    return repr(value[:80].decode("utf-8", "backslashreplace"))
