from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotlap.errors import Unsupported, WorkerDied
from hotlap.machine import limits as under_test
from hotlap.machine.facts import facts
from hotlap.machine.limits import Limits, cache_folder, limits, merged

EXAMPLE = Limits(
    device="cpu",
    threads=2,
    fp32_multiply_adds_per_second=200e9,
    bf16_multiply_adds_per_second=400e9,
    int8_multiply_adds_per_second=800e9,
    bytes_per_second=40e9,
    bandwidth=((2**20, 350e9), (2**24, 300e9), (2**28, 40e9)),
    launch_ms=0.001,
    launch_ms_by_kind={"elementwise": 0.001, "convolution": 0.003},
    call_ms={"onnxruntime": 0.004},
    kernels={"fp32": "a", "bf16": "b", "int8": "c", "bytes": "d"},
    others_shares={"fp32": 0.0, "bf16": 0.0, "int8": 0.0},
    measurements=1,
    seconds=5.0,
)
rates = st.floats(1e6, 1e15)


@st.composite
def some_limits(draw: st.DrawFn) -> Limits:
    narrow = rates | st.none()
    return replace(
        EXAMPLE,
        fp32_multiply_adds_per_second=draw(rates),
        bf16_multiply_adds_per_second=draw(narrow),
        int8_multiply_adds_per_second=draw(narrow),
        bytes_per_second=draw(rates),
        bandwidth=tuple((size, draw(rates)) for size in (2**20, 2**24, 2**28)),
        others_shares={name: draw(st.floats(0, 1)) for name in ("fp32", "bf16", "int8")},
        measurements=draw(st.integers(1, 3)),
    )


@given(value=some_limits())
def test_json_there_and_back(value: Limits) -> None:
    assert Limits.from_json(json.loads(json.dumps(value.to_json()))) == value


@given(value=some_limits())
def test_a_narrower_format_is_never_slower(value: Limits) -> None:
    fp32, bf16, int8 = (value.multiply_adds_per_second(name) for name in ("fp32", "bf16", "int8"))
    assert fp32 <= bf16 <= int8
    assert value.multiply_adds_per_second("fp16") == bf16


@given(value=some_limits(), small=st.floats(1, 1e12), factor=st.floats(1, 1e6))
def test_a_smaller_working_set_is_never_slower(value: Limits, small: float, factor: float) -> None:
    assert value.bytes_per_second_at(small) >= value.bytes_per_second_at(small * factor) * (1 - 1e-9)


def test_the_rate_at_a_measured_working_set_is_the_measured_one() -> None:
    for size, rate in EXAMPLE.bandwidth:
        assert EXAMPLE.bytes_per_second_at(size) == pytest.approx(rate)
    assert EXAMPLE.bytes_per_second_at(1) == pytest.approx(350e9)
    assert EXAMPLE.bytes_per_second_at(2**40) == 40e9
    assert EXAMPLE.bytes_per_second_at(2**26) == pytest.approx((300e9 * 40e9) ** 0.5)


@given(old=some_limits(), new=some_limits())
def test_limits_only_grow(old: Limits, new: Limits) -> None:
    both = merged(old, new)
    for name in (field.name for field in fields(Limits) if field.name.endswith("_per_second")):
        assert (getattr(both, name) or 0) == max(getattr(old, name) or 0, getattr(new, name) or 0)
    for size, rate in both.bandwidth:
        assert rate == max(dict(old.bandwidth)[size], dict(new.bandwidth)[size])
    for name in ("fp32", "bf16", "int8"):
        kept = max((new, old), key=lambda one: getattr(one, f"{name}_multiply_adds_per_second") or 0)
        assert both.others_shares[name] == kept.others_shares[name]
    assert both.measurements == old.measurements + 1


def test_merging_names_the_kernel_that_reached_the_limit() -> None:
    slower = replace(
        EXAMPLE, int8_multiply_adds_per_second=1e9, kernels={**EXAMPLE.kernels, "int8": "slow", "fp32": "again"}
    )
    assert merged(EXAMPLE, slower).kernels["int8"] == "c"
    assert merged(EXAMPLE, slower).kernels["fp32"] == "again"


def test_only_a_limit_that_others_held_down_leaves_room_above_it() -> None:
    busy = replace(EXAMPLE, others_shares={"fp32": 0.05, "bf16": 0.5, "int8": 0.0})
    assert not busy.quiet
    assert busy.undisturbed_factor("fp32") == 1
    assert busy.undisturbed_factor("bf16") == 2
    assert busy.undisturbed_factor("int8") == 2, "int8 may be computed in a wider format"
    assert replace(EXAMPLE, others_shares={"fp32": 1.0}).undisturbed_factor("fp32") == pytest.approx(20)
    assert EXAMPLE.quiet


def test_the_cache_folder_is_the_users_choice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("HOTLAP_HOME", raising=False)
    assert cache_folder() == tmp_path / "xdg" / "hotlap"
    monkeypatch.setenv("HOTLAP_HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home"
    monkeypatch.delenv("HOTLAP_HOME")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "hotlap"


def test_a_kept_file_is_read_back_and_leaves_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "limits.json"
    under_test._write(file, EXAMPLE)
    assert under_test._read(file) == EXAMPLE
    assert list(file.parent.iterdir()) == [file]


@given(data=st.data())
def test_a_damaged_cache_is_no_cache(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("cache") / "limits.json"
    under_test._write(file, EXAMPLE)
    whole = file.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    changed = data.draw(st.integers(0, 255).filter(lambda byte: byte != whole[place]))
    file.write_bytes(whole[:place] + bytes([changed]) + whole[place + 1 :])
    assert under_test._read(file) in (None, EXAMPLE), "a change that JSON does not see, or no limits at all"
    file.write_bytes(whole[:place])
    assert under_test._read(file) is None


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    under_test._write(tmp_path / "file" / "limits.json", EXAMPLE)
    assert under_test._read(tmp_path / "file" / "limits.json") is None


def test_a_machine_without_a_library_to_measure_with_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch", "openvino"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not here')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("HOTLAP_HOME", str(tmp_path / "home"))
    with pytest.raises(Unsupported, match="no library here computes on cpu: neither torch nor openvino can be"):
        limits(replace(facts(), memory_bytes=2**26, last_level_cache_bytes=0))
    assert not (tmp_path / "home").exists()


def test_a_crash_while_measuring_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('the driver is gone')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("HOTLAP_HOME", str(tmp_path / "home"))
    with pytest.raises(WorkerDied, match=r"measuring the limits of cpu failed \(exit code 1\): the driver is gone"):
        limits(facts())


@pytest.mark.slow
def test_a_damaged_cache_is_measured_again_and_a_good_one_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOTLAP_HOME", str(tmp_path))
    machine = facts()
    file = tmp_path / f"limits-{machine.machine_id}-cpu-{machine.cores}.json"
    file.write_text('{"form": 3, "limits"')
    found = limits(machine)
    assert found.threads == machine.cores
    assert found.fp32_multiply_adds_per_second > 1e8
    assert found.bytes_per_second > 1e8
    assert found.launch_ms is not None
    assert 0 < found.launch_ms < 10
    assert all(0 < ms < 100 for ms in found.call_ms.values())
    assert "openvino" in found.call_ms
    assert set(found.kernels) >= {"fp32", "bytes"}
    assert list(tmp_path.iterdir()) == [file]
    assert under_test._read(file) == found
    planted = replace(found, fp32_multiply_adds_per_second=1.0, others_shares={})
    under_test._write(file, planted)
    assert limits(machine) == planted
