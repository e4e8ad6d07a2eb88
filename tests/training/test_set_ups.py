"""Which set-ups are tried, and why the others are not."""

from typing import Any

import pytest

from hotlap.training.set_ups import Change, changes, thriftier
from hotlap.training.settings import Settings

STUDY: dict[str, Any] = {
    "images": True, "fused": True, "optimizer": "AdamW", "not_exact": {}, "repeated": 3, "locked": [],
}  # fmt: skip


def by_name(settings: Settings | None = None, *, compiler: bool = True, **study: Any) -> dict[str, Change]:
    found = changes({**STUDY, **study}, settings or Settings(), compiler=compiler)
    return {change.name: change for change in found}


def test_all_is_tried_where_all_makes_sense() -> None:
    tried = [name for name, change in by_name().items() if change.reason is None]
    assert tried == [
        "bf16", "channels_last", "fused optimizer", "1 loader process", "2 loader processes", "passes of 32", "compile",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("study", "name", "words"),
    [
        ({"images": False}, "channels_last", "no weight has 4 axes"),
        ({"fused": False, "optimizer": "NAdam"}, "fused optimizer", "NAdam has no fused form"),
        ({"locked": ["workers"]}, "1 loader process", "`training` gives batches of its own"),
        ({"locked": ["micro_batch"]}, "passes of 32", "`training` gives batches of its own"),
        ({"not_exact": {"randomness": ["x"]}}, "passes of 32", "layers with randomness would give another result"),
    ],
)
def test_what_makes_no_sense_says_why(study: Any, name: str, words: str) -> None:
    assert words in (by_name(**study)[name].reason or "")


def test_no_compiler_no_compiling() -> None:
    assert by_name(compiler=False)["compile"].reason == "there is no C++ compiler here"


def test_fp16_and_pinned_memory_are_for_cuda() -> None:
    assert by_name()["fp16"].reason
    cuda = by_name(Settings(device="cuda"))
    assert cuda["fp16"].reason is None
    assert cuda["pinned memory"].reason is None


def test_no_change_touches_what_a_step_computes() -> None:
    for change in by_name().values():
        assert not {"batch_size", "epochs", "accumulation", "seed", "schedule", "clip", "ema"} & set(change.settings)


def test_what_needs_less_memory_keeps_the_result() -> None:
    assert [change.name for change in thriftier(STUDY, Settings(batch_size=8))] == [
        "checkpointing", "passes of 4", "passes of 2", "passes of 1",
    ]  # fmt: skip
    statistics = {**STUDY, "not_exact": {"batch statistics": ["norm"]}}
    assert [change.name for change in thriftier(statistics, Settings())] == ["checkpointing"]
