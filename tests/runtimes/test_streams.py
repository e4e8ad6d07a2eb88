"""Several calls at once give what each gives alone, in their order."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_artifact
from hypothesis import given
from hypothesis import strategies as st

import hotlap
from hotlap.core import Candidate
from hotlap.errors import ArtifactRefused, InputError
from hotlap.measure import timing
from hotlap.runtimes.streams import Streams, streams, threads_each, to_time

FILES = {"onnxruntime": ["model.onnx"], "openvino": ["model.xml", "model.bin"]}


@given(count=st.integers(1, 4), calls=st.integers(0, 20))
def test_answers_come_in_the_order_of_the_calls_which_are_taken_as_needed(count: int, calls: int) -> None:
    taken = 0

    def given_calls() -> Iterator[list[np.ndarray]]:
        nonlocal taken
        for index in range(calls):
            taken += 1
            yield [np.array([index])]

    found = Streams(lambda arrays: [arrays[0] * 2], count).map(given_calls())
    for index in range(calls):
        (answer,) = next(found)
        assert answer[0] == 2 * index
        assert taken <= index + 2 * count
    with pytest.raises(StopIteration):
        next(found)


def test_so_many_calls_run_at_the_same_time() -> None:
    together = threading.Barrier(3)

    def session(arrays: list[np.ndarray]) -> list[np.ndarray]:
        together.wait(30)  # It breaks unless three are here.
        return arrays

    assert len(list(Streams(session, 3).map([[np.zeros(1)]] * 6))) == 6


def test_a_call_that_fails_is_told_to_who_asks() -> None:
    def session(arrays: list[np.ndarray]) -> list[np.ndarray]:
        if arrays[0][0] == 2:
            raise ValueError("the third")
        return arrays

    found = Streams(session, 2).map([[np.array([index])] for index in range(5)])
    assert [next(found)[0][0], next(found)[0][0]] == [0, 1]
    with pytest.raises(ValueError, match="the third"):
        next(found)


def test_a_time_is_one_calls_share() -> None:
    calls: list[int] = []

    def session(arrays: list[np.ndarray]) -> list[np.ndarray]:
        calls.append(1)
        return arrays

    call, count = to_time(session, {"streams": 3}, [np.zeros(2)])
    call()
    assert (count, len(calls)) == (12, 12)
    assert to_time(session, {}, [np.zeros(2)])[1] == 1
    assert (streams({}), threads_each({}, 4), threads_each({"streams": 2}, 5), threads_each({"streams": 4}, 2)) == (
        1,
        4,
        2,
        1,
    )

    state: dict[str, Any] = {"call": lambda: None, "calls_in_one": 4}
    answer = timing.block(state, seconds=0.001)
    assert answer["times_ms"].sum() * 4 == pytest.approx(1000 * answer["timed_seconds"])


def artifact(folder: Path, runtime: str, count: int, **options: Any) -> Path:
    name = FILES[runtime][0]
    {"onnxruntime": tiny_artifact.write_onnx, "openvino": tiny_artifact.write_openvino}[runtime](folder / name)
    chosen = {"streams": count, **options} if count > 1 else options
    return tiny_artifact.make(
        folder / "artifact",
        runtime,
        {name: folder / name for name in FILES[runtime]},
        candidate=Candidate(runtime=runtime, threads=2, name=runtime, options=tuple(sorted(chosen.items()))),
    )


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("runtime", FILES)
def test_an_artifact_of_several_streams_may_be_called_from_many_threads(
    runtime: str, fixed: bool, tmp_path: Path
) -> None:
    shapes = {"static": True, "fixed_axes": {"batch": 2}} if fixed else {}
    model = hotlap.load(artifact(tmp_path, runtime, 2, **shapes))
    assert model.streams == 2
    random = np.random.default_rng(0)
    # Of the fixed shape and of others, which are compiled when they first come, perhaps by two threads at once.
    inputs = [random.standard_normal((1 + index % 3, 4)).astype(np.float32) for index in range(300)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(model, inputs))
    for got, mapped, given_input in zip(found, model.map(inputs), inputs, strict=True):
        wanted = given_input @ tiny_artifact.WEIGHT
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(got, mapped)


@pytest.mark.parametrize("count", [1, 2])
def test_map_takes_calls_as_the_model_does(count: int, tmp_path: Path) -> None:
    model = hotlap.load(artifact(tmp_path, "onnxruntime", count))
    x = tiny_artifact.INPUTS[0]
    for got in model.map([x, (x,), {"x": x}]):
        np.testing.assert_array_equal(got, model(x))
    with pytest.raises(InputError, match="the model has no input 'z'"):
        list(model.map([{"z": x}]))


@pytest.mark.parametrize("count", [0, -1, 10**9, 1.5, True, "2", None])
@pytest.mark.parametrize("runtime", FILES)
def test_an_artifact_that_asks_for_endless_streams_is_refused(runtime: str, count: Any, tmp_path: Path) -> None:
    folder = artifact(tmp_path, runtime, 1)
    tiny_artifact.reseal(folder, lambda manifest: manifest["candidate"].update(options=[["streams", count]]))
    with pytest.raises(ArtifactRefused, match=r"streams is .*, not a whole number from 1 to 1,024"):
        hotlap.load(folder)
