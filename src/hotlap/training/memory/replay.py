"""Replays a trace at the C library's own allocator, to see how much memory the process takes for it.

Run as a script, with the standard library alone, so that the heap is as good as empty. Nothing is written into what
is allocated, so that memory which would not fit is never used: what counts is the address space that the allocator
takes for its heap and for mapped blocks (`mallinfo2`, glibc). Tensors are not packed as tightly as their sum says:
holes are left between them, and how many depends on the order in which they come and go.

Stdin, in int64: the number of sizes, bytes that are allocated and freed first, the number of options that mallopt is
called with, then these with their values, the sizes, and the events of `traces.Trace`. Stdout: the peak in bytes.
"""

import array
import ctypes
import sys

ALIGNMENT = 64  # c10/core/alignment.h
SMALL_BYTES = 400  # what a tensor holds beside its data: TensorImpl, StorageImpl, the graph's node


class Information(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


def main() -> None:
    numbers = array.array("q")
    numbers.frombytes(sys.stdin.buffer.read())
    count, first, pairs = numbers[:3]
    options, numbers = numbers[3 : 3 + 2 * pairs], numbers[3 + 2 * pairs :]
    sizes, events = numbers[:count], numbers[count:]
    library = ctypes.CDLL(None)
    for index in range(0, len(options), 2):
        library.mallopt(options[index], options[index + 1])
    library.mallinfo2.restype = Information
    library.malloc.restype = ctypes.c_void_p
    library.free.argtypes = [ctypes.c_void_p]
    if first:
        # A mapped block that is freed raises the size from which on blocks are mapped, as earlier work did.
        library.free(library.malloc(ctypes.c_size_t(first)))
    data = (ctypes.c_void_p * count)()
    beside = (ctypes.c_void_p * count)()
    place = ctypes.sizeof(ctypes.c_void_p)
    start = library.mallinfo2()
    # Holes that are there already will be filled first.
    begun = start.arena + start.hblkhd - start.fordblks
    peak = 0
    refused = 0
    for event in events:
        index = abs(event) - 1
        if event < 0:
            if data[index]:
                library.free(data[index])
            else:
                refused -= sizes[index]
            library.free(beside[index])
            continue
        slot = ctypes.c_void_p(ctypes.addressof(data) + index * place)
        if library.posix_memalign(slot, ctypes.c_size_t(ALIGNMENT), ctypes.c_size_t(sizes[index])):
            data[index] = None
            refused += sizes[index]
        beside[index] = library.malloc(ctypes.c_size_t(SMALL_BYTES))
        now = library.mallinfo2()
        peak = max(peak, now.arena + now.hblkhd - begun + refused)
    sys.stdout.write(str(peak))


main()
