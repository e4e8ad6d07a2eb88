"""What a worker tells of an error."""

import pytest

from hotlap.measure.worker_main import _describe


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "Exception from src/inference/src/cpp/core.cpp:109:\nException from src/plugin.cpp:53:\nno such primitive",
            "no such primitive",
        ),
        (
            "Check 'shape.is_static()' failed at src/core/src/model.cpp:12:\n\nthe shape must be known\nmore",
            "the shape must be known",
        ),
        ("Exception from src/a.cpp:1:", "Exception from src/a.cpp:1:"),
        ("", "RuntimeError"),
        ("one line", "one line"),
    ],
)
def test_the_first_line_that_says_something_is_told(said: str, told: str) -> None:
    assert _describe(RuntimeError(said))["message"] == told
