"""Where keys are kept: the user's own, by which artifacts are "made here", and the public keys the user trusts.

They live in `HOTLAP_HOME`, or `hotlap` in the user's configuration folder: `own.key`, and `trusted/NAME.pub`.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from hotlap.errors import InputError, OutputError

_OWN, _TRUSTED = "own.key", "trusted"
_OWN_BYTES = 32
_MOST_KEY_BYTES = 16_384
_LINE = re.compile(r"hotlap-ed25519 ([A-Za-z0-9+/]{43}=)(?: ([A-Za-z0-9_.@-]{1,64}))?\n?")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}")


def home() -> Path:
    """The folder of keys."""
    given = os.environ.get("HOTLAP_HOME")
    if given:
        return Path(given)
    configuration = os.environ.get("XDG_CONFIG_HOME")
    return (Path(configuration) if configuration else Path.home() / ".config") / "hotlap"


def fingerprint(public_key: bytes) -> str:
    """How people tell public keys apart: `SHA256:` and 43 characters, as ssh does."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(public_key).digest()).decode().rstrip("=")


def public_line(public_key: bytes, name: str) -> str:
    """The content of a .pub file."""
    kept = re.sub(r"[^A-Za-z0-9_.@-]", "-", name)[:64]
    return f"hotlap-ed25519 {base64.b64encode(public_key).decode()} {kept}\n"


def read_public(path: Path) -> bytes:
    """The public key in a .pub file. Raises InputError, naming the file."""
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_KEY_BYTES)
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from error
    match = _LINE.fullmatch(data.decode("utf-8", "replace"))
    if match is None:
        raise InputError(f"{path} is no public key of hotlap's; it should read: hotlap-ed25519 BASE64 NAME")
    return base64.b64decode(match[1])


def trust(path: Path, name: str | None = None) -> str:
    """Trust the public key in a .pub file, under `name` (default: the file's); gives that name.

    Raises InputError where the file is no key or the name is taken by another key.
    """
    public = read_public(path)
    name = name or path.name.removesuffix(".pub")
    if not _NAME.fullmatch(name):
        raise InputError(f"a key can't be called {name!r}; give it a name of letters and digits with --name")
    already = {known: key for key, known in trusted().items()}
    if already.get(name, public) != public:
        raise InputError(f"another key is trusted as {name!r} already; give this one another name with --name")
    if name not in already:
        _make_home()
        write_new(home() / _TRUSTED / f"{name}.pub", public_line(public, name).encode(), mode=0o644)
    return name


def trusted() -> Mapping[bytes, str]:
    """Names of the trusted keys, by public key. Raises InputError where others could have put one there."""
    folder = home() / _TRUSTED
    if not folder.exists():
        return {}
    paths = sorted(folder.glob("*.pub"))
    for path in (folder.parent, folder, *paths):
        _check_owner(path.stat(), path, stat.S_IWGRP | stat.S_IWOTH)
    found: dict[bytes, str] = {}
    for path in paths:
        found.setdefault(read_public(path), path.name.removesuffix(".pub"))
    return found


def own_key(*, create: bool) -> bytes | None:
    """This user's own secret, made when first needed; None where there is none and `create` is false.

    Raises InputError where others can read it, and OutputError where it can't be written.
    """
    path = home() / _OWN
    if not path.exists():
        if not create:
            return None
        _create_own(path)
    data = read_private(path)
    if not re.fullmatch(rb"[0-9a-f]{64}\n", data):
        raise InputError(f"{path} is damaged; remove it, and artifacts made so far are no longer 'made here'")
    return bytes.fromhex(data.decode())


def own_key_name(own: bytes) -> str:
    """Tells own keys apart without giving anything of them away."""
    return hashlib.sha256(b"hotlap own key 1\n" + own).hexdigest()[:16]


def _create_own(path: Path) -> None:
    """Write it whole under another name first; where two processes do this at once, the first one's stays."""
    _make_home()
    partial = path.with_name(f"{_OWN}.{secrets.token_hex(8)}")
    write_new(partial, secrets.token_hex(_OWN_BYTES).encode() + b"\n", mode=0o600)
    try:
        os.link(partial, path)
    except FileExistsError:
        pass
    except OSError as error:
        raise OutputError(f"{path} can't be written: {error.strerror}") from error
    finally:
        partial.unlink()


def _make_home() -> None:
    """Make the folders of keys, closed to other users whatever the umask."""
    try:
        for folder in (home(), home() / _TRUSTED):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise OutputError(f"{home()} can't be made: {error.strerror}; let HOTLAP_HOME name another") from error


def read_private(path: Path) -> bytes:
    """The bytes of a secret file, which must be this user's and closed to all others. Raises InputError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from error
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path} is not a regular file")
        _check_owner(status, path, stat.S_IRWXG | stat.S_IRWXO)
        return file.read(_MOST_KEY_BYTES)


def write_new(path: Path, data: bytes, *, mode: int) -> None:
    """Write a file that must not exist yet, and the folders above it. Raises OutputError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError:
        raise OutputError(f"{path} exists; hotlap won't write over a key, so give another path") from None
    except OSError as error:
        raise OutputError(f"{path} can't be written: {error.strerror}") from error
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        path.unlink()
        raise OutputError(f"{path} can't be written: {error.strerror}") from error


def _check_owner(status: os.stat_result, path: Path, forbidden: int) -> None:
    if status.st_uid not in (os.geteuid(), 0):
        raise InputError(f"{path} belongs to another user; hotlap won't rest on it")
    if status.st_mode & forbidden:
        wide = stat.S_IMODE(status.st_mode)
        closed = wide & ~forbidden
        raise InputError(f"{path} is open to other users (mode {wide:04o}); close it with: chmod {closed:04o} {path}")
