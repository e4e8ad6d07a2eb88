"""`hotlap keys` at the command line."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from hotlap.artifact import keys
from hotlap.cli.keys import app


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the command in an empty folder, with keys of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOTLAP_HOME", str(tmp_path / "home"))
    return lambda *arguments: CliRunner().invoke(app, arguments, catch_exceptions=False).stdout


def test_a_key_is_made_trusted_and_listed(run, tmp_path):
    assert run("list") == f"no key is trusted in {tmp_path / 'home'}; trust one with: hotlap keys trust PUB\n"
    made = run("new", "release").splitlines()
    fingerprint = keys.fingerprint(keys.read_public(tmp_path / "release.pub"))
    assert made == [
        "release: the private key, for --sign; keep it to yourself",
        f"release.pub: the public key {fingerprint}; others trust it with: hotlap keys trust release.pub",
    ]
    assert run("trust", "release.pub", "--name", "team") == f"trusted as team: {fingerprint}\n"
    assert run("list") == f"team  {fingerprint}\n"
    assert json.loads(run("list", "--json"))["trusted"] == {"team": fingerprint}
