"""Runs a model under torch's profiler: time by module and by kind of operation, in ms a call.

The time that counts is that of the model left alone. The profiler says how it is divided; what watching costs is
measured on operators and modules with nothing to do, and taken out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar

from hotlap.core import Device
from hotlap.machine.kernels import empty_calls
from hotlap.profiling.events import CALL, MODULE, Cost, Event, accounts, fastest, typical
from hotlap.profiling.kinds import LAUNCH, LAYOUT
from hotlap.profiling.modules import watched

if TYPE_CHECKING:
    import torch

_MOST_CALLS = 100
_PLAIN_SECONDS = 0.3
_PROFILED_SECONDS = 0.4
_REPEATS, _ROUNDS = 50, 6
# Within this factor the profiled calls took what the others took, once the cost of watching is taken out.
_AGREEMENT = 1.2
_RETRY_SECONDS = 3.0
# The profiler keeps every event until it ends; so many take about a second to read.
_MOST_EVENTS = 100_000

_Key = TypeVar("_Key", str, int)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Calls:
    """How many calls come first and are left out, and how many are looked at, at least."""

    warm: int
    least: int


_USUAL, _OF_A_SLOW_MODEL = _Calls(warm=3, least=6), _Calls(warm=1, least=3)
_SLOW_SECONDS = 0.1
"""Of calls this long little is lost to a cold start, and some forty of them would take a search's time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """Times in ms a call, without those of watching.

    All are of the fastest quarter of the calls: what else the machine did slowed the others.
    total_ms: the model left alone. one_thread_ms: the same on one thread.
    modules: by index, the module's own time without its children's. kinds: by kind of operation. Both add up to
        total_ms.
    operators: a call's number of operators.
    watching_factor: what the profiler's sums, freed of its known costs, had to be multiplied with to add up; far
        from 1, the shares are less sure.
    """

    total_ms: float
    one_thread_ms: float
    modules: Mapping[int, float]
    kinds: Mapping[str, float]
    operators: int
    watching_factor: float

    @property
    def sure(self) -> bool:
        """Whether the profiler's sums and the model left alone agree."""
        return 1 / _AGREEMENT <= self.watching_factor <= _AGREEMENT


def trace(model: torch.nn.Module, call: Callable[[], Any], *, device: Device, threads: int) -> Traced:
    """Trace `call`, which runs `model` once and comes back when its answer is there.

    Where the profiled calls and those left alone disagree (others were busy during one of them), it is done again.
    """
    import torch

    calls = _calls(call)
    with torch.inference_mode():
        cost = watching_cost(device)
    attempts: list[Traced] = []
    end = time.perf_counter() + _RETRY_SECONDS
    while not attempts or (not attempts[-1].sure and time.perf_counter() < end):
        attempts.append(_attempt(model, call, calls, cost, device, threads))
    return min(attempts, key=lambda attempt: abs(math.log(attempt.watching_factor)))


def _calls(call: Callable[[], Any]) -> _Calls:
    """Warm up; how many calls to look at, going by what the last one took."""
    for count in (_OF_A_SLOW_MODEL.warm, _USUAL.warm - _OF_A_SLOW_MODEL.warm):
        seconds = timed(call, 0.0, least=count)[-1] / 1000
        if seconds >= _SLOW_SECONDS:
            return _OF_A_SLOW_MODEL
    return _USUAL


def _attempt(
    model: torch.nn.Module, call: Callable[[], Any], calls: _Calls, cost: Cost, device: Device, threads: int
) -> Traced:
    before = timed(call, _PLAIN_SECONDS / 2, least=calls.least)
    found = typical(accounts(_profiled(model, call, calls), cost, on_gpu=device == "cuda"))
    total = median(fastest([*before, *timed(call, _PLAIN_SECONDS / 2, least=calls.least)]))
    one_thread = total if device == "cuda" or threads == 1 else _on_one_thread(call, calls, threads)
    return Traced(
        total_ms=total,
        one_thread_ms=one_thread,
        modules=_scaled(found.modules, total),
        kinds=_scaled(found.kinds, total),
        operators=found.operators,
        watching_factor=1e6 * total / sum(found.kinds.values()),
    )


def timed(call: Callable[[], Any], seconds: float, *, least: int = _USUAL.least) -> list[float]:
    """Times of single calls in ms, for about `seconds`, `least` at least."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        began = time.perf_counter()
        call()
        times.append((time.perf_counter() - began) * 1000)
    return times


def _scaled(parts: Mapping[_Key, float], total: float) -> dict[_Key, float]:
    """The parts in ms, so that they add up to `total`."""
    whole = sum(parts.values())
    return {key: ns * total / whole for key, ns in parts.items() if ns > 0}


def _on_one_thread(call: Callable[[], Any], calls: _Calls, threads: int) -> float:
    import torch

    torch.set_num_threads(1)
    try:
        call()
        return median(fastest(timed(call, _PLAIN_SECONDS / 2, least=calls.least)))
    finally:
        torch.set_num_threads(threads)


def _profiled(model: torch.nn.Module, call: Callable[[], Any], calls: _Calls) -> list[Event]:
    """Events of enough calls, each within a span of its own; the first few are left out."""
    with spans(model) as record:
        few = _events(lambda: _recorded(call, record), calls.warm)
        most = calls.warm + min(_MOST_CALLS, _MOST_EVENTS * calls.warm // len(few))
        events = _events(lambda: _recorded(call, record), most, _PROFILED_SECONDS, least=calls.warm + calls.least)
    first = sorted(event.start for event in events if event.name == CALL)[calls.warm]
    return [event for event in events if event.start >= first]


def _recorded(call: Callable[[], Any], record: Callable[[str], Any]) -> None:
    with record(CALL):
        call()


@contextmanager
def spans(model: torch.nn.Module) -> Iterator[Callable[[str], Any]]:
    """While it lasts, each module's forward is a span in the profiler; gives what makes other spans."""
    # The public record_function costs several times as much a span, as much as a small layer takes.
    from torch._C._profiler import _RecordFunctionFast as Record

    names = [f"{MODULE}{index}" for index, _ in enumerate(model.modules())]
    open_spans: list[Any] = []

    def enter(index: int) -> None:
        open_spans.append(Record(names[index]))
        open_spans[-1].__enter__()

    def leave() -> None:
        open_spans.pop().__exit__(None, None, None)

    with watched(model, enter, leave):
        yield Record


def _events(call: Callable[[], Any], most: int, seconds: float = math.inf, *, least: int = 1) -> list[Event]:
    """What torch's profiler saw on this thread of `most` calls, or of those that `seconds` had room for."""
    from torch._C._autograd import DeviceType
    from torch.cuda import is_available
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_available() else [])]
    with profile(activities=activities) as recorded:
        end = time.perf_counter() + seconds
        for done in range(most):
            if done >= least and time.perf_counter() > end:
                break
            call()
    # The events as they are: making torch's FunctionEvents of them takes 0.1 ms each.
    raw = recorded.profiler.kineto_results.events()
    device_ns: dict[int, int] = {}
    for event in raw:
        if event.device_type() != DeviceType.CPU:
            link = event.linked_correlation_id()
            device_ns[link] = device_ns.get(link, 0) + event.duration_ns()
    main = next((event.start_thread_id() for event in raw if event.name() == CALL), None)
    return [
        Event(
            name=event.name(),
            start=event.start_ns(),
            end=event.start_ns() + event.duration_ns(),
            device_ns=device_ns.get(event.correlation_id(), 0),
        )
        for event in raw
        if event.device_type() == DeviceType.CPU
        and event.start_thread_id() == main
        and not event.name().startswith("cuda")
    ]


def watching_cost(device: Device) -> Cost:
    """What the profiler adds to operators and module spans, measured on such as have nothing to do."""
    import torch

    plain, seen = 0.0, {}
    for kind, call in empty_calls(device):
        plain += _fastest_ns(call)
        seen[LAYOUT if kind == "view" else kind] = _emptied(call)
    events = sum(len(found) - 1 for found in seen.values()) / _REPEATS
    watched_ns = sum(_total_ns(found) for found in seen.values())
    operator = max(0.0, (watched_ns - plain) / max(1.0, events))
    launch = {kind: _operators_ns(found, operator) for kind, found in seen.items()}
    module = torch.nn.Identity()
    with spans(module):
        found = _emptied(lambda: module(None))
    inside = median(event.end - event.start for event in found if event.name.startswith(MODULE))
    outside = max(0.0, _total_ns(found) - _fastest_ns(lambda: module(None)) - inside)
    return Cost(operator=operator, span=outside, inside=inside, launch=launch)


def _emptied(call: Callable[[], Any]) -> list[Event]:
    """Events of the fastest of several rounds of `call`, each round a call of its own."""
    from torch._C._profiler import _RecordFunctionFast as Record

    def repeated() -> None:
        for _ in range(_REPEATS):
            call()

    events = _events(lambda: _recorded(repeated, Record), _ROUNDS)
    rounds = [event for event in events if event.name == CALL]
    fastest = min(rounds, key=lambda event: event.end - event.start)
    return [event for event in events if fastest.start <= event.start and event.end <= fastest.end]


def _total_ns(events: list[Event]) -> float:
    """Of one call out of a round, watched."""
    return sum(event.end - event.start for event in events if event.name == CALL) / _REPEATS


def _operators_ns(events: list[Event], operator: float) -> float:
    """What of a call out of a round is within operators."""
    (account,) = accounts(events, Cost(operator=operator))
    return (sum(account.kinds.values()) - account.kinds[LAUNCH]) / _REPEATS


def _fastest_ns(call: Callable[[], Any]) -> float:
    """One call left alone, in the fastest of several rounds."""
    rounds = []
    for _ in range(_ROUNDS + 1):
        began = time.perf_counter_ns()
        for _ in range(_REPEATS):
            call()
        rounds.append((time.perf_counter_ns() - began) / _REPEATS)
    return min(rounds)
