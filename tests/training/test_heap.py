"""Memory that stays with the process: counted in page faults, in processes of their own, since it can't be undone."""

import subprocess
import sys

import pytest

from hotlap.errors import InputError
from hotlap.training import heap

FAULTS = """
import resource, sys, torch
from hotlap.training import heap

if "kept" in sys.argv:
    heap.keep_memory()

def step():
    torch.ones(50 << 20, dtype=torch.uint8)  # larger than any that lies on the heap

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def steps():
    for _ in range(20):  # until the block has found its place
        step()
    before = faults()
    for _ in range(4):
        step()
    print(faults() - before)

if "thread" in sys.argv:
    import threading
    thread = threading.Thread(target=steps)
    thread.start()
    thread.join()
else:
    steps()
"""


def faults(*arguments: str) -> int:
    found = subprocess.run([sys.executable, "-c", FAULTS, *arguments], capture_output=True, text=True, check=True)
    return int(found.stdout)


@pytest.mark.parametrize("where", [(), ("thread",)])
def test_a_step_faults_no_pages_in_again(where: tuple[str, ...]) -> None:
    pages = 4 * (50 << 20) // 4096
    assert faults(*where) >= pages
    assert faults("kept", *where) < pages / 100


def test_another_allocator_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert heap.why_not() is None
    monkeypatch.setenv("LD_PRELOAD", "/usr/lib/libjemalloc.so.2")
    with pytest.raises(InputError, match="keep_memory=true: LD_PRELOAD names another allocator"):
        heap.keep_memory()


def test_a_library_without_mallopt_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: object())
    assert heap.why_not() == "the C library here has no mallopt"
