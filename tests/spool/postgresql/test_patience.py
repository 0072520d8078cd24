"""
Tests for L{deferrals.spool.postgresql.patience}.
"""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import SpoolError
from deferrals.spool.postgresql.patience import PatientThread
from tests.spool.postgresql.fakes import FakeThread


class PatientThreadTests(SynchronousTestCase):
    """
    L{PatientThread}.
    """

    def setUp(self) -> None:
        self.clock, self.thread = Clock(), FakeThread()
        self.patience = PatientThread(self.thread, self.clock, "the disk")

    def test_one(self) -> None:
        """Functions run one after the other; what one raises is its caller's."""
        self.thread.isBusy = True
        done: list[int] = []
        first = self.patience.run(5, done.append, 1)
        second = self.patience.run(5, lambda: 1 // 0)
        self.clock.advance(4)
        self.thread.work()
        self.successResultOf(first)
        self.failureResultOf(second, ZeroDivisionError)
        self.assertEqual(done, [1])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stuck(self) -> None:
        """
        While one does not end, what waits and what comes fails, and does not happen; the
        time of what waits begins when it begins.
        """
        self.thread.isBusy = True
        done: list[int] = []
        first = self.patience.run(5, done.append, 1)
        second = self.patience.run(1, done.append, 2)
        self.clock.advance(4.9)
        self.assertNoResult(second)
        self.clock.advance(0.1)
        third = self.patience.run(5, done.append, 3)
        for one in (first, second, third):
            failure = self.failureResultOf(one, SpoolError)
            self.assertEqual(failure.getErrorMessage(), "the disk does not answer")
        self.thread.work()
        self.assertEqual(done, [1])
        self.thread.isBusy = False
        self.successResultOf(self.patience.run(5, done.append, 4))
        self.assertEqual(done, [1, 4])

    def test_cancelled(self) -> None:
        """Who does not wait any longer is told nothing."""
        self.thread.isBusy = True
        first = self.patience.run(5, int)
        second = self.patience.run(5, lambda: 1 // 0)
        for one in (first, second):
            one.cancel()
            one.addErrback(lambda _: None)
        self.thread.work()

    def test_close(self) -> None:
        """At the end nothing waits, and no timer does."""
        self.thread.isBusy = True
        first = self.patience.run(5, int)
        second = self.patience.run(5, int)
        self.patience.close()
        self.failureResultOf(second, SpoolError)
        self.failureResultOf(self.patience.run(5, int), SpoolError)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.thread.work()
        self.successResultOf(first)
