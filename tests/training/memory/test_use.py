"""Live use, of real processes, and of a driver's answers where there is no GPU."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hotlap.errors import InputError
from hotlap.training.memory.gpus import AllocatorUse, gpus, uses_of_text
from hotlap.training.memory.use import ancestors, largest_processes, look, process_use

HOLDER = """
import subprocess, sys
held = bytearray(b"x" * 50_000_000)
if len(sys.argv) > 1:
    both = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], text=True, **both)
    child.stdout.readline()
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def family():
    """A process with a child, each of which holds 50 MB."""
    parent = subprocess.Popen(
        [sys.executable, "-c", HOLDER, HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    assert parent.stdin is not None
    assert parent.stdout.readline() == "ready\n"
    yield parent.pid
    parent.stdin.close()
    parent.wait()
    parent.stdout.close()


def test_a_process_is_seen_with_what_it_started(family: int) -> None:
    use = look([family])
    assert len(use.processes) == 2
    assert {one.root for one in use.processes} == {family}
    assert all(one.resident_bytes > 50_000_000 for one in use.processes)
    assert all(one.peak_bytes is None or one.peak_bytes >= one.resident_bytes for one in use.processes)
    assert use.tree_bytes > 100_000_000
    assert 0 < use.available_bytes <= use.total_bytes


SHARER = """
import mmap, os, sys
shared = mmap.mmap(-1, 80_000_000)
shared.write(b"x" * 80_000_000)
print("alone", flush=True)
sys.stdin.readline()
read, write = os.pipe()
if os.fork() == 0:
    os.close(read)
    sum(shared[::4096])
    os.write(write, b"x")
    sys.stdin.readline()
    os._exit(0)
os.read(read, 1)
print("both", flush=True)
sys.stdin.readline()
os.wait()
"""


def test_shared_pages_count_once() -> None:
    """In processes of their own: what runs the tests may hold a browser."""
    both = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", SHARER], text=True, bufsize=1, **both) as sharer:
        assert sharer.stdout.readline() == "alone\n"
        alone = look([sharer.pid]).tree_bytes
        sharer.stdin.write("go on\n")
        assert sharer.stdout.readline() == "both\n"
        use = look([sharer.pid])
        sharer.stdin.close()
    assert len(use.processes) == 2
    if any(one.proportional_bytes is None for one in use.processes):
        pytest.skip("the kernel does not show shared pages here")
    assert use.tree_bytes < alone + 60_000_000
    assert sum(one.resident_bytes for one in use.processes) > use.tree_bytes


def test_a_process_that_is_not_there() -> None:
    with pytest.raises(InputError, match="there is no process 4194305"):
        look([4194305])


def test_a_name_that_is_no_text_is_shown_as_far_as_it_is() -> None:
    named = "import ctypes, sys; ctypes.CDLL(None).prctl(15, b'a\\xffb'); print('ready', flush=True); sys.stdin.read()"
    both = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", named], text=True, **both) as child:
        assert child.stdout.readline() == "ready\n"
        (use,) = look([child.pid]).processes
        child.stdin.close()
    assert use.name == "a\ufffdb"


def test_what_the_kernel_does_not_show_is_left_open(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "status").write_text("Name:\tthing\nVmRSS:\t  12 kB\n")
    (tmp_path / "7" / "stat").write_text(f"7 (a) thing) S {' '.join(map(str, range(4, 53)))}\n")
    use = process_use(7, 1, tmp_path)
    assert use is not None
    assert use.started == 22
    assert (use.name, use.resident_bytes, use.proportional_bytes, use.peak_bytes) == ("thing", 12 * 1024, None, None)
    (tmp_path / "7" / "status").write_text("Name:\tkernel thread\n")
    assert process_use(7, 1, tmp_path) is None


def test_descendants_of_the_largest_are_not_counted_twice(family: int) -> None:
    chosen = largest_processes(100_000)
    assert chosen
    assert ancestors(5, {5: (4, 0), 4: (3, 0), 3: (1, 0)}) == {4, 3}


def test_fragmentation_is_what_is_reserved_and_not_used() -> None:
    use = AllocatorUse(allocated_bytes=30, reserved_bytes=40, peak_allocated_bytes=35, peak_reserved_bytes=40)
    assert use.fragmentation == 0.25
    empty = AllocatorUse(allocated_bytes=0, reserved_bytes=0, peak_allocated_bytes=0, peak_reserved_bytes=0)
    assert empty.fragmentation == 0


class Driver:
    """Answers as NVML's package does: some questions a device can't answer."""

    class NVMLError(Exception):
        pass

    def __init__(self, *, fails: str = "", at: int = 0) -> None:
        self.open, self.fails, self.at = False, fails, at

    def nvmlInit(self) -> None:  # noqa: N802
        if self.fails == "nvmlInit":
            raise self.NVMLError("Driver Not Loaded")
        self.open = True

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open = False

    def __getattr__(self, name: str):
        answers = {
            "nvmlDeviceGetCount": 2,
            "nvmlDeviceGetName": b"A card",
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=100, used=30, free=70),
            "nvmlDeviceGetComputeRunningProcesses": [
                SimpleNamespace(pid=3, usedGpuMemory=20), SimpleNamespace(pid=4, usedGpuMemory=None)
            ],
        }  # fmt: skip

        def answer(handle: int = 0):
            if name == self.fails and handle == self.at:
                raise self.NVMLError("GPU is lost")
            if name == "nvmlDeviceGetUUID":
                return f"GPU-{handle}"
            if name == "nvmlDeviceGetHandleByIndex":
                return handle
            if name == "nvmlDeviceGetUtilizationRates":
                if handle == 1:
                    raise self.NVMLError("Not Supported")
                return SimpleNamespace(gpu=55)
            return answers[name]

        return answer


def test_every_gpu_with_what_its_driver_says(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    driver.NVMLError = Driver.NVMLError  # type: ignore[misc]
    monkeypatch.setitem(sys.modules, "pynvml", driver)  # type: ignore[arg-type]
    first, second = gpus()
    assert (first.name, first.total_bytes, first.used_bytes, first.utilization) == ("A card", 100, 30, 0.55)
    assert first.processes == ((3, 20),)
    assert second.utilization is None
    assert first.allocator is None, "this process has used no device"
    assert not driver.open


@pytest.mark.parametrize(
    ("fails", "seen"),
    [
        ("nvmlDeviceGetHandleByIndex", [0]),
        ("nvmlDeviceGetMemoryInfo", [0]),
        ("nvmlDeviceGetName", [0, 1]),
    ],
)
def test_a_gpu_that_does_not_answer_is_left_out(fails: str, seen: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(fails=fails, at=1)
    driver.NVMLError = Driver.NVMLError  # type: ignore[misc]
    monkeypatch.setitem(sys.modules, "pynvml", driver)  # type: ignore[arg-type]
    assert [one.index for one in gpus()] == seen


def test_a_driver_that_tells_no_number_has_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(fails="nvmlDeviceGetCount")
    driver.NVMLError = Driver.NVMLError  # type: ignore[misc]
    monkeypatch.setitem(sys.modules, "pynvml", driver)  # type: ignore[arg-type]
    assert gpus() == ()
    assert not driver.open


def test_without_a_driver_there_are_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "torch")
    assert gpus() == ()


USED_FIRST = AllocatorUse(allocated_bytes=20, reserved_bytes=30, peak_allocated_bytes=33, peak_reserved_bytes=44)
USED_SECOND = AllocatorUse(allocated_bytes=21, reserved_bytes=21, peak_allocated_bytes=34, peak_reserved_bytes=45)
"""Of the fixture's cards, in torch's order."""


def test_what_this_process_holds_is_found_by_the_devices_name_whatever_torchs_order(
    cards: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Driver())  # type: ignore[arg-type]
    assert [one.allocator for one in gpus()] == [None, USED_FIRST]
    cards.initialized = False
    assert [one.allocator for one in gpus()] == [None, None]


@pytest.mark.parametrize(
    "package", [None, Driver(fails="nvmlInit"), Driver(fails="nvmlDeviceGetCount")],
    ids=["no package", "no driver", "no answer"],
)  # fmt: skip
def test_without_a_driver_torch_tells_of_the_devices_that_it_uses(
    package: Any, cards: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", package)
    first, second = gpus()
    assert (first.index, first.name, first.total_bytes, first.used_bytes) == (0, "card 0", 100, 40)
    assert (second.index, second.name, second.used_bytes) == (1, "card 1", 39)
    assert (first.allocator, second.allocator) == (USED_FIRST, USED_SECOND)
    assert (first.utilization, first.processes) == (None, ())


def test_gpus_as_nvidia_smi_tells_their_use() -> None:
    first, second = uses_of_text("0, NVIDIA H200, 143771, 1024, 37\n1, Tesla, K80, 11441, 0, [N/A]\nNo devices found\n")
    assert (first.index, first.name, first.used_bytes, first.utilization) == (0, "NVIDIA H200", 2**30, 0.37)
    assert (second.name, second.total_bytes, second.utilization) == ("Tesla, K80", 11441 * 2**20, None)
