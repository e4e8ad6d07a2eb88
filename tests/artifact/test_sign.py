"""Seals: who vouches for a manifest, and that no change of a seal goes unseen."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotlap.artifact import keys, sign
from hotlap.errors import ArtifactRefused

MANIFEST = b'{"format": 1}'


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("seals")
        patch.setenv("HOTLAP_HOME", str(folder / "home"))
        for name in ("known", "stranger"):
            sign.make_key(folder / name)
        keys.trust(folder / "known.pub")
        keys.own_key(create=True)
        yield folder


@pytest.fixture(scope="module")
def signed(home: Path) -> bytes:
    return sign.sign(MANIFEST, sign.read_key(home / "known"))


@pytest.fixture(scope="module")
def marked() -> bytes:
    return sign.mark(MANIFEST, keys.own_key(create=False))


def test_no_seal_is_digests_only():
    trust = sign.judge(MANIFEST, None, None)
    assert (str(trust), trust.level, trust.notes) == ("digests only", "digests only", ())


def test_trusted_signature(home, signed, marked):
    trust = sign.judge(MANIFEST, signed, None)
    assert str(trust) == f"signed by known ({keys.fingerprint(keys.read_public(home / 'known.pub'))})"
    assert sign.judge(MANIFEST, signed, marked).level == "signed"


def test_made_here(marked):
    assert str(sign.judge(MANIFEST, None, marked)) == "made here"


def test_unknown_key_vouches_for_nothing(home, marked):
    strange = sign.sign(MANIFEST, sign.read_key(home / "stranger"))
    trust = sign.judge(MANIFEST, strange, None)
    assert trust.level == "digests only"
    assert "signed by a key that you do not trust (SHA256:" in trust.notes[0]
    assert "hotlap keys trust PUBLIC_KEY_FILE" in trust.notes[0]
    both = sign.judge(MANIFEST, strange, marked)
    assert both.level == "made here"
    assert len(both.notes) == 1


def test_made_by_another_user_vouches_for_nothing():
    trust = sign.judge(MANIFEST, None, sign.mark(MANIFEST, b"\1" * 32))
    assert (trust.level, trust.notes) == ("digests only", ("made by another user or on another machine",))


def test_seals_of_another_manifest_are_refused(signed, marked):
    with pytest.raises(ArtifactRefused, match=r"signature.json is no signature of this manifest"):
        sign.judge(MANIFEST + b" ", signed, None)
    with pytest.raises(ArtifactRefused, match=r"made_here.json is damaged: its own digest does not match"):
        sign.judge(MANIFEST + b" ", None, marked)


def test_mark_forged_with_its_digest_is_refused(marked):
    import json

    seal = json.loads(marked)
    mac = "0" * 64
    forged = sign._seal(key=seal["key"], mac=mac, sha256=sign._mark_digest(MANIFEST, seal["key"], mac))
    with pytest.raises(ArtifactRefused, match="names your own key, but its MAC is not one that this key made"):
        sign.judge(MANIFEST, None, forged)


def test_a_mark_is_no_signature_and_the_other_way_round(signed, marked):
    with pytest.raises(ArtifactRefused, match=r"signature.json has no 'public_key'"):
        sign.judge(MANIFEST, marked, None)
    with pytest.raises(ArtifactRefused, match=r"made_here.json has no 'key'"):
        sign.judge(MANIFEST, None, signed)


@settings(max_examples=400, deadline=None)
@given(where=st.integers(0, 10**6), old=st.integers(0, 4), new=st.binary(max_size=4), which=st.booleans())
def test_any_edit_of_a_seal_is_refused(signed, marked, where, old, new, which):
    seal = signed if which else marked
    where %= len(seal) + 1
    edited = seal[:where] + new + seal[where + old :]
    if edited == seal:
        return
    with pytest.raises(ArtifactRefused, match=r"signature.json|made_here.json"):
        sign.judge(MANIFEST, edited if which else None, None if which else edited)


def test_any_flipped_bit_of_a_seal_is_refused(signed, marked):
    for seal, which in ((signed, True), (marked, False)):
        for bit in range(8 * len(seal)):
            edited = bytearray(seal)
            edited[bit // 8] ^= 1 << bit % 8
            with pytest.raises(ArtifactRefused):
                sign.judge(MANIFEST, bytes(edited) if which else None, None if which else bytes(edited))
