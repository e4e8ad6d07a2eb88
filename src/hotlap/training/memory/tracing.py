"""Recording what a training allocates and frees, through torch's profiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hotlap.core import Device
from hotlap.training.memory.traces import Trace, trace_of


def record(run: Callable[[], Any], device: Device = "cpu") -> Trace:
    """Every allocation that torch's allocator of `device` makes while `run` runs, oneDNN's among them.

    What libraries allocate on their own (MKL's buffers, compiled kernels) is not seen.
    """
    from torch._C._profiler import _EventType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiled:
        run()
    found: list[tuple[int, int, int, str]] = []

    def walk(events: Any, name: str) -> None:
        for event in events:
            if event.tag == _EventType.Allocation:
                fields = event.extra_fields
                if fields.device.type == device:
                    found.append((event.start_time_ns, fields.ptr, fields.alloc_size, name))
            else:
                walk(event.children, event.name)

    assert profiled.profiler is not None
    walk(profiled.profiler.kineto_results.experimental_event_tree(), "")
    # Stable, so that events of the same nanosecond keep the order in which they were recorded.
    found.sort(key=lambda one: one[0])
    return trace_of([one[1:] for one in found])
