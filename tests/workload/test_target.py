"""Every target form, and every way a target can be wrong."""

from __future__ import annotations

import hashlib
import pickle
import re
import sys

import pytest

from hotlap.errors import TargetError
from hotlap.workload.opened import open_workload
from hotlap.workload.target import load_target, target_of

ONE = "w = Workload(model=lambda: nn.Linear(4, 3).eval(), example=lambda batch: torch.randn(batch, 4))\n"
TWO = ONE + "v = Workload(model=lambda: nn.Linear(4, 2).eval(), example=lambda batch: torch.randn(batch, 4))\n"


def test_file_with_one_workload(write):
    path = write(ONE)
    loaded = load_target(str(path))
    assert loaded.name == "mine"
    assert loaded.target == f"{path}:w"
    assert loaded.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.weights is None


def test_a_relative_path_becomes_absolute(write, monkeypatch):
    path = write(ONE)
    monkeypatch.chdir(path.parent)
    assert load_target("mine.py").target == f"{path}:w"


def test_named_workload_in_a_file(write):
    path = write(TWO)
    assert load_target(f"{path}:v").workload.model().out_features == 2
    assert load_target(f"{path}:w").workload.model().out_features == 3


def test_named_workload_in_a_module(write, monkeypatch):
    write("", "pack/__init__.py", head="")
    path = write(ONE, "pack/inner.py")
    monkeypatch.syspath_prepend(path.parents[1])
    loaded = load_target("pack.inner:w")
    assert (loaded.name, loaded.target) == ("inner", "pack.inner:w")
    assert loaded.digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_module_in_the_current_folder(write, monkeypatch):
    monkeypatch.chdir(write(ONE, "right_here.py").parent)
    assert load_target("right_here:w").name == "right_here"


def test_what_loading_gives_can_be_loaded_again(write):
    loaded = load_target(str(write(ONE)))
    again = load_target(loaded.target)
    assert (again.target, again.digest) == (loaded.target, loaded.digest)


def test_own_name_wins_over_the_files(write):
    assert load_target(str(write(ONE.replace("model=", "name='digits-2.1', model=")))).name == "digits-2.1"


def test_one_workload_under_two_names_counts_once(write):
    assert load_target(str(write(ONE + "same = w\n"))).target.endswith(":w")


def test_neighbours_are_imported_even_later(write):
    write("SIZE = 7\n", "neighbour_early.py", head="")
    write("SIZE = 8\n", "neighbour_late.py", head="")
    path = write(
        "from neighbour_early import SIZE\n"
        "def build():\n    import neighbour_late\n    return nn.Linear(SIZE, neighbour_late.SIZE)\n"
        "w = Workload(model=build, example=lambda batch: torch.randn(batch, SIZE))\n"
    )
    assert load_target(str(path)).workload.model().out_features == 8


def test_neighbours_of_the_same_name_are_not_mixed_up(write):
    body = (
        "from architecture import SIZE\nw = Workload(model=lambda: nn.Linear(SIZE, 1), "
        "example=lambda batch: torch.randn(batch, SIZE))\n"
    )
    for folder, size in (("a", 3), ("b", 5)):
        write(f"SIZE = {size}\n", f"{folder}/architecture.py", head="")
        path = write(body, f"{folder}/mine.py")
        assert load_target(str(path)).workload.model().in_features == size


def test_a_changed_file_is_run_again_an_unchanged_one_is_not(write):
    first = load_target(str(write(ONE)))
    assert load_target(first.target).workload is first.workload
    second = load_target(str(write(ONE + "# changed\n")))
    assert second.workload is not first.workload
    assert second.digest != first.digest


def test_dataclasses_and_pickles_work_inside(write):
    path = write(
        "from __future__ import annotations\nfrom dataclasses import dataclass, field\n"
        "@dataclass\nclass Point:\n    x: int = 0\n    seen: list[int] = field(default_factory=list)\n"
        "import torch\nfrom torch import nn\nfrom hotlap import Workload\n" + ONE,
        head="",
    )
    module = sys.modules[load_target(str(path)).workload.model.__module__]
    point = module.Point(x=3)
    assert pickle.loads(pickle.dumps(point)) == point


def test_what_a_file_prints_goes_to_stderr(write, capsys):
    load_target(str(write("print('loading')\n" + ONE)))
    assert capsys.readouterr() == ("", "loading\n")


def test_a_workload_is_named_by_its_file(write):
    path = write(TWO)
    loaded = load_target(f"{path}:v")
    assert target_of(loaded.workload) == loaded.target == f"{path}:v"
    assert load_target(target_of(loaded.workload)).workload is loaded.workload


def test_a_target_names_itself(tmp_path):
    assert target_of("package.module:w") == "package.module:w"
    assert target_of(tmp_path) == str(tmp_path)


def test_a_workload_without_a_file_has_no_target():
    from hotlap import Workload

    with pytest.raises(TargetError, match=r"has no name at the top of a file, .*; put it into a file of its own"):
        target_of(Workload(model=list, example=list))


# Trained weights


def trained(folder, model):
    from safetensors.torch import save_model

    folder.mkdir()
    save_model(model, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("name", ["run", "me@host"])
def test_trained_weights_are_loaded(write, tmp_path, name):
    import torch

    weights = torch.nn.Linear(4, 3)
    folder = trained(tmp_path / name, weights)
    path = write(ONE)
    loaded = load_target(f"{path}@{folder}")
    assert loaded.target == f"{path}:w@{folder}"
    assert loaded.weights == folder / "model.safetensors"
    assert loaded.digest != load_target(str(path)).digest
    opened = open_workload(load_target(loaded.target))
    assert torch.equal(opened.model.weight, weights.weight)


def test_trained_weights_that_do_not_fit(write, tmp_path):
    import torch

    folder = trained(tmp_path / "run", torch.nn.Linear(4, 9))
    told = r"model\.safetensors does not fit the model of 'mine': 2 have another shape \('.+': \[9.*\], not \[3.*\]\)"
    with pytest.raises(TargetError, match=told):
        open_workload(load_target(f"{write(ONE)}@{folder}"))


def test_trained_weights_with_other_names(write, tmp_path):
    import torch

    folder = trained(tmp_path / "run", torch.nn.Sequential(torch.nn.Linear(4, 3)))
    with pytest.raises(TargetError, match=r"it lacks 2 of 2 tensors \('weight'\), 2 of its 2 are unknown to the model"):
        open_workload(load_target(f"{write(ONE)}@{folder}"))


def test_damaged_trained_weights(write, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(TargetError, match=r"model\.safetensors is damaged: "):
        open_workload(load_target(f"{write(ONE)}@{tmp_path / 'run'}"))


def test_trained_folder_without_weights(write, tmp_path):
    with pytest.raises(TargetError, match=r"nowhere holds no model\.safetensors; after @ give the folder that"):
        load_target(f"{write(ONE)}@{tmp_path / 'nowhere'}")


def test_an_at_sign_in_the_path_itself(write):
    assert load_target(str(write(ONE, "a@b/mine.py"))).weights is None


# Errors


def refused(target, match):
    with pytest.raises(TargetError, match=match) as caught:
        load_target(str(target))
    assert "\n" not in str(caught.value)


def test_no_such_file(tmp_path):
    refused(tmp_path / "gone.py", r"^no such file: .*gone\.py$")


def test_a_folder_of_that_name(tmp_path):
    (tmp_path / "odd.py").mkdir()
    refused(tmp_path / "odd.py", r"odd\.py' can't be read: Is a directory")


def test_a_nul_in_the_path():
    refused("a\0b.py", r"can't be read: ")


def test_file_that_raises_shows_the_users_own_line(write):
    path = write("def helper():\n    raise ValueError('no weights here')\n\nhelper()\n")
    refused(path, r"mine\.py can't be imported: ValueError: no weights here \(.*mine\.py:5: raise ValueError\(")


def test_file_whose_library_call_raises_shows_the_users_line_not_the_librarys(write):
    refused(write("import json\njson.loads('{')\n"), r"JSONDecodeError: .*mine\.py:5: json\.loads\('\{'\)\)$")


def test_file_with_a_syntax_error(write):
    refused(
        write("w = Workload(\n"),
        r"mine\.py can't be imported: SyntaxError: '\(' was never closed \(.*mine\.py:4: w = ",
    )


def test_file_that_exits(write):
    refused(write("import sys\nsys.exit(3)\n"), r"can't be imported: SystemExit: 3 \(.*mine\.py:5: sys\.exit\(3\)\)$")


def test_file_that_imports_what_is_not_there(write):
    refused(write("import no_such_thing_at_all\n"), r"ModuleNotFoundError: No module named 'no_such_thing_at_all' \(")


def test_a_file_that_failed_leaves_no_module_behind(write):
    before = set(sys.modules)
    refused(write("1 / 0\n"), "ZeroDivisionError")
    assert set(sys.modules) == before


def test_no_workload(write):
    refused(write("x = 1\n"), r"mine\.py holds no Workload; write `workload = hotlap\.Workload\(")


def test_several_workloads(write):
    path = write(TWO)
    refused(path, rf"holds several workloads \(w, v\); say which one, as in {re.escape(str(path))}:w$")


def test_name_that_is_not_there(write):
    refused(f"{write(TWO)}:u", r"has nothing called 'u'; its workloads: w, v$")


def test_name_that_is_no_workload(write):
    refused(f"{write('x = 1')}:x", r"mine\.py:x is of type int, not a Workload; it holds no Workload$")


def test_no_such_module():
    refused("no_such_package.inner:w", r"^no module named 'no_such_package'; is it installed, or in this folder\?$")


def test_module_that_raises(write, monkeypatch):
    monkeypatch.syspath_prepend(write("1 / 0\n", "breaks_on_import.py").parent)
    refused(
        "breaks_on_import:w",
        r"breaks_on_import can't be imported: ZeroDivisionError: .*breaks_on_import\.py:4: 1 / 0",
    )


def test_module_that_imports_what_is_not_there(write, monkeypatch):
    monkeypatch.syspath_prepend(write("import not_there_either\n", "imports_nothing.py").parent)
    refused("imports_nothing:w", r"imports_nothing can't be imported: ModuleNotFoundError: .*'not_there_either'")


@pytest.mark.parametrize("name", ["no spaces", "-dash", "..", "a/b", "ü", "x\n"])
def test_bad_name(write, name):
    path = write(ONE.replace("model=", f"name={name!r}, model="))
    refused(path, r"can't be a workload's name; set `name` to letters, digits, '\.', '_' and '-'")


def test_bad_name_of_the_file(write):
    refused(write(ONE, "my model.py"), r"'my model' can't be a workload's name; set `name`")


def test_name_that_is_no_text(write):
    refused(write(ONE.replace("model=", "name=3, model=")), r"3 can't be a workload's name")


def test_artifact_where_a_workload_is_needed(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    refused(tmp_path, r"is an artifact where a workload is needed; write it as FILE\.py, FILE\.py:NAME or package")


def test_folder(tmp_path):
    refused(tmp_path, r"is a folder, neither a workload nor an artifact; write it as FILE\.py")


def test_some_other_file(tmp_path):
    (tmp_path / "model.onnx").touch()
    refused(tmp_path / "model.onnx", r"model\.onnx is not a Python file; write it as FILE\.py")


@pytest.mark.parametrize("target", ["", "digits", "a b:c", ":", "@", "x@y", "1.2:w"])
def test_what_is_no_target(target):
    refused(target, r"^'.*' is not a target, and no file or folder either; write it as FILE\.py|is a folder")
