"""The schema is the one that other programs are given, our reading of it is jsonschema's, and files are whole."""

from __future__ import annotations

import copy
import errno
import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hotlap.errors import InputError, OutputError
from hotlap.report.schema import read_result, schema, validate, violations, write_result, write_whole

ROOT = Path(__file__).parents[2]
SAMPLE = json.loads((Path(__file__).parent / "sample.json").read_text(encoding="utf-8"))
# Without what the schema says nothing about, so that most changes below touch what it does.
SMALL = {name: SAMPLE[name] for name in schema()["properties"] if name in SAMPLE}
SMALL["candidates"] = [{name: one[name] for name in ("name", "status", "reason")} for one in SAMPLE["candidates"][-2:]]
ORACLE = jsonschema.Draft202012Validator(schema())

SCALARS = st.none() | st.booleans() | st.integers(-2, 2) | st.floats(-2, 2) | st.text(max_size=3)
WORDS = st.sampled_from(["optimize", "tune", "chosen", "failed", "drop", "full", "cpu", "size", ""])
VALUES = SCALARS | WORDS | st.lists(SCALARS, max_size=2) | st.dictionaries(st.text(max_size=2), SCALARS, max_size=2)


def test_schema_is_the_shared_one() -> None:
    shared = ROOT.parent / "shared" / "result.schema.json"
    if not shared.exists():
        pytest.skip("no ../shared beside this checkout")
    assert (ROOT / "src/hotlap/report/result.schema.json").read_bytes() == shared.read_bytes()


def test_every_variation_fits_the_schema(variation: dict[str, Any]) -> None:
    ORACLE.validate(variation)
    assert violations(variation) == []


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [*((path,) if path else ()), *(place for key, item in items for place in _places(item, (*path, key)))]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_reads_the_schema_as_jsonschema_does(data: st.DataObject) -> None:
    result = copy.deepcopy(SMALL)
    for _ in range(data.draw(st.integers(1, 3))):
        *path, last = data.draw(st.sampled_from(_places(result)))
        parent = result
        for key in path:
            parent = parent[key]
        if data.draw(st.booleans()):
            del parent[last]
        else:
            parent[last] = data.draw(VALUES)
    assert (violations(result) == []) == ORACLE.is_valid(result)


@pytest.mark.parametrize("whole", [None, 3, [], "x", {}])
def test_reads_other_documents_as_jsonschema_does(whole: Any) -> None:
    assert (violations(whole) == []) == ORACLE.is_valid(whole)


def test_names_each_field_that_is_wrong() -> None:
    result = copy.deepcopy(SAMPLE)
    del result["limits"]
    result["candidates"][2]["status"] = "great"
    result["best"]["median_ms"] = 0
    result["candidates"][20].pop("reason")
    assert violations(result) == [
        "best.median_ms is 0, not more than 0",
        'candidates[2].status is "great", not one of chosen, passed, rejected, failed, skipped, dropped',
        "candidates[20].reason is missing",
        "limits is missing",
    ]
    with pytest.raises(ValueError, match=r"^not a valid result\.json: .*limits is missing"):
        validate(result)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_refuses_numbers_that_json_lacks(bad: float, tmp_path: Path) -> None:
    result = copy.deepcopy(SAMPLE)
    result["candidates"][1]["drop"]["high"] = bad
    with pytest.raises(ValueError, match=rf"candidates\[1\]\.drop\.high is {bad}, .*write null"):
        write_result(tmp_path / "result.json", result)
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=50, deadline=None)
@given(text=st.text(st.characters(exclude_categories=[]), max_size=20))
def test_what_was_written_is_read(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("result") / "result.json"
    result = {**SMALL, "workload": text, "warnings": [text]}
    write_result(path, result)
    assert read_result(path) == result


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"
    write_result(path, SAMPLE)
    before = path.read_bytes()

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"result\.json: can't be written \(No space left on device\); free space"):
        write_result(path, {**SAMPLE, "seconds": 1})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_says_where_it_could_not_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in ("missing", "file"):
        with pytest.raises(OutputError, match=rf"{folder}/result\.json: can't be written"):
            write_result(tmp_path / folder / "result.json", SAMPLE)


def test_files_have_the_mode_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    write_whole(tmp_path / "whole", b"")
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"result\.json: can't be read \(No such file or directory\); give the result\.json of a run"),
        (b"{", r"result\.json: not JSON \(.*\); give the result\.json of a run"),
        (b"[" * 100_000, r"result\.json: not JSON"),
        (b"\xff", r"result\.json: not UTF-8 text"),
        (b"{}", r"result\.json: not a result of hotlap: schema is missing; kind is missing"),
        (b"[]", r"result\.json: not a result of hotlap: the result is \[\], not object"),
        (b'{"seconds": NaN}', r"seconds is nan"),
    ],
)
def test_says_why_a_file_is_no_result(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_result(path)
