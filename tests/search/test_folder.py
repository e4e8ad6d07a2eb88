"""The output folder: refused unless it is new, resumed, or to be started over; one run at a time."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hotlap.errors import OutputError
from hotlap.search import folder as folder_module
from hotlap.search.folder import RunFolder, written_whole


def make(path: Path, *, resume: bool = False, force: bool = False) -> RunFolder:
    return RunFolder(path, resume=resume, force=force)


def begun(path: Path) -> None:
    """A run that got so far as to begin its journal."""
    folder = make(path)
    (path / "journal.jsonl").write_text('{"event": "begin"}\n')
    folder.close()


def test_a_new_one_in_which_nothing_was_begun_leaves_nothing(tmp_path: Path) -> None:
    make(tmp_path / "out").close()
    assert not (tmp_path / "out").exists()


def test_one_that_exists_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(OutputError, match=r"exists; go on with --resume, start over with --force, or give another"):
        make(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_run_that_cant_be_taken_up_is_not_said_to_be(tmp_path: Path) -> None:
    begun(tmp_path)
    with pytest.raises(OutputError, match=r"exists; start over with --force, or give another"):
        RunFolder(tmp_path, resume=None, force=False)


def test_force_deletes_what_a_run_made_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    begun(out)
    for name in ("artifact", "mine"):
        (out / name).mkdir()
    (out / "result.json").write_text("{}")
    make(out, force=True).close()
    assert sorted(path.name for path in out.iterdir()) == [".lock", "mine"]


def test_force_does_not_touch_a_folder_that_no_run_made(tmp_path: Path) -> None:
    (tmp_path / "artifact").mkdir()
    with pytest.raises(OutputError, match="holds files that no run of hotlap made"):
        make(tmp_path, force=True)
    assert (tmp_path / "artifact").is_dir()


def test_a_second_run_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "hold.py").write_text(
        "import sys\nfrom pathlib import Path\nfrom hotlap.search.folder import RunFolder\n"
        "folder = RunFolder(Path(sys.argv[1]), resume=False, force=False)\n"
        "print('held', flush=True)\nsys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, str(tmp_path / "hold.py"), str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == b"held\n"
    for force in (False, True):
        with pytest.raises(OutputError, match="in use by another run"):
            make(out, force=force)
    holder.kill()
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()
    make(out, force=True).close()


@pytest.mark.parametrize("keeps", [True, False])
def test_work_stays_only_for_a_run_that_takes_it_up(keeps: bool, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, resume=False, force=False, keeps_work=keeps)
    (tmp_path / "journal.jsonl").write_text("begun")
    (folder.work / "part").write_text("")
    folder.close()
    assert (tmp_path / "work" / "part").exists() == folder.work.exists() == keeps


@pytest.mark.parametrize("force", [False, True])
def test_a_disk_without_room_leaves_nothing_and_says_how_much_is_needed(
    force: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if force:
        begun(tmp_path / "out")
    before = sorted(tmp_path.rglob("*"))
    with monkeypatch.context() as patch:
        patch.setattr(folder_module.shutil, "disk_usage", lambda path: SimpleNamespace(free=200 * 2**20))
        with pytest.raises(OutputError, match="200 MiB of disk are free; make room first: at least 256 MiB are needed"):
            make(tmp_path / "out", force=force)
    assert sorted(tmp_path.rglob("*")) == before
    make(tmp_path / "out", force=force).close()


def test_resume_wants_a_run(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="there is no run in"):
        make(tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()


def test_a_file_and_an_unwritable_place_are_said(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(OutputError, match="is a file; give a folder"):
        make(file)
    with pytest.raises(OutputError, match="can't be written"):
        make(Path("/proc/hotlap"))
    assert os.path.exists(file)


def test_a_name_too_long_for_the_disk_is_said(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="can't be written: File name too long"):
        make(tmp_path / ("a" * 300))


@pytest.mark.parametrize("linked", [True, False], ids=["", "no second names"])
def test_a_file_that_may_not_be_overwritten_is_not(
    linked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    if not linked:
        monkeypatch.setattr(os, "link", no_link)
    file = tmp_path / "rows"
    with written_whole(file, overwrite=False) as part:
        part.write_text("mine")
    assert file.read_text() == "mine"
    with (
        pytest.raises(OutputError, match="rows was made by another run meanwhile; name another file, or remove it"),
        written_whole(file, overwrite=False) as part,
    ):
        part.write_text("late")
    assert file.read_text() == "mine"
    with written_whole(file) as part:
        part.write_text("newer")
    assert file.read_text() == "newer"
    assert [one.name for one in tmp_path.iterdir()] == ["rows"]


def test_a_folder_that_was_empty_is_empty_again_where_nothing_was_begun(tmp_path: Path) -> None:
    make(tmp_path).close()
    assert list(tmp_path.iterdir()) == []
    folder = make(tmp_path)
    (tmp_path / "mine").touch()
    folder.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "mine"]
