"""The manifest: what an artifact holds, what made it, and what it claims. Every field is checked when read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from hotlap.artifact import fields, stored, strict_json
from hotlap.artifact.stored import StoredFeatures
from hotlap.core import Candidate, Json, Signature, to_json
from hotlap.errors import ArtifactRefused

FORMAT = 1
MANIFEST = "manifest.json"
DIGEST = "manifest.sha256"
SIGNATURE = "signature.json"
MADE_HERE = "made_here.json"
GOLDEN = "golden.safetensors"
EVIDENCE = "evidence.json"
REPORT = "report.html"

SEALS = (MADE_HERE, SIGNATURE)
"""Files that vouch for the manifest's bytes, which therefore can't list their digests."""
_BESIDE = (MANIFEST, DIGEST, *SEALS)

MOST_MANIFEST_BYTES = 4 * 2**20
"""A thousand slices and a thousand tensors fit many times over."""
MOST_DEPTH = 64
MOST_FILES = 100
_MOST_FILE_BYTES = 2**40
_DATE = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file: the SHA-256 of its bytes, in hex, and how many there are."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeBy:
    """What made it: versions of packages, the machine, and the instruction set its answers were proven on."""

    packages: Mapping[str, str]
    machine: Json
    instruction_set: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What an artifact holds and claims.

    workload, workload_digest: the workload's name, and a digest of its source. created, expires: in UTC; expires is
    None where it never does. files: every file but the manifest, its digest and `seals`, by name. golden_tolerance:
    how far answers to the golden inputs may be off, as a share of an output's largest magnitude. code: its files
    are code to whoever loads them. features: the stored features that its inputs are made of; None: the caller
    brings all inputs. result: what is claimed, and borne out by evidence.json: `speedup` (an interval, over the
    original; None where it is the original) and `verdict` (as core.Verdict).
    """

    workload: str
    workload_digest: str
    created: datetime
    expires: datetime | None
    candidate: Candidate
    signature: Signature
    files: Mapping[str, Entry]
    seals: tuple[str, ...]
    made_by: MadeBy
    golden_tolerance: float
    code: bool
    features: StoredFeatures | None
    result: Json

    @property
    def runtime_files(self) -> tuple[str, ...]:
        """Names of the files that the runtime loads."""
        return tuple(name for name in self.files if name not in (GOLDEN, EVIDENCE, REPORT))

    @property
    def names(self) -> frozenset[str]:
        """Names of everything that the folder holds."""
        return frozenset((MANIFEST, DIGEST, *self.seals, *self.files))

    def to_bytes(self) -> bytes:
        """The bytes of manifest.json."""
        data = {
            "format": FORMAT,
            "workload": {"name": self.workload, "digest": self.workload_digest},
            "created": self.created.strftime(_DATE),
            "expires": self.expires.strftime(_DATE) if self.expires else None,
            "candidate": to_json(self.candidate),
            "signature": to_json(self.signature),
            "files": {name: {"sha256": e.sha256, "bytes": e.bytes} for name, e in self.files.items()},
            "seals": list(self.seals),
            "made_by": to_json(self.made_by),
            "golden": {"tolerance": self.golden_tolerance},
            "code": self.code,
            "features": self.features.to_json() if self.features else None,
            "result": self.result,
        }
        return json.dumps(data, indent=1, sort_keys=True, allow_nan=False).encode()


def parse(data: bytes) -> Manifest:
    """Read manifest.json. Raises ArtifactRefused, naming the field, for anything but what `to_bytes` writes."""
    parsed = strict_json.parse(data, MANIFEST, most_bytes=MOST_MANIFEST_BYTES, most_depth=MOST_DEPTH)
    try:
        return _manifest(parsed)
    except ArtifactRefused as error:
        raise ArtifactRefused(f"{MANIFEST}: {error}") from None


def _manifest(data: Json) -> Manifest:
    version = data.get("format") if isinstance(data, dict) else None
    if type(version) is not int or version != FORMAT:
        raise ArtifactRefused(f"it has format {version!r:.40}; this hotlap reads format {FORMAT}, so update hotlap")
    top = fields.record(
        data, "the manifest", "format", "workload", "created", "expires", "candidate", "signature", "files",
        "seals", "made_by", "golden", "code", "features", "result",
    )  # fmt: skip
    workload = fields.record(top["workload"], "workload", "name", "digest")
    golden = fields.record(top["golden"], "golden", "tolerance")
    signature = fields.signature(top["signature"])
    return Manifest(
        workload=fields.text(workload["name"], "workload.name"),
        workload_digest=fields.text(workload["digest"], "workload.digest"),
        created=_date(top["created"], "created"),
        expires=None if top["expires"] is None else _date(top["expires"], "expires"),
        candidate=fields.candidate(top["candidate"]),
        signature=signature,
        files=_files(top["files"]),
        seals=_seals(top["seals"]),
        made_by=_made_by(top["made_by"]),
        golden_tolerance=fields.number(golden["tolerance"], "golden.tolerance", 0.0, 1.0),
        code=fields.flag(top["code"], "code"),
        features=None if top["features"] is None else stored.parse(top["features"], signature),
        result=_result(top["result"]),
    )


def _date(value: Json, where: str) -> datetime:
    text = fields.text(value, where)
    try:
        return datetime.strptime(text, _DATE).replace(tzinfo=UTC)
    except ValueError:
        raise ArtifactRefused(f"{where} is {text!r:.60}, not a UTC time such as 2026-01-31T12:00:00Z") from None


def _files(value: Json) -> dict[str, Entry]:
    listed = fields.mapping(value, "files")
    if len(listed) > MOST_FILES:
        raise ArtifactRefused(f"files lists {len(listed):,} files; at most {MOST_FILES:,} are allowed")
    found = {}
    for name, item in listed.items():
        fields.file_name(name)
        if name in _BESIDE:
            raise ArtifactRefused(f"files lists {name!r}, which can't hold its own digest")
        where = f"files[{name!r}]"
        entry = fields.record(item, where, "sha256", "bytes")
        digest = fields.hexadecimal(entry["sha256"], f"{where}.sha256", 64)
        found[name] = Entry(sha256=digest, bytes=fields.whole(entry["bytes"], f"{where}.bytes", 0, _MOST_FILE_BYTES))
    for needed in (GOLDEN, EVIDENCE):
        if needed not in found:
            raise ArtifactRefused(f"files has no digest of {needed}")
    return found


def _seals(value: Json) -> tuple[str, ...]:
    names = tuple(fields.items(value, "seals"))
    if any(name not in SEALS for name in names) or len(set(names)) != len(names):
        raise ArtifactRefused(f"seals is {value!r:.80}; it may hold {' and '.join(SEALS)}, once each")
    return names


def _made_by(value: Json) -> MadeBy:
    made_by = fields.record(value, "made_by", "packages", "machine", "instruction_set")
    packages = fields.mapping(made_by["packages"], "made_by.packages")
    return MadeBy(
        packages={name: fields.text(item, f"made_by.packages[{name!r}]") for name, item in packages.items()},
        machine=fields.mapping(made_by["machine"], "made_by.machine"),
        instruction_set=fields.text(made_by["instruction_set"], "made_by.instruction_set", most=2000),
    )


def _result(value: Json) -> Json:
    result = fields.record(value, "result", "speedup", "verdict")
    if result["speedup"] is not None:
        ends = fields.record(result["speedup"], "result.speedup", "estimate", "low", "high")
        for name, end in ends.items():
            fields.number(end, f"result.speedup.{name}", 0.0, 1e9)
    if result["verdict"] is not None:
        fields.mapping(result["verdict"], "result.verdict")
    return result
