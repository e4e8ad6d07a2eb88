"""JSON from strangers: one meaning, bounded, never recursion or memory trouble."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotlap.artifact import strict_json
from hotlap.errors import ArtifactRefused

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def parse(data: bytes):
    return strict_json.parse(data, "it", most_bytes=10**6, most_depth=64)


def naive_depth(value) -> int:
    if isinstance(value, (list, dict)):
        inner = value.values() if isinstance(value, dict) else value
        return 1 + max((naive_depth(item) for item in inner), default=0)
    return 0


@given(VALUES)
def test_what_json_writes_is_read_back(value):
    for ascii_only in (True, False):
        try:
            data = json.dumps(value, ensure_ascii=ascii_only).encode()
        except UnicodeEncodeError:
            continue
        assert parse(data) == value
        assert strict_json.depth(data) == naive_depth(value)


@given(st.binary(max_size=200) | st.text(alphabet='{}[]",:\\0e1 ', max_size=60).map(str.encode))
def test_any_bytes_are_read_or_refused(data):
    try:
        value = parse(data)
    except ArtifactRefused:
        return
    assert json.loads(data.decode()) == value


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"[" * 100_000 + b"]" * 100_000, "it is nested more than 64 deep"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "it is nested more than 64 deep"),
        (b"[" * 65, "it is nested more than 64 deep"),
        (b" " * 1_000_001, "it is 1,000,001 bytes long; at most 1,000,000 are read"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "it has 'c' twice"),
        (b'{"a": NaN}', "it holds NaN, which is no number"),
        (b"[-Infinity]", "it holds -Infinity, which is no number"),
        (b"[1e999]", "it holds 1e999, which is too large for a number"),
        (b"1" * 5000, "it is not JSON"),
        (b'{"a": 1', "it is not JSON"),
        (b'"\xff"', r"it is not UTF-8 \(byte 1\)"),
        ('{"a": 1}'.encode("utf-16"), "it is not UTF-8"),
        ("\ufeff{}".encode(), "it is not JSON"),
    ],
)
def test_refusals_say_why(data, reason):
    with pytest.raises(ArtifactRefused, match=reason):
        parse(data)


def test_brackets_in_strings_do_not_nest():
    assert parse(json.dumps(["[" * 1000, '\\"[[', {"{{": 1}]).encode())[0] == "[" * 1000
