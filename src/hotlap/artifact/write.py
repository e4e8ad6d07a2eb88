"""Writing an artifact: whole, or not at all.

Everything goes into a folder beside the final one, is flushed to disk and read back as a stranger would, and gets
its name last. A writer that was killed leaves only that folder, which the next writer removes.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from hotlap import runtimes
from hotlap.artifact import golden as goldens
from hotlap.artifact import keys, sign
from hotlap.artifact.check import check_artifact, digest_line
from hotlap.artifact.manifest import (
    DIGEST,
    EVIDENCE,
    GOLDEN,
    MADE_HERE,
    MANIFEST,
    REPORT,
    SIGNATURE,
    Entry,
    MadeBy,
    Manifest,
)
from hotlap.artifact.stored import StoredFeatures
from hotlap.core import TOLERANCE, Array, Candidate, Json, Signature
from hotlap.errors import ArtifactRefused, InputError, OutputError, TargetError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_CHUNK = 2**20
_PARTIAL = ".partial"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_artifact(
    folder: Path,
    *,
    candidate: Candidate,
    signature: Signature,
    runtime_files: Mapping[str, Path],
    golden: Sequence[tuple[Sequence[Array], Sequence[Array]]],
    evidence: Json,
    result: Json,
    workload: str,
    workload_digest: str,
    machine: Mapping[str, Json],
    report_html: bytes | None = None,
    features: StoredFeatures | None = None,
    expires: timedelta | None = None,
    sign_key: Path | None = None,
) -> Path:
    """Write an artifact as `folder`, which must not exist, and give it back.

    runtime_files: what the runtime built, by the name it has in the artifact. golden: flat inputs and outputs of
    calls (at least one), as this candidate gave them. evidence: what artifact.evidence reads. result: what is
    claimed, as Manifest has it. machine: as Machine.to_json() gives it. sign_key: a private key's file.

    Raises InputError for a key that can't be used, before anything is written, and OutputError where `folder`
    exists or can't be written, with nothing left behind.
    """
    if not golden:
        raise ValueError("an artifact needs golden inputs")
    if folder.exists() or folder.is_symlink():
        raise OutputError(f"{folder} exists already; give another folder or remove it")
    key = sign.read_key(sign_key) if sign_key else None
    own = keys.own_key(create=True)
    assert own is not None
    created = datetime.now(UTC).replace(microsecond=0)
    with _partial(folder) as partial:
        files = {name: _copy(source, partial / name) for name, source in runtime_files.items()}
        files[GOLDEN] = _write(partial / GOLDEN, goldens.encode(golden))
        files[EVIDENCE] = _write(partial / EVIDENCE, json.dumps(evidence, allow_nan=False).encode())
        if report_html is not None:
            files[REPORT] = _write(partial / REPORT, report_html)
        manifest = Manifest(
            workload=workload,
            workload_digest=workload_digest,
            created=created,
            expires=_expiry(created, expires),
            candidate=candidate,
            signature=signature,
            files=files,
            seals=(MADE_HERE, SIGNATURE) if key else (MADE_HERE,),
            made_by=MadeBy(
                packages=dict(machine["versions"]),
                machine=dict(machine),
                instruction_set=str(machine["instruction_set"]),
            ),
            golden_tolerance=TOLERANCE[candidate.precision],
            code=runtimes.of(candidate).CODE,
            features=features,
            result=result,
        ).to_bytes()
        _write_manifest(partial, manifest, own, key)
    return folder


def _expiry(created: datetime, expires: timedelta | None) -> datetime | None:
    try:
        return created + expires if expires is not None else None
    except OverflowError:
        raise InputError(f"--expires lies {expires.days if expires else 0:,} days ahead, past the year 9999") from None


def _write_manifest(partial: Path, manifest: bytes, own: bytes, key: Ed25519PrivateKey | None) -> None:
    _write(partial / MANIFEST, manifest)
    _write(partial / DIGEST, digest_line(manifest))
    _write(partial / MADE_HERE, sign.mark(manifest, own))
    if key:
        _write(partial / SIGNATURE, sign.sign(manifest, key))


@contextmanager
def _partial(folder: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `folder` at the end, or nothing."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
        partial = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}{_PARTIAL}")
        partial.mkdir()
    except OSError as error:
        raise _failed(folder, error) from error
    lock = -1
    try:
        lock = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield partial
        _read_back(folder, partial)
        os.fsync(lock)
        _rename(partial, folder)
    except OSError as error:
        raise _failed(folder, error) from error
    finally:
        # Gone where it was renamed.
        shutil.rmtree(partial, ignore_errors=True)
        if lock >= 0:
            os.close(lock)


def _read_back(folder: Path, partial: Path) -> None:
    try:
        check_artifact(partial)
    except (ArtifactRefused, TargetError) as error:
        raise OutputError(f"{folder} can't be written, since it could not be loaded again: {error}") from error


def _failed(folder: Path, error: OSError) -> OutputError:
    if error.errno in _NO_SPACE:
        return OutputError(
            f"{folder} can't be written: the disk is full or over a limit ({error.strerror}); nothing of it was "
            "left behind, so make room and run again"
        )
    where = f" ({error.filename})" if error.filename else ""
    return OutputError(f"{folder} can't be written: {error.strerror}{where}; nothing of it was left behind")


def _remove_abandoned(folder: Path) -> None:
    """Remove what killed writers of this artifact left: a living one holds a lock on its folder."""
    for path in folder.parent.glob(f".{glob.escape(folder.name)}.*{_PARTIAL}"):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)


def _copy(source: Path, target: Path) -> Entry:
    """Copy a file and flush it to disk; the digest is of the bytes that were written."""
    with source.open("rb") as file:
        return _write_chunks(target, iter(lambda: file.read(_CHUNK), b""))


def _write(target: Path, data: bytes) -> Entry:
    return _write_chunks(target, iter((data,)))


def _write_chunks(target: Path, chunks: Iterator[bytes]) -> Entry:
    digest, size = hashlib.sha256(), 0
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        for chunk in chunks:
            digest.update(chunk)
            size += len(chunk)
            left = memoryview(chunk)
            while left:
                left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return Entry(sha256=digest.hexdigest(), bytes=size)


def _rename(partial: Path, folder: Path) -> None:
    """Give the folder its name, on disk too; where that fails it does not keep it."""
    parent = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.rename(partial, folder)
        try:
            os.fsync(parent)
        except OSError:
            os.rename(folder, partial)
            raise
    finally:
        os.close(parent)
