"""OpenVINO's files are changed as an attacker would, with all digests made right: refused, and no process dies."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import tiny_artifact

CONSTANT = r'<data element_type="f32" shape="3, 4" offset="0" size="48" />'
CHANGES = {
    "offset past the end": (CONSTANT, '<data element_type="f32" shape="3, 4" offset="1099511627776" size="48" />'),
    "negative offset": (CONSTANT, '<data element_type="f32" shape="3, 4" offset="-8" size="48" />'),
    "offset and size wrap": (CONSTANT, f'<data element_type="f32" shape="3, 4" offset="{2**64 - 16}" size="48" />'),
    "size wraps": (CONSTANT, f'<data element_type="f32" shape="3, 4" offset="0" size="{2**64 - 8}" />'),
    "less than its shape": (CONSTANT, '<data element_type="f32" shape="3, 4" offset="0" size="8" />'),
    "shape past the file": (CONSTANT, '<data element_type="f32" shape="300000, 4" offset="0" size="48" />'),
    "product overflows": (CONSTANT, f'<data element_type="f32" shape="{2**62}, 4" offset="0" size="48" />'),
    "negative shape": (CONSTANT, '<data element_type="f32" shape="-3, -4" offset="0" size="48" />'),
    "another type": (CONSTANT, '<data element_type="string" shape="3, 4" offset="0" size="48" />'),
    "a layer that feeds itself": (r'<edge from-layer="1"', '<edge from-layer="2"'),
    "two layers of one number": (r'<layer id="1"', '<layer id="0"'),
    "entities": (r"\?>", '?>\n<!DOCTYPE net [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]>'),
}
LOADING = """
import json, sys
from hotlap import load
from hotlap.errors import ArtifactRefused
answers = {}
for name in sys.argv[1:]:
    try:
        load(name)
        answers[name] = "loaded"
    except ArtifactRefused as error:
        answers[name] = str(error)
print(json.dumps(answers))
"""


def test_what_points_outside_its_bytes_or_makes_no_sense_is_refused(tmp_path: Path) -> None:
    tiny_artifact.write_openvino(tmp_path / "model.xml")
    files = {name: tmp_path / name for name in ("model.xml", "model.bin")}
    whole = tiny_artifact.make(tmp_path / "whole", "openvino", files)
    text = (whole / "model.xml").read_text()
    for name, (old, new) in CHANGES.items():
        changed, count = re.subn(old, lambda _, new=new: new, text, count=1)
        assert count == 1, name
        shutil.copytree(whole, tmp_path / name)
        (tmp_path / name / "model.xml").write_text(changed)
        tiny_artifact.reseal(tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-c", LOADING, "whole", *CHANGES], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert answers.pop("whole") == "loaded"
    for name, answer in answers.items():
        assert answer.startswith(f"{name} is refused: "), (name, answer)
