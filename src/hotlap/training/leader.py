"""The process that changes are timed against: what is best so far, the workload's own set-up at first."""

from __future__ import annotations

from contextlib import ExitStack

from hotlap.errors import CandidateFailed
from hotlap.measure.worker import Worker
from hotlap.search.setting import LOAD_SECONDS
from hotlap.training.bench import FAILURES, TIMING, Bench, told
from hotlap.training.settings import Settings


class Leader:
    """Holds that process. It is started anew, once, where it fails: it trains through a whole search, and may come to
    what no candidate does.

    A change is timed against it and not against the workload's own set-up: of two ratios that were measured one after
    the other the luckier would win, and nothing after a lucky one.
    """

    def __init__(self, bench: Bench, settings: Settings, stack: ExitStack) -> None:
        """`stack` ends the process. Raises what Bench.hold does."""
        self._bench, self._own, self.settings = bench, settings, settings
        self.given_up: str | None = None
        """Why no change can be timed any more."""
        self.interrupted = False
        """Whether somebody asked to try no more."""
        self.usual_spread = 0.0
        """Of its blocks against those of another process of the same, statistics.block_spread."""
        self._again = False
        self._held = ExitStack()
        stack.callback(lambda: self._held.close())
        self.worker = self._started()

    def failed(self) -> bool:
        """Whether the last that went wrong was this process's."""
        try:
            return self.worker.ended or bool(self.worker.call(f"{TIMING}:failed", timeout=LOAD_SECONDS))
        except CandidateFailed:
            return True

    def renew(self, reason: str) -> None:
        """Start it anew; the second time, and where it can't be, give it up."""
        self._held.close()
        if not self._again:
            self._again = True
            try:
                self.worker = self._started()
                return
            except FAILURES as error:
                reason = told(error)
        what = "the workload's own set-up" if self.settings == self._own else "the best so far"
        self.given_up = f"{what}, which changes are timed against, failed: {reason}"

    def give_way(self, settings: Settings, worker: Worker | None, held: ExitStack) -> None:
        """Have another set-up lead: in the process of it that `held` has open, or in a new one where there is none."""
        self._held.close()
        self.settings = settings
        if worker is not None:
            self._held, self.worker = held.pop_all(), worker
            return
        try:
            self.worker = self._started()
        except FAILURES as error:
            self.renew(told(error))

    def _started(self) -> Worker:
        (worker,) = self._held.enter_context(self._bench.hold(self.settings))
        return worker
