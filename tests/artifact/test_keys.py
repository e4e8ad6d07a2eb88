"""Keys: made closed, refused when open, trusted by name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hotlap.artifact import keys, sign
from hotlap.errors import InputError, OutputError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOTLAP_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_home_follows_the_environment(monkeypatch):
    monkeypatch.delenv("HOTLAP_HOME")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/elsewhere")
    assert keys.home() == Path("/elsewhere/hotlap")
    monkeypatch.delenv("XDG_CONFIG_HOME")
    assert keys.home() == Path.home() / ".config" / "hotlap"


def test_own_key_is_made_once_and_closed(home):
    before = os.umask(0)
    try:
        assert keys.own_key(create=False) is None
        first = keys.own_key(create=True)
    finally:
        os.umask(before)
    assert len(first) == 32
    assert keys.own_key(create=True) == keys.own_key(create=False) == first
    assert oct((home / "own.key").stat().st_mode)[-4:] == "0600"
    assert oct(home.stat().st_mode)[-4:] == "0700"
    assert sorted(path.name for path in home.iterdir()) == ["own.key", "trusted"]


def test_own_key_made_by_many_at_once_is_one(home):
    code = "from hotlap.artifact import keys; print(keys.own_key(create=True).hex())"
    many = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(4)]
    assert len({process.communicate(timeout=60)[0] for process in many}) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610])
def test_open_own_key_is_refused(home, mode):
    keys.own_key(create=True)
    (home / "own.key").chmod(mode)
    with pytest.raises(InputError, match=rf"own.key is open to other users \(mode {mode:04o}\); close it with: chmod"):
        keys.own_key(create=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_own_key_of_another_user_is_refused(home):
    keys.own_key(create=True)
    os.chown(home / "own.key", 1234, -1)
    with pytest.raises(InputError, match=r"own.key belongs to another user; hotlap won't rest on it"):
        keys.own_key(create=False)


def test_own_key_through_a_link_is_refused(home):
    keys.own_key(create=True)
    (home / "own.key").rename(home / "elsewhere.key")
    (home / "own.key").symlink_to(home / "elsewhere.key")
    with pytest.raises(InputError, match=r"own.key can't be read: Too many levels of symbolic links"):
        keys.own_key(create=False)


def test_damaged_own_key_is_refused(home):
    keys.own_key(create=True)
    (home / "own.key").write_text("abc\n")
    with pytest.raises(InputError, match=r"own.key is damaged; remove it"):
        keys.own_key(create=False)


def test_home_that_cannot_be_made(home):
    home.write_text("a file")
    with pytest.raises(OutputError, match=r"home can't be made: .*; let HOTLAP_HOME name another"):
        keys.own_key(create=True)


def test_make_key_writes_two_files_and_keeps_what_is_there(tmp_path):
    name = sign.make_key(tmp_path / "release")
    assert name == keys.fingerprint(keys.read_public(tmp_path / "release.pub"))
    assert oct((tmp_path / "release").stat().st_mode)[-4:] == "0600"
    assert sign.read_key(tmp_path / "release").public_key().public_bytes_raw() == keys.read_public(
        tmp_path / "release.pub"
    )
    with pytest.raises(OutputError, match=r"release.pub exists; hotlap won't write over a key"):
        sign.make_key(tmp_path / "release")
    (tmp_path / "release.pub").unlink()
    with pytest.raises(OutputError, match=r"release exists; hotlap won't write over a key"):
        sign.make_key(tmp_path / "release")
    assert not (tmp_path / "release.pub").exists()


def test_read_key_refuses_what_is_no_key(tmp_path):
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    with pytest.raises(InputError, match=r"none can't be read: No such file"):
        sign.read_key(tmp_path / "none")
    key = ed25519.Ed25519PrivateKey.generate()
    wrong = {
        "text": b"hello",
        "other": ec.generate_private_key(ec.SECP256R1()).private_bytes(
            s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()
        ),
        "locked": key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"password")),
    }
    for name, data in wrong.items():
        keys.write_new(tmp_path / name, data, mode=0o600)
        with pytest.raises(InputError, match=f"{name} holds no unencrypted Ed25519 private key; make one with"):
            sign.read_key(tmp_path / name)
    sign.make_key(tmp_path / "open")
    (tmp_path / "open").chmod(0o644)
    with pytest.raises(InputError, match=r"open is open to other users \(mode 0644\)"):
        sign.read_key(tmp_path / "open")


def test_trust_keeps_keys_by_name(tmp_path):
    assert keys.trusted() == {}
    for name in ("one", "two"):
        sign.make_key(tmp_path / name)
    assert keys.trust(tmp_path / "one.pub") == "one"
    assert keys.trust(tmp_path / "one.pub") == "one"
    assert keys.trust(tmp_path / "two.pub", "team") == "team"
    assert set(keys.trusted().values()) == {"one", "team"}
    with pytest.raises(InputError, match="another key is trusted as 'one' already; give this one another name"):
        keys.trust(tmp_path / "two.pub", "one")
    with pytest.raises(InputError, match=r"a key can't be called '../x'"):
        keys.trust(tmp_path / "two.pub", "../x")


@pytest.mark.parametrize("text", ["", "hello", "ssh-ed25519 AAAA me", "hotlap-ed25519 AAAA me\n", "\xff" * 99])
def test_what_is_no_public_key_is_refused(tmp_path, text):
    (tmp_path / "bad.pub").write_text(text)
    with pytest.raises(InputError, match=r"bad.pub is no public key of hotlap's; it should read: hotlap-ed25519"):
        keys.trust(tmp_path / "bad.pub")


@pytest.mark.parametrize("what", [".", "trusted", "trusted/one.pub"])
def test_trusted_keys_that_others_can_write_are_refused(tmp_path, home, what):
    sign.make_key(tmp_path / "one")
    keys.trust(tmp_path / "one.pub")
    (home / what).chmod(0o777 if (home / what).is_dir() else 0o666)
    with pytest.raises(InputError, match="is open to other users"):
        keys.trusted()
