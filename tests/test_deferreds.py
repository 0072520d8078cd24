"""
Deferreds that several wait for, and for a limited time.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator
from typing import Any, NoReturn

from twisted.internet.defer import (
    CancelledError,
    Deferred,
    TimeoutError,
    fail,
    succeed,
)
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactor, MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from deferrals.deferreds import (
    Kept,
    Semaphore,
    SharedResult,
    UnderWay,
    asDeferred,
    atOnce,
    knownNow,
    promptly,
    timeOfDay,
    useMonotonicClock,
    withDeadline,
)
from deferrals.errors import StageError


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


class KeptTests(SynchronousTestCase):
    """
    L{Kept}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.found: list[Deferred[int]] = []
        self.kept = Kept(self.clock.seconds, self.find, 15)

    def find(self) -> Deferred[int]:
        self.found.append(Deferred())
        return self.found[-1]

    def test_together(self) -> None:
        """Those who ask at once share an answer; one that leaves takes it from no other."""
        first, second = self.kept.get(), self.kept.get()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.clock.advance(100)
        self.found[0].callback(1)
        self.assertEqual(self.successResultOf(second), 1)
        self.assertEqual(len(self.found), 1)

    def test_slow(self) -> None:
        """What took long stands for a while."""
        self.kept.get()
        self.clock.advance(2)
        self.found[0].callback(1)
        self.clock.advance(14)
        self.assertEqual(self.successResultOf(self.kept.get()), 1)
        self.clock.advance(1)
        self.assertNoResult(self.kept.get())

    def test_quick(self) -> None:
        """What did not is found out anew; so is what failed."""
        self.kept.get()
        self.found[0].callback(1)
        d = self.kept.get()
        self.clock.advance(2)
        self.found[1].errback(ValueError())
        self.failureResultOf(d, ValueError)
        self.assertNoResult(self.kept.get())


class Answer:
    """
    An awaitable that is neither a coroutine nor a Deferred.
    """

    def __await__(self) -> Generator[Any, Any, int]:
        return (yield from succeed(1).__await__())


class AsDeferredTests(SynchronousTestCase):
    """
    L{asDeferred} and L{atOnce}.
    """

    def raises(self) -> NoReturn:
        raise ValueError()

    async def coroutine(self) -> int:
        return await Answer()

    async def broken(self) -> int:
        raise ValueError()

    def test_values(self) -> None:
        """A value, a Deferred, a coroutine, another awaitable: it is all one."""
        functions: list[Callable[[], Any]]
        functions = [lambda: 1, lambda: succeed(1), self.coroutine, Answer]
        for function in functions:
            self.assertEqual(self.successResultOf(asDeferred(function)), 1)

    def test_failures(self) -> None:
        """So are exceptions, at once or not."""
        functions: list[Callable[[], Any]]
        functions = [self.raises, lambda: fail(ValueError()), self.broken]
        for function in functions:
            self.failureResultOf(asDeferred(function), ValueError)

    def test_asyncio(self) -> None:
        """A caller that awaits asyncio's futures is told what to write instead."""
        loop = asyncio.new_event_loop()
        self.addCleanup(loop.close)
        future: Awaitable[int] = loop.create_future()

        async def waits() -> int:
            return await future

        async def sleeps() -> None:
            await asyncio.sleep(1)

        functions: list[Callable[[], Any]] = [waits, sleeps, lambda: future]
        for function in functions:
            error = self.failureResultOf(asDeferred(function), TypeError).value
            self.assertIn("Deferred.fromFuture(asyncio.ensure_future(...))", str(error))

    def test_cancelled(self) -> None:
        """A coroutine that is cancelled sees that where it awaits, and can tidy up."""
        seen: list[str] = []

        async def waits() -> None:
            try:
                await Deferred()
            except CancelledError:
                seen.append("cancelled")
                raise
            finally:
                seen.append("finally")

        d = asDeferred(waits)
        d.cancel()
        self.failureResultOf(d, CancelledError)
        self.assertEqual(seen, ["cancelled", "finally"])

    def test_atOnce(self) -> None:
        """What has to answer at once is told so; nothing that it began is left alone."""
        self.assertEqual(atOnce((1, None), "it"), (1, None))
        waiting: Deferred[int] = Deferred()
        functions: list[Callable[[], Any]]
        functions = [self.coroutine, Answer, lambda: waiting, lambda: fail(ValueError())]
        for function in functions:
            error = self.assertRaises(StageError, atOnce, function(), "it")
            self.assertIn("it has to answer at once", str(error))
        self.assertTrue(waiting.called)

    def test_badCanceller(self) -> None:
        """A deadline holds although what it cancels raises."""

        def canceller(_: Deferred[int]) -> None:
            raise ValueError("no")

        clock = Clock()
        waiting: Deferred[int] = Deferred(canceller)
        d = withDeadline(clock, 5, lambda: waiting)
        clock.advance(5)
        self.failureResultOf(d, TimeoutError)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)


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

    def test_manyAtOnce(self) -> None:
        """However many wait that give their slot back at once, all get it, in their order."""
        slots, found = Semaphore(1), []

        def done(_: None, number: int) -> None:
            found.append(number)
            if number == 7:  # who comes in between is behind those who wait
                slots.acquire().addCallback(done, -1)
            slots.release()

        self.successResultOf(slots.acquire())
        for number in range(5000):
            slots.acquire().addCallback(done, number)
        slots.release()
        self.assertEqual(found, [*range(5000), -1])
        self.assertEqual((slots.free, slots.waiting), (1, 0))


class DeadlineTests(SynchronousTestCase):
    """
    L{withDeadline}.
    """

    def test_atOnce(self) -> None:
        """What is there at once costs no timer."""
        clock = Clock()
        self.assertEqual(self.successResultOf(withDeadline(clock, 5, lambda: 3)), 3)
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_promptly(self) -> None:
        """What is there at once is no Deferred; what waits has its deadline."""
        clock = Clock()
        self.assertEqual(promptly(clock, 5, lambda: 3), 3)
        self.assertRaises(ValueError, promptly, clock, 5, int, "x")
        self.assertEqual(clock.getDelayedCalls(), [])
        waits: Deferred[int] = Deferred()
        d = promptly(clock, 5, lambda: waits)
        clock.advance(5)
        self.failureResultOf(d, TimeoutError)

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


class KnownNowTests(SynchronousTestCase):
    """
    L{knownNow}.
    """

    def test_now(self) -> None:
        """What fails at once is raised, and not told as well."""
        told: list[Failure] = []

        async def failing() -> None:
            raise ValueError("now")

        self.assertRaises(ValueError, knownNow, failing(), told.append)
        self.assertEqual(told, [])

    def test_later(self) -> None:
        """What fails later is told."""
        told: list[Failure] = []
        for error in (None, ValueError("later")):
            waiting: Deferred[None] = Deferred()

            async def waits(waiting: Deferred[None] = waiting) -> None:
                await waiting

            knownNow(waits(), told.append)
            waiting.callback(None) if error is None else waiting.errback(error)
        self.assertEqual([str(one.value) for one in told], ["later"])


class UnderWayTests(SynchronousTestCase):
    """
    L{UnderWay}.
    """

    def setUp(self) -> None:
        self.begun: list[Deferred[str]] = []
        self.underWay: UnderWay[str] = UnderWay()

    def begin(self) -> Deferred[str]:
        d: Deferred[str] = Deferred()
        self.begun.append(d)
        return d

    def test_shared(self) -> None:
        """Who asks meanwhile shares it; who asks later, or for another key, begins anew."""
        one, two = (self.underWay.wait("a", self.begin) for _ in "12")
        other = self.underWay.wait("b", self.begin)
        self.assertEqual(len(self.begun), 2)
        self.begun[0].callback("x")
        self.assertEqual((self.successResultOf(one), self.successResultOf(two)), ("x", "x"))
        self.assertNoResult(other)
        self.assertNoResult(self.underWay.wait("a", self.begin))
        self.assertEqual(len(self.begun), 3)

    def test_failed(self) -> None:
        """A failure is shared, too, and not kept."""
        waiting = [self.underWay.wait("a", self.begin) for _ in "12"]
        self.begun[0].errback(StageError("x"))
        for one in waiting:
            self.failureResultOf(one, StageError)
        self.assertNoResult(self.underWay.wait("a", self.begin))

    def test_abandoned(self) -> None:
        """What is left by all its callers is not shared, however late it ends."""
        gate: Deferred[None] = Deferred()

        async def reluctant() -> str:
            try:
                return await self.begin()
            finally:
                await gate

        one = self.underWay.wait("a", lambda: Deferred.fromCoroutine(reluctant()))
        one.cancel()
        self.failureResultOf(one, CancelledError)
        two = self.underWay.wait("a", self.begin)
        self.assertNoResult(two)
        gate.callback(None)
        three = self.underWay.wait("a", self.begin)
        self.assertEqual(len(self.begun), 2)
        self.begun[1].callback("y")
        self.assertEqual((self.successResultOf(two), self.successResultOf(three)), ("y", "y"))

    def test_atOnce(self) -> None:
        """What is there at once is not kept."""
        for _ in "12":
            found = self.underWay.wait("a", lambda: succeed("z"))
            self.assertEqual(self.successResultOf(found), "z")
