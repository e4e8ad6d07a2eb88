"""What a container or a batch system leaves to us: CPU quota, CPU affinity, memory limits.

Every reader takes the root of the file system, so that a test can hand it a made-up machine.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
# cgroup v1 writes "no limit" as the largest page-aligned int64; nothing real is near it.
_NO_LIMIT = 2**62
_MEMORY_USED = (("memory.current", "inactive_file"), ("memory.usage_in_bytes", "total_inactive_file"))
"""Of cgroup v2 and v1: the file that says what is used, and the cache of files in it that goes first."""


def cpu_quota(root: Path = ROOT) -> float | None:
    """CPUs' worth of time that the cgroups above us grant (cgroup v1 and v2), or None where there is no limit."""
    shares = []
    for folder in _groups("cpu", root):
        if (text := _text(folder / "cpu.max")) and not text.startswith("max"):
            quota, period = text.split()
            shares.append(int(quota) / int(period))
        quota_us, period_us = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
        if quota_us and period_us and int(quota_us) > 0:
            shares.append(int(quota_us) / int(period_us))
    return min(shares, default=None)


def memory_limit(root: Path = ROOT) -> int | None:
    """The smallest memory limit in bytes of the cgroups above us and of RLIMIT_AS and RLIMIT_DATA, or None."""
    limits = [limit for limit, _ in _memory_limits(root)]
    if root == ROOT:
        for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
            soft, _ = resource.getrlimit(kind)
            if soft != resource.RLIM_INFINITY:
                limits.append(soft)
    return min(limits, default=None)


def memory_left(root: Path = ROOT) -> int | None:
    """The least, in bytes, that the cgroups above us have left of their limits, or None; what the kernel can take back
    of its cache of files counts as left.
    """
    found = []
    for limit, folder in _memory_limits(root):
        for used_name, cache_name in _MEMORY_USED:
            used = _text(folder / used_name)
            if used is not None:
                lines = (_text(folder / "memory.stat") or "").splitlines()
                cache = sum(int(line.split()[1]) for line in lines if line.split()[0] == cache_name)
                found.append(max(0, min(limit, limit - int(used) + cache)))
    return min(found, default=None)


def memory_kills(root: Path = ROOT) -> int:
    """How many processes the kernel has ended for want of memory: of our cgroup, else of the whole machine; 0 where
    neither says.
    """
    files = [folder / name for folder in _groups("memory", root) for name in ("memory.events", "memory.oom_control")]
    for file in [*files, root / "proc/vmstat"]:
        for line in (_text(file) or "").splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill" and count.isdecimal():
                return int(count)
    return 0


def _memory_limits(root: Path) -> Iterator[tuple[int, Path]]:
    for folder in _groups("memory", root):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _text(folder / name)
            if text and text != "max" and int(text) < _NO_LIMIT:
                yield int(text), folder


def allowed_cpus() -> frozenset[int]:
    """The logical CPUs that this process may run on."""
    return frozenset(os.sched_getaffinity(0))


def physical_cores(cpus: frozenset[int], root: Path = ROOT) -> int:
    """How many physical cores these logical CPUs are; each is its own where the kernel does not say."""
    siblings = {
        _text(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in cpus
    }
    return len(siblings)


def last_level_cache_bytes(root: Path = ROOT) -> int:
    """Size of the largest cache of CPU 0; 0 where the kernel does not say."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    sizes = [0]
    for file in (root / "sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = _text(file) or "0"
        sizes.append(int(text.rstrip("KMG")) * units.get(text[-1], 1))
    return max(sizes)


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """Our cgroup's folder for a controller and every folder above it, in v1 and v2 hierarchies.

    Inside a container /proc/self/cgroup may give a path of the host that is not mounted here; the folders above it
    that do exist still hold our limits.
    """
    mounts = root / "sys/fs/cgroup"
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            tops = [mounts, mounts / "unified"]
        elif controller in controllers.split(","):
            tops = [mounts / controllers, mounts / controller]
        else:
            continue
        for top in tops:
            folder = top / path.strip("/")
            while folder != top:
                yield folder
                folder = folder.parent
            yield top


def _text(file: Path) -> str | None:
    try:
        return file.read_text().strip()
    except OSError:
        return None
