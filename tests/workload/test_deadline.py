"""A block that hangs is interrupted, and other timers go on."""

from __future__ import annotations

import contextlib
import math
import signal
import threading

import pytest

from hotlap.workload.deadline import DeadlinePassed, deadline


@pytest.mark.parametrize("hang", [lambda: threading.Event().wait(), lambda: [None for _ in iter(int, 1)]])
def test_what_hangs_is_interrupted(hang):
    with pytest.raises(DeadlinePassed), deadline(0.05):
        hang()


def test_the_users_own_except_does_not_swallow_it():
    def stubborn():
        while True:
            with contextlib.suppress(Exception):
                threading.Event().wait()

    with pytest.raises(DeadlinePassed), deadline(0.05):
        stubborn()


@pytest.mark.parametrize("seconds", [60, None, math.inf])
def test_what_ends_in_time_is_left_alone(seconds):
    before = signal.getsignal(signal.SIGALRM)
    with deadline(seconds):
        pass
    assert signal.getsignal(signal.SIGALRM) is before


def test_another_timer_goes_on():
    came = threading.Event()
    before = signal.signal(signal.SIGALRM, lambda *_: came.set())
    left, interval = signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(DeadlinePassed), deadline(0.1):
            threading.Event().wait()
        assert came.wait(60)
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, left, interval)


def test_in_another_thread_there_is_none():
    before = signal.getsignal(signal.SIGALRM)
    seen = []

    def work():
        with deadline(0.001):
            seen.append(signal.getsignal(signal.SIGALRM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
