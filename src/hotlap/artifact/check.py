"""Reading an artifact without trusting it: every byte is accounted for before anything is made of it.

Files are opened beneath the folder's own descriptor, never through a link, and read once: the bytes that were
digested are the bytes that are handed on.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hotlap import runtimes
from hotlap.artifact import manifest as manifests
from hotlap.artifact import onnx_external, sign
from hotlap.artifact.manifest import (
    DIGEST,
    GOLDEN,
    MADE_HERE,
    MANIFEST,
    MOST_FILES,
    MOST_MANIFEST_BYTES,
    SIGNATURE,
    Entry,
    Manifest,
)
from hotlap.artifact.sign import MOST_SEAL_BYTES, Trust, Wanted
from hotlap.errors import ArtifactRefused, TargetError

_CHUNK = 2**20
_MOST_DIGEST_BYTES = 200
# What OpenVINO takes for its own format; anything else it would offer to its ONNX and TensorFlow readers, which
# follow file names.
_OPENVINO_XML = re.compile(rb"\s*(?:<\?xml[^>]{0,200}\?>\s*)?<net\s")

# What opening says of a link, and of a socket.
_NO_FILE = {errno.ELOOP: "a symbolic link", errno.ENXIO: "not a regular file"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """An artifact whose every byte was found as its manifest says. `files`: the bytes of those that are used."""

    folder: Path
    manifest: Manifest
    trust: Trust
    files: Mapping[str, bytes]

    @property
    def runtime_files(self) -> dict[str, bytes]:
        """The bytes of the files that the runtime loads, by name."""
        return {name: self.files[name] for name in self.manifest.runtime_files}


def check_artifact(artifact: str | Path, *, also: Collection[str] = ()) -> Checked:
    """Read an artifact and check everything that can be checked without running it.

    also: names of files whose bytes are wanted besides the runtime's files and the golden ones.
    Raises TargetError where there is no such folder or it can't be read, and ArtifactRefused, with the reason, for
    any damage or change: see the tests for the list. Whether it is fresh and trusted enough is left to
    `require_fresh` and `require_trust`.
    """
    folder = Path(artifact)
    descriptor = _open_folder(folder)
    try:
        with about(folder):
            present = _names(descriptor)
            data = _read_manifest(descriptor, present)
            manifest = manifests.parse(data)
            seals = {name: _read(descriptor, name, MOST_SEAL_BYTES) for name in manifest.seals if name in present}
            _compare_names(present, manifest)
            trust = sign.judge(data, seals.get(SIGNATURE), seals.get(MADE_HERE))
            _check_memory(manifest, also)
            files = {}
            for name, entry in manifest.files.items():
                wanted = name == GOLDEN or name in also or name in manifest.runtime_files
                content = _read_listed(descriptor, name, entry, keep=wanted)
                if wanted:
                    files[name] = content
            _check_contents(manifest, files)
    except OSError as error:
        raise TargetError(f"{folder} can't be read: {error.strerror}") from error
    finally:
        os.close(descriptor)
    return Checked(folder=folder, manifest=manifest, trust=trust, files=files)


@contextmanager
def about(folder: Path) -> Iterator[None]:
    """Say in a refusal which artifact it is about."""
    try:
        yield
    except ArtifactRefused as error:
        raise ArtifactRefused(f"{folder} is refused: {error}") from (error.__cause__ or None)


def require_fresh(manifest: Manifest, *, allow_expired: bool = False, now: datetime | None = None) -> None:
    """Raise ArtifactRefused where the artifact has expired, unless that is allowed."""
    now = now or datetime.now(UTC)
    if manifest.expires is None or allow_expired or now < manifest.expires:
        return
    raise ArtifactRefused(
        f"it expired on {manifest.expires:%Y-%m-%d} (made on {manifest.created:%Y-%m-%d}); make it again with "
        "hotlap optimize, or take it as it is with allow_expired=True (--allow-expired)"
    )


def require_trust(manifest: Manifest, trust: Trust, wanted: Wanted | None = None) -> None:
    """Raise ArtifactRefused where nobody trusted vouches for code, or for what must be vouched for.

    wanted: the least that is asked for; `made here` is met by a trusted signature too.
    """
    notes = "".join(f"; {note}" for note in trust.notes)
    if manifest.code and trust.level == "digests only":
        raise ArtifactRefused(
            f"its {manifest.candidate.runtime} files are code, which hotlap opens only when a trusted key "
            f"signed it or it was made here, and neither holds{notes}"
        )
    if trust.level == "signed" or wanted is None or wanted == trust.level:
        return
    raise ArtifactRefused(f"trust={wanted!r} was asked for, but it has {trust}{notes}")


def _open_folder(folder: Path) -> int:
    try:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise TargetError(f"{folder}: there is no such artifact") from None
    except NotADirectoryError:
        raise TargetError(f"{folder} is a file; an artifact is a folder") from None
    except (OSError, ValueError) as error:
        # ValueError: a path with a null character.
        raise TargetError(f"{folder} can't be opened: {getattr(error, 'strerror', None) or error}") from error


def _names(descriptor: int) -> frozenset[str]:
    found = set()
    with os.scandir(descriptor) as items:
        for item in items:
            found.add(item.name)
            if len(found) > MOST_FILES + 4:
                raise ArtifactRefused(f"it holds more than {MOST_FILES:,} files")
    return frozenset(found)


def _read_manifest(descriptor: int, present: frozenset[str]) -> bytes:
    for name in (MANIFEST, DIGEST):
        if name not in present:
            raise ArtifactRefused(f"it has no {name}, so it is no artifact or not all of one")
    data = _read(descriptor, MANIFEST, MOST_MANIFEST_BYTES)
    digest = _read(descriptor, DIGEST, _MOST_DIGEST_BYTES)
    if digest != digest_line(data):
        raise ArtifactRefused(f"{DIGEST} is not the digest of {MANIFEST}: one of the two was changed or damaged")
    return data


def digest_line(manifest: bytes) -> bytes:
    """The bytes of manifest.sha256, as sha256sum writes them."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()


def _compare_names(present: frozenset[str], manifest: Manifest) -> None:
    missing = sorted(manifest.names - present)
    unlisted = sorted(present - manifest.names)
    if missing:
        raise ArtifactRefused(f"{missing[0]} is missing")
    if unlisted:
        raise ArtifactRefused(f"it holds {unlisted[0]!r:.200}, which its manifest does not list")


def _open(descriptor: int, name: str) -> int:
    """Open a file of the folder that is a plain file under one name only."""
    # O_NONBLOCK: opening a FIFO would wait for a writer before anybody could see that it is one.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        file = os.open(name, flags, dir_fd=descriptor)
    except FileNotFoundError:
        raise ArtifactRefused(f"{name} is missing") from None
    except OSError as error:
        if error.errno in _NO_FILE:
            raise ArtifactRefused(f"{name} is {_NO_FILE[error.errno]}") from None
        raise
    status = os.fstat(file)
    problem = None
    if not stat.S_ISREG(status.st_mode):
        problem = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
    elif status.st_nlink != 1:
        problem = f"a hard link: {status.st_nlink} names share its bytes; copy the artifact with cp -r"
    if problem:
        os.close(file)
        raise ArtifactRefused(f"{name} is {problem}")
    return file


def _read(descriptor: int, name: str, most: int) -> bytes:
    """A small file's bytes, `most` at most."""
    file = _open(descriptor, name)
    try:
        size = os.fstat(file).st_size
        if size > most:
            raise ArtifactRefused(f"{name} is {size:,} bytes long; at most {most:,} are read")
        return b"".join(_chunks(file, name, size))
    finally:
        os.close(file)


def _read_listed(descriptor: int, name: str, entry: Entry, *, keep: bool) -> bytes:
    """Check a file's size, then its digest over the bytes as they are read; give them where they are kept."""
    file = _open(descriptor, name)
    try:
        size = os.fstat(file).st_size
        if size != entry.bytes:
            raise ArtifactRefused(f"{name} is {size:,} bytes long, its manifest says {entry.bytes:,}")
        digest = hashlib.sha256()
        kept = bytearray()
        for chunk in _chunks(file, name, size):
            digest.update(chunk)
            if keep:
                kept += chunk
    finally:
        os.close(file)
    if not hmac.compare_digest(digest.hexdigest(), entry.sha256):
        raise ArtifactRefused(f"{name} was changed or damaged: its digest is not the one in the manifest")
    return bytes(kept)


def _chunks(file: int, name: str, size: int) -> Iterator[bytes]:
    """The file's `size` bytes, and not one more: it may change while it is read."""
    left = size
    while left:
        chunk = os.read(file, min(left, _CHUNK))
        if not chunk:
            raise ArtifactRefused(f"{name} became shorter while it was read")
        left -= len(chunk)
        yield chunk
    if os.read(file, 1):
        raise ArtifactRefused(f"{name} became longer while it was read")


def _check_memory(manifest: Manifest, also: Collection[str]) -> None:
    kept = (GOLDEN, *manifest.runtime_files, *also)
    needed = sum(manifest.files[name].bytes for name in kept if name in manifest.files)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory:
        raise ArtifactRefused(
            f"its files need {needed / 2**30:,.0f} GiB of memory; this machine has {memory / 2**30:,.0f}"
        )


def _check_contents(manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """What a runtime would follow out of the files that it is given."""
    runtime = runtimes.of(manifest.candidate)
    if manifest.code != runtime.CODE:
        kind = "code" if runtime.CODE else "no code"
        raise ArtifactRefused(
            f"its manifest has code {manifest.code}, but {manifest.candidate.runtime} files are {kind}"
        )
    sizes = {name: entry.bytes for name, entry in manifest.files.items()}
    for name in manifest.runtime_files:
        if name.endswith(".onnx"):
            onnx_external.check(files[name], name, sizes)
        elif name.endswith(".xml") and not _OPENVINO_XML.match(files[name][:512]):
            raise ArtifactRefused(f"{name} is no OpenVINO model")
