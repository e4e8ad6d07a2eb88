"""A profiler's flat events -> time by module and by kind of operation. Pure: no torch, no clock.

A call is the tree of what ran within it: module spans, operators, and operators that those called. Each moment
belongs to one module (the innermost span) and to one kind: that of the outermost operator that has one, `layout` of
copies within it, and `launch` where no operator ran (Python) or where one did what it does with nothing to compute.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TypeVar

from hotlap.profiling.kinds import COPIES, LAUNCH, LAYOUT, OTHER, WAITING, base_name, kind_of

_Key = TypeVar("_Key", str, int)
_Time = TypeVar("_Time", float, tuple[float, int])

CALL = "hotlap:call"
MODULE = "hotlap:module:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that ran on the main thread from `start` to `end`, in ns.

    `device_ns` is what it (not what it called) kept a GPU busy for.
    """

    name: str
    start: int
    end: int
    device_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What watching costs, in ns.

    operator: each operator that is recorded, in what lies around it. span: each module's span, in what lies around
    it; inside: the same within it. launch: what an operator of a kind takes that has nothing to compute.
    """

    operator: float = 0.0
    span: float = 0.0
    inside: float = 0.0
    launch: Mapping[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Account:
    """One call's time in ns by module index and by kind, with what watching cost taken out."""

    modules: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    kinds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    operators: int = 0


@dataclass(slots=True)
class _Node:
    event: Event
    children: list[_Node] = field(default_factory=list)

    @property
    def ns(self) -> float:
        return self.event.end - self.event.start

    @property
    def is_operator(self) -> bool:
        return "::" in self.event.name

    @property
    def is_span(self) -> bool:
        return self.event.name.startswith(MODULE)


def accounts(events: Iterable[Event], cost: Cost, *, on_gpu: bool = False) -> list[Account]:
    """An account for each call among `events`, in their order.

    With `on_gpu` an operator's time is that of its GPU work, and what is left of a call is `waiting`.
    """
    found = []
    for root in _trees(events):
        if root.event.name == CALL:
            account = Account()
            (_gpu_call if on_gpu else _span)(root, 0, account, cost)
            found.append(account)
    return found


def _trees(events: Iterable[Event]) -> list[_Node]:
    """Nest events by their times."""
    roots: list[_Node] = []
    stack: list[_Node] = []
    for event in sorted(events, key=lambda event: (event.start, -event.end, _rank(event))):
        node = _Node(event)
        while stack and event.start >= stack[-1].event.end:
            stack.pop()
        (stack[-1].children if stack else roots).append(node)
        stack.append(node)
    return roots


def _rank(event: Event) -> int:
    """Of events that begin and end in the same nanosecond, calls hold modules, and modules hold the rest."""
    return 0 if event.name == CALL else 1 if event.name.startswith(MODULE) else 2


def _span(node: _Node, owner: int, account: Account, cost: Cost) -> None:
    """Account for a module's span (or the call's): its operators, its modules, and what lies between them."""
    between = node.ns - (cost.inside if node.is_span else 0.0)
    for child in node.children:
        between -= child.ns
        if child.is_span:
            between -= cost.span
            _span(child, int(child.event.name.removeprefix(MODULE)), account, cost)
        elif child.is_operator:
            between -= cost.operator
            _operator(child, owner, account, cost)
        else:
            # A record of the user's own code: what is in it belongs to the module around it.
            _span(child, owner, account, cost)
    between = max(0.0, between)
    account.modules[owner] += between
    account.kinds[LAUNCH] += between


def _operator(node: _Node, owner: int, account: Account, cost: Cost) -> None:
    kind = kind_of(node.event.name)
    if kind is None and node.children:
        _composite(node, owner, account, cost)
        return
    kind = kind or OTHER
    total = max(0.0, node.ns - cost.operator * _below(node))
    copies = 0.0 if kind == LAYOUT else min(total, _copies(node, cost))
    launch = min(total - copies, cost.launch.get(kind, cost.launch.get("elementwise", 0.0)))
    account.operators += 1
    account.modules[owner] += total
    account.kinds[LAYOUT] += copies
    account.kinds[LAUNCH] += launch
    account.kinds[kind] += total - copies - launch


def _composite(node: _Node, owner: int, account: Account, cost: Cost) -> None:
    """An operator whose parts say what it is; what is in none of its parts is `other`."""
    rest = node.ns
    for child in node.children:
        rest -= child.ns + cost.operator
        _operator(child, owner, account, cost)
    account.modules[owner] += max(0.0, rest)
    account.kinds[OTHER] += max(0.0, rest)


def _copies(node: _Node, cost: Cost) -> float:
    """Time in the outermost copies within an operator."""
    found = 0.0
    for child in node.children:
        if base_name(child.event.name) in COPIES:
            found += max(0.0, child.ns - cost.operator * _below(child))
        else:
            found += _copies(child, cost)
    return found


def _below(node: _Node) -> int:
    """How many events lie below this one."""
    return sum(1 + _below(child) for child in node.children)


def _gpu_call(node: _Node, owner: int, account: Account, cost: Cost) -> None:
    _gpu(node, owner, account)
    account.kinds[WAITING] = max(0.0, node.ns - sum(account.kinds.values()))


def _gpu(node: _Node, owner: int, account: Account) -> None:
    for child in node.children:
        if child.is_span:
            _gpu(child, int(child.event.name.removeprefix(MODULE)), account)
        elif child.is_operator and (kind := kind_of(child.event.name)) is not None:
            busy = _gpu_ns(child)
            account.operators += 1
            account.modules[owner] += busy
            account.kinds[kind] += busy
        else:
            account.modules[owner] += child.event.device_ns
            account.kinds[OTHER] += child.event.device_ns
            _gpu(child, owner, account)


def _gpu_ns(node: _Node) -> float:
    return node.event.device_ns + sum(_gpu_ns(child) for child in node.children)


def typical(found: Sequence[Account]) -> Account:
    """By module and by kind the median over the fastest quarter of the calls."""
    totals = sorted((sum(account.kinds.values()), index) for index, account in enumerate(found))
    chosen = [found[index] for _, index in fastest(totals)]
    return Account(
        modules=_medians([account.modules for account in chosen]),
        kinds=_medians([account.kinds for account in chosen]),
        operators=int(median(account.operators for account in chosen)),
    )


def fastest(times: Sequence[_Time]) -> list[_Time]:
    """The least quarter of them, three at least."""
    return sorted(times)[: max(3, len(times) // 4)]


def _medians(values: Sequence[Mapping[_Key, float]]) -> dict[_Key, float]:
    keys = dict.fromkeys(key for value in values for key in value)
    return {key: median(value.get(key, 0.0) for value in values) for key in keys}
