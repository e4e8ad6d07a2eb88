"""Which set-ups are tried, and why the others are not."""

from dataclasses import replace
from typing import Any

import pytest

from hotlap.training.set_ups import Change, changes, idle, once_more, proposal, thriftier, to_prove, together
from hotlap.training.settings import Settings
from hotlap.training.tuner import _skipped_because

STUDY: dict[str, Any] = {
    "bf16_arithmetic": True,
    "images": True, "fused": True, "foreach": True, "optimizer": "AdamW", "in_passes": {"reason": None},
    "repeated": 3, "locked": [], "examples": 1000,
    "trim": {"reason": None},
    "kept_memory": {"reason": None},
    "at_once": {"reason": None},
    "kernels": {"reason": None, "attention": 1, "masked": 100_000},
    "length_buckets": {"reason": None},
}  # fmt: skip
NAMES_BY_LENGTH = "2 passes by length", "up to 4 passes by length"


def by_name(settings: Settings | None = None, *, compiler: bool = True, **study: Any) -> dict[str, Change]:
    found = changes({**STUDY, **study}, settings or Settings(), compiler=compiler)
    return {change.name: change for change in found}


def test_all_is_tried_where_all_makes_sense() -> None:
    tried = [name for name, change in by_name().items() if change.reason is None]
    assert tried == [
        "trimmed padding", "bf16", "channels_last", "attention as plain products", "fast dropout", "2 passes by length",
        "up to 4 passes by length", "fused optimizer", "kept memory", "batches read at once", "1 loader process",
        "2 loader processes", "4 batches read ahead", "passes of 32", "passes of 16", "compile",
    ]  # fmt: skip


def test_bf16_comes_last_where_the_cpu_has_no_arithmetic_for_it() -> None:
    tried = [name for name, change in by_name(bf16_arithmetic=False).items() if change.reason is None]
    assert tried[-2:] == ["compile", "bf16"]
    assert tried[:-1] == [name for name, change in by_name().items() if change.reason is None and name != "bf16"]


@pytest.mark.parametrize(
    ("study", "name", "words"),
    [
        ({"trim": {"reason": "the model looks at it"}}, "trimmed padding", "the model looks at it"),
        ({"kernels": {"reason": None, "attention": 0, "masked": 0}}, "fast dropout", "draws no large masks"),
        ({"kernels": {"reason": None, "attention": 0, "masked": 0}}, "attention as plain products", "does not call"),
        ({"kernels": {"reason": "once", "attention": 0, "masked": 0}}, "fast dropout", "once"),
        ({"length_buckets": {"reason": "one length"}}, "2 passes by length", "one length"),
        ({"images": False}, "channels_last", "no weight has 4 axes"),
        ({"fused": False, "optimizer": "NAdam"}, "fused optimizer", "NAdam has no fused form"),
        ({"kept_memory": {"reason": "no mallopt"}}, "kept memory", "no mallopt"),
        ({"locked": ["workers"]}, "1 loader process", "`training` gives batches of its own"),
        ({"locked": ["micro_batch"]}, "passes of 32", "`training` gives batches of its own"),
        ({"in_passes": {"reason": "layers with randomness"}}, "passes of 32", "layers with randomness"),
    ],
)
def test_what_makes_no_sense_says_why(study: Any, name: str, words: str) -> None:
    assert words in (by_name(**study)[name].reason or "")


def test_what_hangs_on_something_is_tried_upon_it_only() -> None:
    found = by_name()
    assert found["4 batches read ahead"].upon == ("1 loader process", "2 loader processes")
    assert found["passes of 16"].upon == ("passes of 32",)
    assert found["passes of 32"].upon == ()


def test_a_step_that_hardly_waits_gets_no_loader_process() -> None:
    found = by_name()
    for name in ("batches read at once", "1 loader process", "2 loader processes", "4 batches read ahead"):
        assert idle(found[name], 0.004) == "a step waits 0.4% of its time for data: there is nothing to gain"
        assert idle(found[name], 0.02) is None
    assert idle(found["bf16"], 0.0) is None


def test_a_step_that_mostly_waits_gets_loader_processes_first() -> None:
    found = changes(STUDY, Settings(), compiler=True, loading_share=0.9)
    assert [change.name for change in found[:4]] == [
        "batches read at once",
        "1 loader process",
        "2 loader processes",
        "4 batches read ahead",
    ]


def test_an_optimizer_without_a_fused_form_may_have_the_other() -> None:
    assert "foreach optimizer" not in by_name()
    assert by_name(fused=False)["foreach optimizer"].settings == {"foreach": True}
    assert "foreach optimizer" not in by_name(fused=False, foreach=False)


def test_other_batch_sizes_are_tried_where_asked_for_and_their_rate_is_proposed() -> None:
    assert not [name for name in by_name() if name.startswith("batch size")]
    found = {change.name: change for change in changes(STUDY, Settings(), compiler=True, other_batch_sizes=True)}
    assert found["batch size 128"].settings == {"batch_size": 128}
    assert found["batch size 256"].upon == ("batch size 128",)
    own, best = Settings(), Settings(batch_size=256)
    assert "Usual for SGD: 4 times the rate (linearly" in (proposal(own, best, "SGD") or "")
    assert "Usual for AdamW: 2 times the rate (with the square root" in (proposal(own, best, "AdamW") or "")
    assert proposal(own, own, "SGD") is None


def test_a_batch_size_that_the_data_does_not_give_is_not_tried() -> None:
    found = {c.name: c for c in changes(STUDY, Settings(batch_size=256), compiler=True, other_batch_sizes=True)}
    assert found["batch size 512"].reason is None
    assert found["batch size 1024"].reason == "the data has 1,000 examples only"
    warm = changes(STUDY, Settings(epochs=2, warmup=10), compiler=True, other_batch_sizes=True)
    reasons = {one.name: one.reason for one in warm if one.name.startswith("batch size")}
    assert reasons["batch size 128"] is None
    assert reasons["batch size 256"] == "the whole training has 8 steps then, and the warmup 10"
    locked = {**STUDY, "examples": None, "locked": ["batch_size"]}
    last = changes(locked, Settings(), compiler=True, other_batch_sizes=True)[-2]
    assert "batches of its own" in (last.reason or "")


def test_smaller_passes_are_smaller_than_those_there_are() -> None:
    def passes(settings: Settings) -> list[str]:
        return [name for name in by_name(settings) if name.startswith("passes of")]

    assert passes(Settings(batch_size=64, micro_batch=32)) == ["passes of 16", "passes of 8"]
    assert passes(Settings(batch_size=20_000)) == ["passes of 500", "passes of 250"]
    assert "passes of 500" in [change.name for change in thriftier(STUDY, Settings(batch_size=20_000))][1]
    assert "checkpointing" in by_name()
    assert "checkpointing" not in by_name(Settings(checkpointing=True))


def test_what_may_take_memory_is_marked() -> None:
    found = changes(STUDY, Settings(), compiler=True, other_batch_sizes=True)
    assert [change.name for change in found if change.holds_more] == [
        "kept memory", "1 loader process", "2 loader processes", "4 batches read ahead", "batch size 128",
        "batch size 256",
    ]  # fmt: skip


def test_a_proof_falls_back_to_the_own_number_format() -> None:
    own = Settings()
    fused = Settings(fused=True)
    both = Settings(fused=True, precision="bf16")
    assert to_prove(own, both) == [both, fused]
    assert to_prove(own, fused) == [fused]
    assert to_prove(own, Settings(precision="bf16")) == [Settings(precision="bf16")]


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
    statistics = {**STUDY, "in_passes": {"reason": "layers with batch statistics"}}
    assert [change.name for change in thriftier(statistics, Settings())] == ["checkpointing"]


def test_harmless_changes_are_tried_together_where_there_are_two() -> None:
    bf16, fused, kept = (
        Change(name="bf16", settings={"precision": "bf16"}),
        Change(name="fused optimizer", settings={"fused": True}),
        Change(name="kept memory", settings={"keep_memory": True}, holds_more=True, most_memory=1.25),
    )
    whole, *others = together([bf16, fused, kept], 0.0)
    assert (whole.name, whole.settings) == ("fused optimizer + kept memory", {"fused": True, "keep_memory": True})
    assert (whole.holds_more, whole.most_memory, whole.reason) == (True, 1.25, None)
    assert others == [bf16, replace(fused, within=whole.name), replace(kept, within=whole.name)]
    for few in ([bf16, fused], [bf16, fused, replace(kept, reason="no glibc")]):
        assert together(few, 0.0) == few


@pytest.mark.parametrize(("kept", "harmless"), [(0.6, True), (0.85, False)])
def test_two_passes_by_length_are_among_the_harmless_where_they_save_much(kept: float, harmless: bool) -> None:
    study = {"trim": {"reason": None, "kept": 0.9}, "length_buckets": {"reason": None, "kept": kept}}
    found = list(by_name(**study).values())
    whole, *others = together(found, 0.0)
    assert (whole.settings.get("length_buckets") == 2) == harmless
    assert whole.settings["trim"]
    two, four = (next(one for one in others if one.name == name) for name in NAMES_BY_LENGTH)
    assert (two.within == whole.name) == harmless
    # Four are tried where two were taken, alone or with the others.
    assert four.upon == (NAMES_BY_LENGTH[0], *([whole.name] if harmless else []))
    rows = [{"name": whole.name, "status": "passed"}, {"name": two.name, "status": "skipped", "reason": "within"}]
    assert (_skipped_because(four, rows, 0.0) is None) == harmless


def test_harmless_changes_that_one_look_rejected_are_looked_at_once_more() -> None:
    tried = [
        Change(name="bf16", settings={"precision": "bf16"}),
        Change(name="fused optimizer", settings={"fused": True}),
        Change(name="kept memory", settings={"keep_memory": True}, holds_more=True),
        Change(name="trimmed padding", settings={"trim": True}),
        Change(name="channels_last", settings={"layout": "channels_last"}),
    ]
    rows: list[Any] = [{"name": one.name, "status": "rejected", "speedup": {"estimate": 1.0}} for one in tried[:3]]
    again = once_more(tried, rows)
    assert again is not None
    assert again.name == "fused optimizer + kept memory, once more"
    assert (again.settings, again.holds_more) == ({"fused": True, "keep_memory": True}, True)
    layout = once_more(tried, [{**rows[0], "name": "channels_last"}])
    assert layout is not None
    assert layout.settings == {"layout": "channels_last"}
    # What was tried together, and rejected, is there by its parts.
    joint = together(tried[1:4], 0.0)
    both = once_more(joint, [{**rows[0], "name": one.name} for one in joint[:3]])
    assert both is not None
    assert both.name == "fused optimizer + kept memory, once more"
    # Neither those that were hopeless or failed, nor another number format.
    assert once_more(tried, [{"name": "fused optimizer", "status": "rejected"}, rows[0]]) is None
