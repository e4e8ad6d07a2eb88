from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotlap.profiling.events import CALL, MODULE, Account, Cost, Event, accounts, fastest, typical

NAMES = (
    "aten::conv2d",
    "aten::add",
    "aten::contiguous",
    "aten::copy_",
    "aten::view",
    "aten::unheard_of",
    "my own record",
    *(f"{MODULE}{index}" for index in range(4)),
)


def event(name: str, start: int, end: int, device_ns: int = 0) -> Event:
    return Event(name=name, start=start, end=end, device_ns=device_ns)


def one(*events: Event, cost: Cost | None = None, on_gpu: bool = False) -> Account:
    (account,) = accounts(events, cost or Cost(), on_gpu=on_gpu)
    return account


def parts(values: dict) -> dict:  # type: ignore[type-arg]
    return {key: value for key, value in values.items() if value}


@st.composite
def calls(draw: st.DrawFn) -> list[Event]:
    """A call with events nested at random."""
    events = [event(CALL, 0, draw(st.integers(10, 10_000)))]

    def fill(start: int, end: int, depth: int) -> None:
        while depth < 5 and end - start > 2 and draw(st.booleans()):
            first = draw(st.integers(start, end - 1))
            last = draw(st.integers(first + 1, end))
            events.append(event(draw(st.sampled_from(NAMES)), first, last))
            fill(first, last, depth + 1)
            start = last

    fill(0, events[0].end, 0)
    return draw(st.permutations(events))


@given(events=calls())
def test_modules_and_kinds_each_add_up_to_the_call(events: list[Event]) -> None:
    whole = next(item.end for item in events if item.name == CALL)
    account = one(*events)
    assert sum(account.modules.values()) == pytest.approx(whole)
    assert sum(account.kinds.values()) == pytest.approx(whole)
    assert min(account.kinds.values()) >= 0


@given(events=calls(), operator=st.floats(0, 50), span=st.floats(0, 50), launch=st.floats(0, 100))
def test_what_watching_costs_only_takes_away(events: list[Event], operator: float, span: float, launch: float) -> None:
    whole = next(item.end for item in events if item.name == CALL)
    account = one(*events, cost=Cost(operator=operator, span=span, inside=span / 2, launch={"elementwise": launch}))
    assert sum(account.kinds.values()) == pytest.approx(sum(account.modules.values()))
    assert sum(account.kinds.values()) <= whole + 1e-6
    assert min(account.kinds.values()) >= 0


def test_an_operator_belongs_to_the_innermost_module_and_what_lies_between_to_the_one_around() -> None:
    account = one(
        event(CALL, 0, 1000),
        event(f"{MODULE}0", 0, 1000),
        event("aten::add", 100, 200),
        event(f"{MODULE}1", 300, 800),
        event("aten::linear", 400, 700),
    )
    assert parts(account.modules) == {0: 500, 1: 500}
    assert parts(account.kinds) == {"elementwise": 100, "matrix product": 300, "launch": 600}
    assert account.operators == 2


def test_a_module_holds_an_operator_that_begins_and_ends_with_it() -> None:
    account = one(event("aten::add", 0, 10), event(f"{MODULE}3", 0, 10), event(CALL, 0, 10))
    assert parts(account.modules) == {3: 10}


def test_copies_within_an_operator_are_layout_once() -> None:
    account = one(
        event(CALL, 0, 1000),
        event("aten::linear", 0, 1000),
        event("aten::contiguous", 100, 400),
        event("aten::clone", 150, 350),
        event("aten::copy_", 200, 300),
        event("aten::addmm", 500, 900),
    )
    assert parts(account.kinds) == {"matrix product": 700, "layout": 300}


def test_an_unknown_operator_is_what_its_parts_are() -> None:
    account = one(
        event(CALL, 0, 1000),
        event("aten::_transformer_encoder_layer_fwd", 0, 1000),
        event("aten::addmm", 100, 400),
        event("aten::_softmax", 500, 800),
    )
    assert parts(account.kinds) == {"matrix product": 300, "activation": 300, "other": 400}


def test_a_record_of_the_users_own_belongs_to_the_module_around_it() -> None:
    account = one(
        event(CALL, 0, 100),
        event(f"{MODULE}2", 0, 100),
        event("my own record", 10, 90),
        event("aten::add", 20, 80),
    )
    assert parts(account.modules) == {2: 100}
    assert parts(account.kinds) == {"elementwise": 60, "launch": 40}


def test_the_cost_of_watching_goes_where_it_arose() -> None:
    account = one(
        event(CALL, 0, 1000),
        event(f"{MODULE}1", 100, 900),
        event("aten::linear", 200, 700),
        event("aten::t", 250, 300),
        event("aten::addmm", 300, 600),
        cost=Cost(operator=10, span=40, inside=20, launch={"elementwise": 5, "matrix product": 30}),
    )
    assert account.modules[0] == 1000 - 800 - 40
    assert account.modules[1] == (800 - 500 - 20 - 10) + (500 - 2 * 10)
    assert account.kinds["matrix product"] == 500 - 20 - 30
    assert account.kinds["launch"] == 160 + 270 + 30


def test_on_a_gpu_time_is_the_gpus_and_the_rest_is_waiting() -> None:
    account = one(
        event(CALL, 0, 1000),
        event(f"{MODULE}1", 0, 500),
        event("aten::linear", 0, 50),
        event("aten::addmm", 10, 40, device_ns=600),
        event("aten::add", 60, 90, device_ns=100),
        on_gpu=True,
    )
    assert parts(account.kinds) == {"matrix product": 600, "elementwise": 100, "waiting": 300}
    assert parts(account.modules) == {1: 700}


def test_events_outside_a_call_do_not_count() -> None:
    assert accounts([event("aten::add", 0, 10)], Cost()) == []
    assert len(accounts([event(CALL, 0, 10), event(CALL, 20, 30), event("aten::add", 12, 18)], Cost())) == 2


def test_the_typical_call_is_among_the_fastest() -> None:
    found = [Account(modules={0: float(ns)}, kinds={"launch": float(ns)}, operators=1) for ns in range(1, 41)]
    assert typical(found[::-1]).modules == {0: 5.5}
    assert fastest([5.0, 1.0, 4.0, 2.0]) == [1.0, 2.0, 4.0]
