"""
Deferreds that several wait for, and for a limited time.
"""

import time

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactor, MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.deferreds import Semaphore, SharedResult, timeOfDay, useMonotonicClock, withDeadline


class SharedTests(SynchronousTestCase):
    """
    L{SharedResult}.
    """

    def test_everybody(self) -> None:
        """Early and late, everybody gets the result; nobody's callbacks change it."""
        source: Deferred[int] = Deferred()
        shared = SharedResult(source)
        early = shared.wait().addCallback(lambda result: result + 1)
        other = shared.wait()
        source.callback(1)
        self.assertEqual(self.successResultOf(early), 2)
        self.assertEqual(self.successResultOf(other), 1)
        self.assertEqual(self.successResultOf(shared.wait()), 1)

    def test_failure(self) -> None:
        """A failure is everybody's, and is not reported as lost."""
        source: Deferred[int] = Deferred()
        shared = SharedResult(source)
        early = shared.wait()
        source.errback(ValueError())
        self.failureResultOf(early, ValueError)
        self.failureResultOf(shared.wait(), ValueError)

    def test_cancel(self) -> None:
        """The source is cancelled with its last waiter."""
        cancelled = []
        source: Deferred[int] = Deferred(cancelled.append)
        shared = SharedResult(source)
        one, two = shared.wait(), shared.wait()
        one.cancel()
        self.failureResultOf(one, CancelledError)
        self.assertEqual(cancelled, [])
        self.assertFalse(shared.abandoned)
        two.cancel()
        self.assertEqual(cancelled, [source])
        self.assertTrue(shared.abandoned)
        self.failureResultOf(two, CancelledError)


class SlotsTests(SynchronousTestCase):
    """
    L{Semaphore}.
    """

    def test_order(self) -> None:
        """First come, first served; who gives up is left out."""
        slots = Semaphore(1)
        self.successResultOf(slots.acquire())
        one, two, three = slots.acquire(), slots.acquire(), slots.acquire()
        one.cancel()
        self.failureResultOf(one, CancelledError)
        self.assertEqual(slots.waiting, 2)
        slots.release()
        self.successResultOf(two)
        self.assertNoResult(three)
        slots.release()
        self.successResultOf(three)
        slots.release()
        self.assertEqual(slots.free, 1)


class DeadlineTests(SynchronousTestCase):
    """
    L{withDeadline}.
    """

    def test_atOnce(self) -> None:
        """What is there at once costs no timer."""
        clock = Clock()
        self.assertEqual(self.successResultOf(withDeadline(clock, 5, lambda: 3)), 3)
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_late(self) -> None:
        """What takes too long is cancelled."""
        clock = Clock()
        cancelled: list[object] = []
        d = withDeadline(clock, 5, lambda: Deferred(cancelled.append))
        clock.advance(5)
        self.failureResultOf(d, TimeoutError)
        self.assertEqual(len(cancelled), 1)

    def test_deaf(self) -> None:
        """What does not let itself be cancelled is not waited for either, nor heard later."""
        clock = Clock()
        source: Deferred[int] = Deferred(lambda d: None)
        chained: Deferred[int] = Deferred().addCallback(lambda _: source)
        d = withDeadline(clock, 5, lambda: chained)
        chained.callback(0)
        clock.advance(5)
        self.failureResultOf(d, TimeoutError)
        source.addErrback(lambda _: None)

    def test_endpoint(self) -> None:
        """
        A connection that is given up before it is there is late, or cancelled,
        like everything else: who tries the next server must know.
        """
        clock, endpoint = Clock(), TCP4ClientEndpoint(MemoryReactor(), "192.0.2.1", 25)
        factory = Factory.forProtocol(Protocol)
        d = withDeadline(clock, 5, endpoint.connect, factory)
        clock.advance(5)
        self.failureResultOf(d, TimeoutError)
        d = withDeadline(clock, 5, endpoint.connect, factory)
        d.cancel()
        self.failureResultOf(d, CancelledError)

    def test_cancel(self) -> None:
        """It may be cancelled, which ends its timer."""
        clock = Clock()
        d = withDeadline(clock, 5, Deferred)
        d.cancel()
        self.failureResultOf(d, CancelledError)
        self.assertEqual(clock.getDelayedCalls(), [])


class SteadyTests(SynchronousTestCase):
    """
    L{useMonotonicClock}.
    """

    def test_clockSet(self) -> None:
        """A time of day that is set moves no timer, also of those that wait already."""
        reactor = MemoryReactorClock()
        reactor.advance(2e9)
        called: list[str] = []
        reactor.callLater(5.0, called.append, "before")
        earliest = time.monotonic() + 5.0
        useMonotonicClock(reactor)
        reactor.callLater(5.0, called.append, "after")
        latest = time.monotonic() + 5.0
        for call in reactor.getDelayedCalls():
            self.assertTrue(earliest <= call.getTime() <= latest)
        self.assertIs(reactor.timeOfDay, time.time)

    def test_testsClock(self) -> None:
        """The clock of a test is both."""
        clock = Clock()
        clock.advance(5)
        self.assertEqual(timeOfDay(clock), 5.0)
