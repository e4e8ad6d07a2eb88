"""The page is made again from result.json alone, without running anything."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hotlap.errors import InputError
from hotlap.report.make import write_report
from hotlap.report.page import html
from hotlap.report.schema import write_result

DOCS = Path(__file__).parents[2] / "docs" / "report.md"


def test_makes_the_page_again(sample: dict[str, Any], tmp_path: Path) -> None:
    write_result(tmp_path / "result.json", sample)
    (tmp_path / "report.html").write_text("an older one")
    path = write_report(tmp_path / "result.json")
    assert path == tmp_path / "report.html"
    assert path.read_bytes() == html(sample)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["report.html", "result.json"]


def test_a_result_that_is_none_leaves_the_page_alone(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"schema": 1}')
    (tmp_path / "report.html").write_text("an older one")
    with pytest.raises(InputError, match="not a result of hotlap"):
        write_report(tmp_path / "result.json")
    assert (tmp_path / "report.html").read_text() == "an older one"


def test_runs_nothing(sample: dict[str, Any], tmp_path: Path) -> None:
    write_result(tmp_path / "result.json", sample)
    code = (
        "import sys, pathlib; from hotlap.report.make import write_report;"
        "write_report(pathlib.Path('result.json'));"
        "print({'torch', 'onnxruntime', 'openvino', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_documented_code_runs(sample: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "result.json").write_text(json.dumps(sample))
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        exec(compile(block, "docs/report.md", "exec"), {})
    assert (tmp_path / "out" / "report.html").exists()
