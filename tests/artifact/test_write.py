"""Writing: whole or not at all, whatever fails on the way."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from tiny_artifact import GOLDEN, make

from hotlap.artifact import keys, sign
from hotlap.artifact.check import check_artifact
from hotlap.artifact.load import load
from hotlap.errors import InputError, OutputError

CALLS = ("open", "mkdir", "write", "fsync", "rename")


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_was_written(built, tmp_path):
    artifact = make(
        tmp_path / "a" / "artifact",
        "onnxruntime",
        built["onnxruntime"],
        evidence={"scores": [1.0, 0.0]},
        expires=timedelta(days=30),
        result={"speedup": {"estimate": 2.0, "low": 1.9, "high": 2.1}, "verdict": {"passed": True}},
    )
    assert artifact == tmp_path / "a" / "artifact"
    manifest = check_artifact(artifact).manifest
    assert manifest.expires - manifest.created == timedelta(days=30)
    assert manifest.made_by.packages["onnxruntime"]
    assert manifest.made_by.instruction_set == manifest.made_by.machine["instruction_set"]
    assert manifest.features is None
    assert manifest.result["verdict"] == {"passed": True}
    assert json.loads((artifact / "evidence.json").read_bytes()) == {"scores": [1.0, 0.0]}
    assert leftovers(tmp_path / "a") == ["artifact"]
    check = subprocess.run(["sha256sum", "-c", "manifest.sha256"], cwd=artifact, capture_output=True, check=True)
    assert check.stdout == b"manifest.json: OK\n"


def test_others_may_read_it_as_the_umask_says(built, tmp_path):
    before = os.umask(0o022)
    try:
        artifact = make(tmp_path / "artifact", "onnxruntime", built["onnxruntime"])
    finally:
        os.umask(before)
    assert oct(artifact.stat().st_mode)[-3:] == "755"
    assert {oct(path.stat().st_mode)[-3:] for path in artifact.iterdir()} == {"644"}


@pytest.mark.parametrize("make_it", [Path.touch, Path.mkdir, lambda path: path.symlink_to("nowhere")])
def test_a_folder_that_exists_is_refused(built, tmp_path, make_it):
    make_it(tmp_path / "artifact")
    with pytest.raises(OutputError, match="artifact exists already; give another folder or remove it"):
        make(tmp_path / "artifact", "onnxruntime", built["onnxruntime"])
    assert leftovers(tmp_path) == ["artifact"]


def test_a_bad_key_is_refused_before_anything_is_written(built, tmp_path):
    (tmp_path / "key").write_text("no key")
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(InputError, match="key holds no unencrypted Ed25519 private key"):
        make(tmp_path / "artifact", "onnxruntime", built["onnxruntime"], sign_key=tmp_path / "key")
    assert leftovers(tmp_path) == ["key"]


def test_an_endless_expiry_is_refused(built, tmp_path):
    with pytest.raises(InputError, match=r"--expires lies 10,000,000 days ahead, past the year 9999"):
        make(tmp_path / "artifact", "onnxruntime", built["onnxruntime"], expires=timedelta(days=10**7))
    assert leftovers(tmp_path) == []


def test_a_signed_artifact_says_by_whom(built, tmp_path, monkeypatch):
    monkeypatch.setenv("HOTLAP_HOME", str(tmp_path / "home"))
    sign.make_key(tmp_path / "release")
    artifact = make(tmp_path / "artifact", "onnxruntime", built["onnxruntime"], sign_key=tmp_path / "release")
    assert str(check_artifact(artifact).trust) == "made here"
    keys.trust(tmp_path / "release.pub")
    assert str(load(artifact).trust).startswith("signed by release (SHA256:")


def test_an_unwritable_folder(built, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"artifact can't be written: File exists .*; nothing of it was left"):
        make(tmp_path / "file" / "artifact", "onnxruntime", built["onnxruntime"])


def test_a_file_that_went_missing_is_named(tmp_path):
    with pytest.raises(OutputError, match=r"artifact can't be written: No such file or directory \(.*model.onnx\)"):
        make(tmp_path / "artifact", "onnxruntime", {"model.onnx": tmp_path / "model.onnx"})
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("name", CALLS)
def test_any_call_that_fails_leaves_nothing_behind(built, tmp_path, monkeypatch, name, number):
    """Let the first call fail, then the second, and so on, until none is left that could."""
    real = getattr(os, name)
    keys.own_key(create=True)
    for fail_at in range(1, 200):
        calls = 0

        def faulty(*args, fail_at=fail_at, **kwargs):
            nonlocal calls
            calls += 1
            if calls == fail_at:
                raise OSError(number, os.strerror(number))
            return real(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(os, name, faulty)
            try:
                make(tmp_path / "artifact", "onnxruntime", built["onnxruntime"])
            except (OutputError, InputError) as error:
                assert "can't be" in str(error)  # noqa: PT017
            except Exception as error:
                raise AssertionError(f"{name} number {fail_at} gave {error!r}") from error
        if (tmp_path / "artifact").exists():
            check_artifact(tmp_path / "artifact")
            shutil.rmtree(tmp_path / "artifact")
        assert leftovers(tmp_path) == [], f"{name} number {fail_at}"
        if calls < fail_at:
            break
    assert 1 < fail_at < 199


WRITER = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tiny_artifact import make
from hotlap.errors import OutputError
try:
    make(Path(sys.argv[2]), "onnxruntime", {"model.onnx": Path(sys.argv[3])})
except OutputError as error:
    print(error)
"""


def writer(target: Path, source: Path, **options) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(Path(__file__).parents[1]), str(target), str(source)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_a_killed_writer_leaves_no_artifact_and_the_next_one_cleans_up(built, tmp_path):
    """The model comes through a pipe, so that the writer is surely in the middle of it when it is killed."""
    source = tmp_path / "pipe"
    os.mkfifo(source)
    process = writer(tmp_path / "out" / "artifact", source)
    with source.open("wb") as pipe:
        pipe.write(b"\0" * 2**21)
        pipe.flush()
        (partial,) = (tmp_path / "out").iterdir()
        assert partial.name.startswith(".artifact.")
        process.send_signal(signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
    process.communicate()
    assert leftovers(tmp_path / "out") == [partial.name]
    make(tmp_path / "out" / "artifact", "onnxruntime", built["onnxruntime"])
    assert leftovers(tmp_path / "out") == ["artifact"]


def test_a_living_writer_is_left_alone(built, tmp_path):
    source = tmp_path / "pipe"
    os.mkfifo(source)
    process = writer(tmp_path / "out" / "artifact", source)
    with source.open("wb") as pipe:
        pipe.write(built["onnxruntime"]["model.onnx"].read_bytes())
        pipe.flush()
        (partial,) = (tmp_path / "out").iterdir()
        make(tmp_path / "out" / "artifact", "onnxruntime", built["onnxruntime"])
        assert leftovers(tmp_path / "out") == [partial.name, "artifact"]
    output, _ = process.communicate(timeout=60)
    assert "artifact can't be written: Directory not empty" in output
    assert leftovers(tmp_path / "out") == ["artifact"]


def limit_file_size() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))


def test_a_file_over_a_limit(tmp_path):
    source = tmp_path / "model.onnx"
    source.write_bytes(b"\0" * 2**21)
    (tmp_path / "out").mkdir()
    process = writer(tmp_path / "out" / "artifact", source, preexec_fn=limit_file_size)
    output, errors = process.communicate(timeout=60)
    assert "artifact can't be written: the disk is full or over a limit (File too large); nothing of it" in output, (
        errors
    )
    assert leftovers(tmp_path / "out") == []


@pytest.fixture
def small_disk(tmp_path) -> Path:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"a small file system can't be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(small_disk, tmp_path, built):
    source = tmp_path / "model.onnx"
    source.write_bytes(b"\0" * 2**20)
    with pytest.raises(OutputError, match=r"the disk is full .* \(No space left on device\); .* make room and run"):
        make(small_disk / "artifact", "onnxruntime", {"model.onnx": source})
    assert leftovers(small_disk) == []
    check_artifact(make(small_disk / "artifact", "onnxruntime", built["onnxruntime"]))


def test_an_artifact_without_golden_inputs_is_a_bug(built, tmp_path):
    with pytest.raises(ValueError, match="an artifact needs golden inputs"):
        make(tmp_path / "artifact", "onnxruntime", built["onnxruntime"], golden=GOLDEN[:0])
