"""Artifacts that were damaged or changed: each is refused with its reason, none crashes, none is loaded."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_artifact import INPUTS, SIGNATURE, make, reseal, write_manifest, write_onnx

from hotlap.artifact import check, golden, keys, load, sign
from hotlap.artifact.check import check_artifact
from hotlap.errors import ArtifactRefused, OutputError, TargetError

FILES = {
    "onnxruntime": (
        "manifest.json", "manifest.sha256", "made_here.json", "signature.json", "golden.safetensors",
        "evidence.json", "report.html", "model.onnx",
    ),
    "openvino": (
        "manifest.json", "manifest.sha256", "made_here.json", "signature.json", "golden.safetensors",
        "evidence.json", "report.html", "model.xml", "model.bin",
    ),
}  # fmt: skip


def refused(artifact: Path, reason: str) -> None:
    """Both what checks and what loads refuse it, naming it."""
    for read in (check_artifact, load.load):
        with pytest.raises(ArtifactRefused, match=f"artifact is refused: .*{reason}"):
            read(artifact)


@pytest.fixture(scope="session")
def key(tmp_path_factory, own_home) -> Path:
    """A private key that this user trusts."""
    path = tmp_path_factory.mktemp("key") / "release"
    sign.make_key(path)
    keys.trust(path.with_name("release.pub"))
    return path


@pytest.fixture(scope="session")
def sealed(built, key, tmp_path_factory) -> dict[str, Path]:
    """Artifacts with every kind of file, for byte changes that are taken back."""
    folder = tmp_path_factory.mktemp("sealed")
    return {runtime: make(folder / runtime, runtime, files, sign_key=key) for runtime, files in built.items()}


def test_whole_artifacts_pass(sealed):
    for runtime, artifact in sealed.items():
        assert sorted(path.name for path in artifact.iterdir()) == sorted(FILES[runtime])
        found = check_artifact(artifact, also=["evidence.json"])
        assert found.trust.level == "signed"
        assert found.runtime_files == {name: (artifact / name).read_bytes() for name in found.runtime_files}
        assert set(found.files) == set(found.runtime_files) | {"golden.safetensors", "evidence.json"}


@pytest.mark.parametrize(("runtime", "name"), [(runtime, name) for runtime in FILES for name in FILES[runtime]])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.integers(0, 2**20), old=st.integers(0, 5), new=st.binary(max_size=5))
def test_any_changed_byte_of_any_file_is_refused(sealed, runtime, name, where, old, new):
    """Flip, insert and delete bytes at random places in every file."""
    path = sealed[runtime] / name
    data = path.read_bytes()
    where %= len(data) + 1
    changed = data[:where] + new + data[where + old :]
    if changed == data:
        return
    path.write_bytes(changed)
    try:
        with pytest.raises(ArtifactRefused, match=f"{runtime} is refused: "):
            load.load(sealed[runtime])
    finally:
        path.write_bytes(data)


@pytest.mark.parametrize("runtime", FILES)
def test_a_missing_file_is_refused(sealed, runtime, tmp_path):
    for name in FILES[runtime]:
        artifact = Path(shutil.copytree(sealed[runtime], tmp_path / name / "artifact"))
        (artifact / name).unlink()
        refused(artifact, f"{name} is missing|it has no {name}, so it is no artifact or not all of one")


def test_empty_files_are_refused(sealed, tmp_path):
    for name in FILES["openvino"]:
        artifact = Path(shutil.copytree(sealed["openvino"], tmp_path / name / "artifact"))
        (artifact / name).write_bytes(b"")
        refused(artifact, name)


def test_what_is_no_artifact(tmp_path):
    with pytest.raises(TargetError, match="none: there is no such artifact"):
        check_artifact(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(TargetError, match="file is a file; an artifact is a folder"):
        check_artifact(tmp_path / "file")
    with pytest.raises(TargetError, match="can't be opened"):
        check_artifact("a\0b")
    (tmp_path / "artifact").mkdir()
    refused(tmp_path / "artifact", r"it has no manifest.json, so it is no artifact")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("../outside", "files lists '../outside', which leads out of the folder with '..'"),
        ("a/../../outside", "which leads out of the folder with '..'"),
        ("/etc/hostname", "files lists '/etc/hostname', which is an absolute path"),
        ("..\\outside", "which holds a backslash"),
        ("folder/file", "which lies in a folder"),
        ("a\nb", "which holds control characters"),
        ("a" * 200, "which is longer than 128 characters"),
    ],
)
def test_paths_that_leave_the_folder_are_refused(artifact, path, reason):
    (artifact.parent / "outside").write_bytes(b"")
    reseal(artifact, lambda manifest: manifest["files"].update({path: {"sha256": "0" * 64, "bytes": 0}}))
    refused(artifact, reason)


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json", "manifest.sha256", "made_here.json", "report.html"])
def test_links_are_refused(artifact, name):
    outside = artifact.parent / "outside"
    (artifact / name).rename(outside)
    (artifact / name).symlink_to(outside)
    refused(artifact, f"{name} is a symbolic link")
    (artifact / name).unlink()
    os.link(outside, artifact / name)
    refused(artifact, f"{name} is a hard link: 2 names share its bytes; copy the artifact with cp -r")


def test_a_link_to_the_artifact_itself_is_the_users_own(artifact):
    link = artifact.parent / "current"
    link.symlink_to(artifact)
    assert load.load(link)(INPUTS[0]).shape == (1, 3)


def test_what_is_no_file_is_refused_without_waiting(artifact):
    path = artifact / "model.onnx"
    path.unlink()
    os.mkfifo(path)
    refused(artifact, r"model.onnx is not a regular file")
    path.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(path))
    refused(artifact, r"model.onnx is not a regular file")
    path.unlink()
    path.mkdir()
    refused(artifact, r"model.onnx is a folder")


@pytest.mark.parametrize("make_it", [Path.touch, Path.mkdir, lambda path: path.symlink_to("/etc/hostname")])
@pytest.mark.parametrize("name", ["extra.onnx", ".hidden", "signature.json", "model.onnx.data"])
def test_an_unlisted_file_or_folder_is_refused(artifact, make_it, name):
    make_it(artifact / name)
    refused(artifact, f"it holds '{name}', which its manifest does not list")


def test_countless_files_are_refused(artifact):
    for number in range(110):
        (artifact / str(number)).touch()
    refused(artifact, "it holds more than 100 files")


def test_a_missing_digest_is_refused(artifact):
    reseal(artifact, lambda manifest: manifest["files"].pop("report.html"))
    refused(artifact, r"it holds 'report.html', which its manifest does not list")
    reseal(artifact, lambda manifest: manifest["files"].update({"report.html": {"bytes": 34}}), files=False)
    refused(artifact, r"files\['report.html'\] has no 'sha256'")
    (artifact / "manifest.sha256").unlink()
    refused(artifact, r"it has no manifest.sha256")


def test_a_wrong_size_is_told_before_anything_is_read(artifact):
    with (artifact / "model.onnx").open("ab") as file:
        file.truncate(2**40)
    refused(artifact, r"model.onnx is 1,099,511,627,776 bytes long, its manifest says \d+")


def test_files_larger_than_memory_are_refused(artifact):
    with (artifact / "model.onnx").open("ab") as file:
        file.truncate(2**39)
    reseal(artifact, lambda m: m["files"]["model.onnx"].update(bytes=2**39), files=False)
    refused(artifact, r"its files need 512 GiB of memory; this machine has \d+")


def limited() -> None:
    """Half a GiB of address space on top of what a bare Python takes, and little stack."""
    resource.setrlimit(resource.RLIMIT_AS, (2**29, 2**29))
    resource.setrlimit(resource.RLIMIT_STACK, (2**20, 2**20))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("manifest.json", "manifest.json is 1,000,000,000 bytes long; at most 4,194,304 are read"),
        ("manifest.sha256", "manifest.sha256 is 1,000,000,000 bytes long; at most 200 are read"),
        ("made_here.json", "made_here.json is 1,000,000,000 bytes long; at most 4,096 are read"),
    ],
)
def test_a_huge_manifest_is_refused_unread(artifact, name, reason):
    with (artifact / name).open("ab") as file:
        file.truncate(10**9)
    assert reason in in_small_process(artifact)


def test_a_deeply_nested_manifest_is_refused(artifact):
    for data in (b"[" * 100_000 + b"]" * 100_000, b'{"format":' * 100_000 + b"1" + b"}" * 100_000):
        write_manifest(artifact, data)
        assert "manifest.json is nested more than 64 deep" in in_small_process(artifact)


def in_small_process(artifact: Path) -> str:
    code = (
        "import sys\n"
        "from hotlap.artifact.check import check_artifact\n"
        "from hotlap.errors import ArtifactRefused\n"
        "try: check_artifact(sys.argv[1])\n"
        "except ArtifactRefused as error: print(error)\n"
    )
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(artifact)],
        capture_output=True, text=True, preexec_fn=limited, env=environment, timeout=60, check=False,
    )  # fmt: skip
    return done.stdout or done.stderr


def test_a_swapped_golden_file_is_refused(artifact):
    other = golden.encode([([INPUTS[0]], [INPUTS[0][:, :3] + 1])])
    (artifact / "golden.safetensors").write_bytes(other)
    refused(artifact, r"golden.safetensors (was changed or damaged|is \d+ bytes long, its manifest says)")
    reseal(artifact)
    check_artifact(artifact)
    with pytest.raises(ArtifactRefused, match="its golden inputs no longer give the answers they gave: they are off"):
        load.load(artifact)


def test_a_golden_file_that_lies_about_its_length_is_refused(artifact):
    path = artifact / "golden.safetensors"
    path.write_bytes((2**40).to_bytes(8, "little") + path.read_bytes()[8:])
    reseal(artifact)
    with pytest.raises(ArtifactRefused, match=r"golden.safetensors says its header has 1,099,511,627,776 bytes"):
        load.load(artifact)


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("../secret.bin", "model.onnx has external data at '../secret.bin'; only 'model.onnx.data', beside it, is"),
        ("/etc/passwd", "model.onnx has external data at '/etc/passwd'"),
        ("evidence.json", "model.onnx has external data at 'evidence.json'"),
        ("model.onnx.data", "model.onnx has external data past the end of 'model.onnx.data': bytes 0 to 48 of 47"),
    ],
)
def test_external_data_outside_or_past_the_end_is_refused(artifact, location, reason):
    import onnx

    write_onnx(artifact / "model.onnx", external=True)
    data = artifact / "model.onnx.data"
    model = onnx.load(artifact / "model.onnx", load_external_data=False)
    model.graph.initializer[0].external_data[0].value = location
    (artifact / "model.onnx").write_bytes(model.SerializeToString())
    data.write_bytes(data.read_bytes()[:-1])
    reseal(artifact, lambda m: m["files"].update({"model.onnx.data": m["files"]["model.onnx"]}))
    reseal(artifact)
    refused(artifact, reason)


def test_external_data_beside_the_model_is_loaded_from_the_checked_bytes(tmp_path, monkeypatch):
    write_onnx(tmp_path / "model.onnx", external=True)
    names = ("model.onnx", "model.onnx.data")
    artifact = make(tmp_path / "artifact", "onnxruntime", {name: tmp_path / name for name in names})
    monkeypatch.chdir("/")
    assert load.load(artifact)(INPUTS[0]).shape == (1, 3)


def test_another_format_under_a_known_name_is_refused(built, tmp_path, artifact):
    """OpenVINO would try its ONNX reader, and ONNX Runtime its own format, on what only has the name."""
    (artifact / "model.onnx").write_bytes(b"\x00\x00\x00\x00ORTM" + bytes(100))
    reseal(artifact)
    refused(artifact, r"model.onnx is in ONNX Runtime's own format")
    write_onnx(tmp_path / "model.xml")
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(OutputError, match=r"could not be loaded again: .*: model.xml is no OpenVINO model"):
        make(tmp_path / "other", "openvino", {name: tmp_path / name for name in ("model.xml", "model.bin")})


def test_a_manifest_that_denies_its_code_is_refused(artifact):
    reseal(artifact, lambda manifest: manifest.update(code=True))
    refused(artifact, "its manifest has code True, but onnxruntime files are no code")
    reseal(artifact, lambda m: (m["candidate"].update(runtime="eager"), m.update(code=False)))
    refused(artifact, "its manifest has code False, but eager files are code")


@pytest.fixture
def code_artifact(tmp_path) -> Path:
    """An artifact whose files count as code. What they hold is never looked at here."""
    (tmp_path / "model.pt2").write_bytes(b"PK\x03\x04 not a program")
    return make(tmp_path / "artifact", "eager", {"model.pt2": tmp_path / "model.pt2"})


def test_unsigned_code_is_refused_before_torch_sees_it(code_artifact):
    reseal(code_artifact)
    code = (
        "import sys\nfrom hotlap.artifact.load import load\nfrom hotlap.errors import ArtifactRefused\n"
        "try: load(sys.argv[1])\n"
        "except ArtifactRefused as error: print(error, 'torch' in sys.modules)\n"
    )
    command = [sys.executable, "-c", code, str(code_artifact)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert (
        "its eager files are code, which hotlap opens only when a trusted key signed it or it was made" in done.stdout
    )
    assert done.stdout.endswith("False\n")


def test_code_from_a_stranger_is_refused_and_says_whose_it_is(built, tmp_path, monkeypatch):
    """Made by another user, and signed with a key that is not trusted here."""
    (tmp_path / "model.pt2").write_bytes(b"PK\x03\x04")
    with monkeypatch.context() as other:
        other.setenv("HOTLAP_HOME", str(tmp_path / "another"))
        sign.make_key(tmp_path / "theirs")
        artifact = make(
            tmp_path / "artifact", "eager", {"model.pt2": tmp_path / "model.pt2"}, sign_key=tmp_path / "theirs"
        )
        found = check_artifact(artifact)
        assert found.trust.level == "made here"
    with pytest.raises(ArtifactRefused) as refusal:
        load.load(artifact)
    assert "are code, which hotlap opens only when" in str(refusal.value)
    assert "signed by a key that you do not trust (SHA256:" in str(refusal.value)
    assert "made by another user or on another machine" in str(refusal.value)
    with pytest.raises(ArtifactRefused, match="are code"):
        load.start(check_artifact(artifact))


def test_trust_that_was_asked_for(sealed, originals, artifact):
    assert load.load(sealed["onnxruntime"], trust="signed").trust.level == "signed"
    assert load.load(sealed["onnxruntime"], trust="made here").trust.level == "signed"
    assert load.load(originals["onnxruntime"], trust="made here").trust.level == "made here"
    with pytest.raises(ArtifactRefused, match="trust='signed' was asked for, but it has made here"):
        load.load(originals["onnxruntime"], trust="signed")
    reseal(artifact)
    assert load.load(artifact).trust.level == "digests only"
    with pytest.raises(ArtifactRefused, match="trust='made here' was asked for, but it has digests only"):
        load.load(artifact, trust="made here")


def test_an_expired_artifact_is_refused_unless_allowed(artifact):
    reseal(artifact, lambda m: m.update(created="2020-01-01T00:00:00Z", expires="2020-01-31T00:00:00Z"))
    with pytest.raises(
        ArtifactRefused,
        match=r"it expired on 2020-01-31 \(made on 2020-01-01\); make it again .*allow_expired=True",
    ):
        load.load(artifact)
    assert load.load(artifact, allow_expired=True)(INPUTS[0]).shape == (1, 3)
    manifest = check_artifact(artifact).manifest
    check.require_fresh(manifest, now=datetime(2020, 1, 30, tzinfo=UTC))
    with pytest.raises(ArtifactRefused, match="it expired on 2020-01-31"):
        check.require_fresh(manifest, now=datetime(2020, 1, 31, tzinfo=UTC))


def test_the_bytes_that_were_checked_are_the_bytes_that_are_loaded(artifact, tmp_path):
    """Swap every file after the check: what is loaded is what was checked."""
    checked = check_artifact(artifact)
    for path in artifact.iterdir():
        path.write_bytes(b"changed")
    session = load.start(checked)
    cases = golden.decode(checked.files["golden.safetensors"], SIGNATURE, "golden")
    assert load.require_same_answers(checked.manifest, session, cases) < 1e-6


def test_swapping_files_all_the_time_never_loads_a_mixture(built, tmp_path):
    """Two models under one name, swapped by rename as fast as it goes: each check sees one of them, or refuses."""
    artifact = make(tmp_path / "artifact", "onnxruntime", built["onnxruntime"])
    path, right = artifact / "model.onnx", (artifact / "model.onnx").read_bytes()
    wrong = right[:-1] + bytes([right[-1] ^ 1])
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            for data in (wrong, right):
                (tmp_path / "next").write_bytes(data)
                os.rename(tmp_path / "next", path)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(100):
            try:
                assert check_artifact(artifact).files["model.onnx"] == right
            except ArtifactRefused as error:
                assert "model.onnx" in str(error)  # noqa: PT017
    finally:
        done.set()
        thread.join()


def test_a_file_that_grows_or_shrinks_while_it_is_read_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"12345678")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(ArtifactRefused, match="file became longer while it was read"):
            list(check._chunks(descriptor, "file", 7))
        os.lseek(descriptor, 0, os.SEEK_SET)
        with pytest.raises(ArtifactRefused, match="file became shorter while it was read"):
            list(check._chunks(descriptor, "file", 9))
    finally:
        os.close(descriptor)


def test_no_descriptor_is_left_open(artifact, sealed):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        check_artifact(sealed["openvino"])
        (artifact / "model.onnx").write_bytes(b"")
        with pytest.raises(ArtifactRefused):
            check_artifact(artifact)
    assert len(os.listdir("/proc/self/fd")) == before
