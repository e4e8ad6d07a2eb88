"""What the README and the docs say is run: Python that is marked so, and every command line's words."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_artifact
import typer

from hotlap.cli.main import build_app

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?:<!-- run: (\w+) -->\n)?```(\w+)\n(.*?)```", re.DOTALL)


def blocks(language: str, mark: str = "") -> list[tuple[str, str]]:
    """(page, code) of every block in a language, or only of those with that mark."""
    return [
        (page.name, code)
        for page in PAGES
        for found, name, code in BLOCK.findall(page.read_text())
        if name == language and (not mark or found == mark)
    ]


def command_lines() -> list[tuple[str, str]]:
    lines = [(page, line) for page, code in blocks("sh") for line in code.replace("\\\n", " ").splitlines()]
    return [(page, line.split("#")[0].strip()) for page, line in lines if line.startswith("hotlap ")]


@pytest.mark.parametrize(("page", "line"), command_lines())
def test_every_command_line_in_the_docs_parses(page: str, line: str) -> None:
    words = shlex.split(line)[1:]
    group = typer.main.get_command(build_app())
    with group.make_context("hotlap", list(words)) as context:
        name, command, rest = group.resolve_command(context, words)
        assert command is not None, f"{page}: {line}"
        if hasattr(command, "resolve_command"):
            name, command, rest = command.resolve_command(context, list(rest))
        command.make_context(name, list(rest), parent=context)


def test_commands_that_are_copied_one_after_another_write_to_folders_of_their_own() -> None:
    lines = [shlex.split(line) for _, line in command_lines()]
    outs = [words[words.index("--out") + 1] for words in lines if "--out" in words and "--resume" not in words]
    again = {one for one in outs if outs.count(one) > 1 and "/" in one}
    assert again <= {"runs/digits"}, "README and docs/optimize.md begin with the same search"


@pytest.mark.parametrize(("page", "code"), blocks("python", "workload"))
def test_every_workload_in_the_docs_opens(page: str, code: str, tmp_path: Path) -> None:
    from hotlap.workload.opened import open_workload
    from hotlap.workload.target import load_target

    (tmp_path / "written.py").write_text(code)
    assert open_workload(load_target(str(tmp_path / "written.py"))).signature.inputs


@pytest.mark.parametrize(("page", "code"), blocks("python", "artifact"))
def test_every_use_of_an_artifact_in_the_docs_runs(page: str, code: str, tmp_path: Path) -> None:
    (tmp_path / "runs/digits").mkdir(parents=True)
    tiny_artifact.write_onnx(tmp_path / "model.onnx")
    tiny_artifact.make(tmp_path / "runs/digits/artifact", "onnxruntime", {"model.onnx": tmp_path / "model.onnx"})
    begin = "import numpy as np\nimages = np.zeros((2, 4), np.float32)\n"
    subprocess.run([sys.executable, "-c", begin + code], cwd=tmp_path, check=True)


@pytest.mark.slow
@pytest.mark.parametrize(("page", "code"), blocks("python", "features"))
def test_every_use_of_features_in_the_docs_runs(page: str, code: str, tmp_path: Path) -> None:
    from features import repository

    (tmp_path / "repo").mkdir()
    repository.write(tmp_path / "repo")
    repository.asked(column="departure").write_parquet(tmp_path / "rows.parquet")
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_readme_names_the_two_commands_first() -> None:
    commands = [line.split("#")[0].strip() for line in blocks("sh")[0][1].splitlines()]
    assert commands[:2] == ["make demo", "make test"]
