from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotlap.machine import containers


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def test_version_2_takes_the_tightest_limit_of_the_hierarchy(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/batch/job\n",
            "sys/fs/cgroup/batch/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/batch/memory.max": "max\n",
            "sys/fs/cgroup/batch/job/cpu.max": "max 100000\n",
            "sys/fs/cgroup/batch/job/memory.max": "1073741824\n",
        },
    )
    assert containers.cpu_quota(root) == 1.5
    assert containers.memory_limit(root) == 2**30


def test_version_1_reads_each_controllers_own_hierarchy(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/slice/a\n3:cpu,cpuacct:/slice/b\n1:name=systemd:/x\n",
            "sys/fs/cgroup/cpu,cpuacct/slice/b/cpu.cfs_quota_us": "300000\n",
            "sys/fs/cgroup/cpu,cpuacct/slice/b/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/slice/a/memory.limit_in_bytes": "536870912\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
    )
    assert containers.cpu_quota(root) == 3.0
    assert containers.memory_limit(root) == 2**29


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        ("0::/a/b\n", ("max", "current", "inactive_file")),
        ("4:memory:/a/b\n", ("limit_in_bytes", "usage_in_bytes", "total_inactive_file")),
    ],
    ids=["version 2", "version 1"],
)
def test_what_is_left_is_the_least_of_all_levels_and_cache_counts(
    groups: str, files: tuple[str, str, str], tmp_path: Path
) -> None:
    limit, used, cache = files
    top = "sys/fs/cgroup" if groups.startswith("0") else "sys/fs/cgroup/memory"
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": groups,
            f"{top}/a/memory.{limit}": "1000\n",
            f"{top}/a/memory.{used}": "900\n",
            f"{top}/a/memory.stat": f"anon 600\n{cache} 300\n",
            f"{top}/a/b/memory.{limit}": "500\n",
            f"{top}/a/b/memory.{used}": "80\n",
        },
    )
    assert containers.memory_left(root) == 400
    write(root, {f"{top}/a/b/memory.{used}": "700\n"})
    assert containers.memory_left(root) == 0


def test_a_path_of_the_host_still_finds_the_limit_mounted_in_the_container(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {"proc/self/cgroup": "0::/docker/0123abcd\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"},
    )
    assert containers.cpu_quota(root) == 0.5


def test_no_limit_is_none(tmp_path: Path) -> None:
    assert containers.cpu_quota(tmp_path) is None
    assert containers.memory_limit(tmp_path) is None
    assert containers.memory_left(tmp_path) is None
    root = write(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"})
    assert containers.cpu_quota(root) is None


@given(quotas=st.lists(st.integers(1_000, 6_400_000) | st.none(), min_size=1, max_size=5))
def test_the_quota_is_the_least_of_all_levels(
    quotas: list[int | None], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("root")
    names = [f"level{index}" for index in range(len(quotas))]
    files = {"proc/self/cgroup": f"0::/{'/'.join(names)}\n"}
    for index, quota in enumerate(quotas):
        folder = "/".join(names[: index + 1])
        files[f"sys/fs/cgroup/{folder}/cpu.max"] = f"{'max' if quota is None else quota} 100000\n"
    limited = [quota / 100_000 for quota in quotas if quota is not None]
    assert containers.cpu_quota(write(root, files)) == min(limited, default=None)


def test_hyper_threads_of_one_core_count_once(tmp_path: Path) -> None:
    topology = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    root = write(tmp_path, {topology.format(cpu): f"{cpu % 2},{cpu % 2 + 2}\n" for cpu in range(4)})
    assert containers.physical_cores(frozenset(range(4)), root) == 2
    assert containers.physical_cores(frozenset({0, 2}), root) == 1
    assert containers.physical_cores(frozenset({8, 9}), root) == 2, "unknown CPUs are cores of their own"


def test_the_last_level_cache_is_the_largest(tmp_path: Path) -> None:
    cache = "sys/devices/system/cpu/cpu0/cache/index{}/size"
    root = write(tmp_path, {cache.format(0): "48K\n", cache.format(2): "1024K\n", cache.format(3): "32M\n"})
    assert containers.last_level_cache_bytes(root) == 32 * 2**20


def test_affinity_is_this_processs_own() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert containers.allowed_cpus() == {min(before)}
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("files", "kills"),
    [
        (
            {
                "proc/self/cgroup": "0::/job\n",
                "sys/fs/cgroup/job/memory.events": "oom 9\noom_kill 3\noom_group_kill 1\n",
            },
            3,
        ),
        ({"proc/self/cgroup": "4:memory:/job\n", "sys/fs/cgroup/memory/job/memory.oom_control": "oom_kill 2\n"}, 2),
        ({"proc/self/cgroup": "0::/\n"}, 5),
        ({"proc/vmstat": "oom_kill many\n"}, 0),
        ({"proc/vmstat": "nr_free_pages 12\n"}, 0),
    ],
    ids=["version 2", "version 1", "the machine's", "not a number", "not said"],
)
def test_kills_are_those_of_our_own_group_where_it_says(tmp_path: Path, files: dict[str, str], kills: int) -> None:
    root = write(tmp_path, {"proc/vmstat": "nr_free_pages 12\noom_kill 5\n", **files})
    assert containers.memory_kills(root) == kills
