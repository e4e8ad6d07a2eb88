"""A deadline for the user's code: an iterator that hangs is noticed, not waited for."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_LONGEST = 1e8
"""Three years, in seconds: what a timer takes on every platform, and as good as never."""


class DeadlinePassed(BaseException):
    """Not an Exception, so that the user's own `except Exception` does not swallow it."""


@contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """Raise DeadlinePassed inside the block after `seconds`. In other threads than the main one, or None: never.

    Another timer that was running (a test's, say) goes on afterwards.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def passed(number: int, frame: FrameType | None) -> None:
        raise DeadlinePassed

    before = signal.signal(signal.SIGALRM, passed)
    began = time.monotonic()
    left, interval = signal.setitimer(signal.ITIMER_REAL, min(seconds, _LONGEST))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - began), 1e-3), interval)
