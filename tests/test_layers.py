"""Imports point down the list of parts only; importing hotlap and asking for help stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import hotlap

SOURCE = Path(hotlap.__file__).parent
LAYERS = (
    "__main__", "cli",
    "actions", "report", "features", "training",
    "search", "gate", "artifact", "techniques", "forms", "profiling", "runtimes",
    "workload", "measure", "machine", "core", "errors",
)  # fmt: skip
APART = ("techniques", "runtimes")
"""Folders whose files don't import each other. What several share stands in a file that is in no table."""
HEAVY = (
    "torch", "onnx", "onnxruntime", "openvino", "nncf", "scipy", "ray", "feast", "polars", "pyarrow", "pandas",
    "transformers",
)  # fmt: skip


def imports(path: Path) -> set[str]:
    """Every module of hotlap's that a file imports, inside functions too, by its full name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("hotlap.")}


def modules() -> list[Path]:
    return [path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py"]


def layer(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def breaches(path: Path, found: set[str]) -> list[str]:
    own = LAYERS.index(layer(path))
    return [name for name in found if name.split(".")[1] in LAYERS and LAYERS.index(name.split(".")[1]) < own]


def test_every_file_is_in_a_layer() -> None:
    assert {layer(path) for path in modules()} <= set(LAYERS)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down(path: Path) -> None:
    assert breaches(path, imports(path)) == []


def test_the_check_can_fail(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def f():\n    from hotlap.search import run\n")
    assert breaches(SOURCE / "measure" / "worker.py", imports(tmp_path / "bad.py"))


@pytest.mark.parametrize("part", APART)
def test_techniques_and_runtimes_stay_apart(part: str) -> None:
    from importlib import import_module

    table = getattr(import_module(f"hotlap.{part}"), part.upper())
    for home in table.values():
        path = SOURCE / part / f"{home.rsplit('.', 1)[1]}.py"
        assert not imports(path) & (set(table.values()) - {home}), path
        other = APART[1 - APART.index(part)]
        assert not [name for name in imports(path) if name.startswith(f"hotlap.{other}")], path


def loaded_by(code: str) -> set[str]:
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(' '.join(sys.modules))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(run.stdout.split())


def test_importing_hotlap_loads_nothing_heavy() -> None:
    assert not loaded_by("import hotlap") & {*HEAVY, "numpy", "pydantic"}


def test_the_command_lines_help_loads_nothing_heavy() -> None:
    code = "from hotlap.cli.main import run\nassert run(['--help']) == 0"
    assert not loaded_by(code) & {*HEAVY, "numpy"}


def test_the_parent_of_a_search_loads_neither_torch_nor_a_runtime() -> None:
    assert not loaded_by("import hotlap.actions.optimize") & set(HEAVY)


def test_public_names_are_pinned() -> None:
    assert sorted(hotlap.__all__) == dir(hotlap)
    for name in hotlap.__all__:
        assert getattr(hotlap, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = hotlap.nothing
