"""A workload's `features`: read and checked before any work, each mistake named."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotlap.errors import WorkloadError
from hotlap.workload.features import Feature, holds, read_features, to_ask
from hotlap.workload.target import load_target

FOUR = "['w:a', 'w:b', ('w:c', 0.5), 'h:a']"
TWO_INPUTS = (
    "class M(nn.Module):\n"
    "    def forward(self, x, code):\n        return x.sum(1) + code\n"
    "w = Workload(model=M, example=lambda batch: (torch.ones(batch, 2), torch.ones(batch, dtype=torch.int64)),\n"
    "    features={fields})\n"
)


def test_names_and_null_rules_are_read_in_order(linear):
    it = linear(f"features={{'input': {FOUR}}}")
    assert read_features(it.workload.features)["input"] == (
        Feature(view="w", name="a"),
        Feature(view="w", name="b"),
        Feature(view="w", name="c", fill=0.5),
        Feature(view="h", name="a"),
    )
    assert read_features(None) == {}


def test_one_feature_makes_an_input_of_one_axis(opened):
    it = opened(TWO_INPUTS.replace("{fields}", "{'code': [('w:code', 3)], 'x': ['w:a', 'w:b']}"))
    assert list(read_features(it.workload.features)) == ["code", "x"]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("'w:a'", "must be .input: ..view:feature.*, not 'w:a'"),
        ("{}", "must be .*, not a dict"),
        ("{'input': 'w:a'}", "'input' has 'w:a'"),
        ("{'input': []}", "'input' has a list"),
        ("{'input': ['a']}", "has 'a' for input 'input'; write it as view:feature"),
        ("{'input': ['w:']}", "has 'w:' for input 'input'; write it as view:feature"),
        ("{'input': ['w:a:b']}", "has 'w:a:b' for input"),
        ("{'input': [' w:a']}", "has ' w:a' for input"),
        ("{'input': [7]}", "has 7 for input 'input'; write it as view:feature"),
        ("{'input': [('w:a', 'none')]}", "fills 'w:a' of input 'input' with 'none'; give a number"),
        ("{'input': ['w:a', 'w:a']}", "names w:a twice for input 'input'"),
        ("{'input': [('w:a', 1)], 'b': ['w:a']}", "gives w:a two values for where it is missing; give one"),
        (f"{{'x': {FOUR}}}", "names 'x', which is no input; the inputs are input"),
        ("{'input': ['w:a', 'w:b']}", r"shape \['batch', 4\], so it takes 4 features; 2 are named"),
        ("{'input': ['w:a', 'w:b', 'w:c', ('w:d', 1e39)]}", r"w:d with 1e\+39, which input 'input' \(float32\) can't"),
        ("{'input': ['w:a', 'w:b', 'w:c', ('w:d', float('nan'))]}", "fills 'w:d' of input 'input' with nan"),
    ],
)
def test_mistakes_are_named(linear, given, reason):
    with pytest.raises(WorkloadError, match=reason):
        linear(f"features={given}")


def test_an_input_of_whole_numbers_is_not_filled_with_half_a_one(opened):
    with pytest.raises(WorkloadError, match=r"fills w:code with 0.5, which input 'code' \(int64\) can't hold"):
        opened(TWO_INPUTS.replace("{fields}", "{'code': [('w:code', 0.5)]}"))


@pytest.mark.parametrize(
    ("dtype", "value", "fits"),
    [
        ("float32", 1, True), ("float32", float("inf"), False), ("float16", 1e5, False), ("int64", 2**63, False),
        ("int64", 10**400, False), ("float64", 10**400, False), ("int8", -128, True), ("int8", 128, False),
        ("int64", float("nan"), False), ("bool", True, True), ("bool", 2, False), ("complex64", 1, False),
    ],
)  # fmt: skip
def test_what_an_input_can_hold(dtype, value, fits):
    assert holds(dtype, value) is fits


def test_the_repository_is_the_workloads_own_folder_or_the_one_it_names(write, tmp_path: Path):
    body = (
        "w = Workload(model=lambda: nn.Linear(1, 1), example=lambda batch: torch.ones(batch, 1),\n"
        "    features={'input': ['w:a']}, feature_repo=%r)\n"
    )
    loaded = load_target(str(write(body % "store")))
    with pytest.raises(WorkloadError, match=r"store holds no feature_store.yaml; name the folder .* in `feature_repo`"):
        to_ask(loaded.workload, loaded.file)
    (tmp_path / "store").mkdir()
    (tmp_path / "store/feature_store.yaml").touch()
    wanted = {"input": [{"view": "w", "name": "a", "fill": None}]}
    assert to_ask(loaded.workload, loaded.file) == {"repo": str(tmp_path / "store"), "features": wanted}
    (tmp_path / "feature_store.yaml").touch()
    beside = load_target(str(write(body % None, "beside.py")))
    assert to_ask(beside.workload, beside.file)["repo"] == str(tmp_path)
