"""What is cleared is reported, and really given back to the system; in a process of its own, whose heap is known."""

import json
import subprocess
import sys
from typing import Any

HEAP = """
import ctypes, json, sys
from hotlap.training.memory.clear import clear_caches, resident_bytes
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
size = 100_000
blocks = [libc.malloc(ctypes.c_size_t(size)) for _ in range(1000)]
for block in blocks: ctypes.memset(block, 1, size)
for block in blocks[:-1]: libc.free(block)  # the last stays on top, so that nothing goes back by itself
held = resident_bytes()
cleared = clear_caches()
print(json.dumps([held - resident_bytes(), cleared.process_bytes, cleared.device_bytes, cleared.note,
                  "torch" in sys.modules]))
"""


def test_free_heap_pages_go_back_and_are_counted() -> None:
    done = subprocess.run([sys.executable, "-c", HEAP], capture_output=True, text=True, check=True)
    gone, reported, devices, note, torch_loaded = json.loads(done.stdout)
    assert note == ""
    assert gone > 80_000_000
    assert abs(reported - gone) < 5_000_000
    assert devices == []
    assert not torch_loaded


def test_garbage_in_cycles_is_collected() -> None:
    from hotlap.training.memory.clear import clear_caches

    cycle: list[object] = []
    cycle.append(cycle)
    del cycle
    assert clear_caches().collected >= 1


def test_what_torch_keeps_of_each_device_goes_back_and_is_counted(cards: Any) -> None:
    from hotlap.training.memory.clear import clear_caches

    assert clear_caches().device_bytes == (10, 0)
    assert clear_caches().device_bytes == (0, 0)
    cards.initialized = False
    assert clear_caches().device_bytes == ()
