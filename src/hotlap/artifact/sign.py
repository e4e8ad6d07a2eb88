"""Who vouches for an artifact: a signature by a trusted key, a MAC under this user's own key, or nobody.

Digests find damage; whoever changes a file on purpose can change its digest too. An Ed25519 signature (RFC 8032)
from a key that the user trusts shows that nobody did, and so does an HMAC-SHA256 (RFC 2104) under a key that only
this user can read: "made here". Both cover the bytes of manifest.json, which covers every other file.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hotlap.artifact import fields, keys, strict_json
from hotlap.artifact.manifest import MADE_HERE, SIGNATURE
from hotlap.core import Json
from hotlap.errors import ArtifactRefused, InputError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

Level = Literal["signed", "made here", "digests only"]

Wanted = Literal["signed", "made here"]

MOST_SEAL_BYTES = 4096
_FORMAT = 1
# Said before the manifest's bytes, so that a signature for one purpose is none for another.
_SIGNED_AS = b"hotlap artifact signature 1\n"
_MADE_AS = b"hotlap artifact made here 1\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Who vouches for an artifact. `key`: the trusted key's name. `notes`: on seals that vouch for nothing."""

    level: Level
    key: str | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"signed by {self.key}" if self.level == "signed" else self.level


def read_key(path: Path) -> Ed25519PrivateKey:
    """The private key in a PEM file that only its owner can read. Raises InputError, naming the file."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = keys.read_private(path)
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path} holds no unencrypted Ed25519 private key; make one with: hotlap keys new PATH")
    return key


def make_key(path: Path) -> str:
    """Write a new private key to `path` and its public half to `<path>.pub`; gives the fingerprint.

    Raises OutputError where either exists or can't be written.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = Ed25519PrivateKey.generate()
    raw = key.public_key().public_bytes_raw()
    public = path.with_name(path.name + ".pub")
    keys.write_new(public, keys.public_line(raw, path.stem).encode(), mode=0o644)
    try:
        keys.write_new(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), mode=0o600)
    except BaseException:
        public.unlink()
        raise
    return keys.fingerprint(raw)


def sign(manifest: bytes, key: Ed25519PrivateKey) -> bytes:
    """The bytes of signature.json."""
    return _seal(
        public_key=base64.b64encode(key.public_key().public_bytes_raw()).decode(),
        signature=base64.b64encode(key.sign(_SIGNED_AS + manifest)).decode(),
    )


def mark(manifest: bytes, own_key: bytes) -> bytes:
    """The bytes of made_here.json: a MAC, and a digest over it by which damage shows on other machines too."""
    mac = hmac.new(own_key, _MADE_AS + manifest, hashlib.sha256).hexdigest()
    key = keys.own_key_name(own_key)
    return _seal(key=key, mac=mac, sha256=_mark_digest(manifest, key, mac))


def judge(manifest: bytes, signature: bytes | None, made_here: bytes | None) -> Trust:
    """Who vouches for the manifest's bytes, by the seals that lie beside it.

    Raises ArtifactRefused where a seal is invalid. A valid signature by a key that is not trusted, and a mark made
    under another user's key, vouch for nothing; `notes` say so.
    """
    trusted, note_signature = _judge_signature(manifest, signature) if signature is not None else (None, None)
    made, note_mark = _judge_mark(manifest, made_here) if made_here is not None else (False, None)
    notes = tuple(filter(None, (note_signature, note_mark)))
    if trusted is not None:
        return Trust(level="signed", key=trusted, notes=notes)
    return Trust(level="made here" if made else "digests only", notes=notes)


def _judge_signature(manifest: bytes, data: bytes) -> tuple[str | None, str | None]:
    """The trusted key's name, or None and why it isn't."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    seal = _opened(data, SIGNATURE, "public_key", "signature")
    public = _base64(seal["public_key"], "public_key", 32)
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(
            _base64(seal["signature"], "signature", 64), _SIGNED_AS + manifest
        )
    except InvalidSignature:
        raise ArtifactRefused(
            f"{SIGNATURE} is no signature of this manifest: one of the two was changed after signing"
        ) from None
    name = keys.trusted().get(public)
    if name is not None:
        return f"{name} ({keys.fingerprint(public)})", None
    return None, (
        f"signed by a key that you do not trust ({keys.fingerprint(public)}); "
        "if you know its owner, trust it with: hotlap keys trust PUBLIC_KEY_FILE"
    )


def _judge_mark(manifest: bytes, data: bytes) -> tuple[bool, str | None]:
    seal = _opened(data, MADE_HERE, "key", "mac", "sha256")
    key = fields.hexadecimal(seal["key"], f"{MADE_HERE}: key", 16)
    mac = fields.hexadecimal(seal["mac"], f"{MADE_HERE}: mac", 64)
    digest = fields.hexadecimal(seal["sha256"], f"{MADE_HERE}: sha256", 64)
    if not hmac.compare_digest(digest, _mark_digest(manifest, key, mac)):
        raise ArtifactRefused(f"{MADE_HERE} is damaged: its own digest does not match")
    own = keys.own_key(create=False)
    if own is None or keys.own_key_name(own) != key:
        return False, "made by another user or on another machine"
    wanted = hmac.new(own, _MADE_AS + manifest, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(mac, wanted):
        raise ArtifactRefused(f"{MADE_HERE} names your own key, but its MAC is not one that this key made")
    return True, None


def _mark_digest(manifest: bytes, key: str, mac: str) -> str:
    return hashlib.sha256(f"{key} {mac}\n".encode() + manifest).hexdigest()


def _seal(**items: str) -> bytes:
    return json.dumps({"format": _FORMAT, **items}, indent=1, sort_keys=True).encode()


def _opened(data: bytes, what: str, *names: str) -> dict[str, Json]:
    parsed = strict_json.parse(data, what, most_bytes=MOST_SEAL_BYTES, most_depth=2)
    seal = fields.record(parsed, what, "format", *names)
    if seal["format"] != _FORMAT:
        raise ArtifactRefused(f"{what} has format {seal['format']!r:.40}; this hotlap reads format {_FORMAT}")
    if data != _seal(**{name: fields.text(seal[name], f"{what}: {name}") for name in names}):
        raise ArtifactRefused(f"{what} is not written as hotlap writes it, so it was changed")
    return seal


def _base64(value: Json, name: str, size: int) -> bytes:
    text = fields.text(value, f"{SIGNATURE}: {name}")
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error:
        data = b""
    # Base64 leaves bits over at the end, which must be zero: one key and one signature have one spelling.
    if len(data) != size or not re.fullmatch(r"[A-Za-z0-9+/]+=*", text) or base64.b64encode(data).decode() != text:
        raise ArtifactRefused(f"{SIGNATURE}: {name} is not {size} bytes in base64")
    return data
