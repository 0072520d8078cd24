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
    maybeDeferred,
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
    Threads,
    TogetherInThread,
    asDeferred,
    atOnce,
    knownNow,
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


class TogetherInThreadTests(SynchronousTestCase):
    """
    L{TogetherInThread}, whose thread ends when it is told to.
    """

    def setUp(self) -> None:
        self.begun: list[Deferred[None]] = []
        self.ran: list[str] = []
        self.together = TogetherInThread(self.inThread, 3)

    def inThread(self, function: Any, *args: Any) -> Deferred[Any]:
        d: Deferred[None] = Deferred()
        self.begun.append(d)
        return d.addCallback(lambda _: function(*args))

    def upper(self, name: str) -> str:
        self.ran.append(name)
        if name == "bad":
            raise ValueError("on purpose")
        return name.upper()

    def run_(self, *names: str) -> list[Deferred[str]]:
        return [self.together.run(self.upper, name) for name in names]

    def end(self) -> None:
        self.begun.pop(0).callback(None)

    def test_together(self) -> None:
        """What comes while the thread is busy runs at one go, not more than so many."""
        results = self.run_("a", "b", "c", "d", "e")
        self.assertEqual(len(self.begun), 1)
        self.end()
        self.assertEqual((self.ran, len(self.begun)), (["a"], 1))
        self.end()
        self.assertEqual((self.ran, len(self.begun)), (["a", "b", "c", "d"], 1))
        self.end()
        self.assertEqual(self.begun, [])
        self.assertEqual([self.successResultOf(d) for d in results], ["A", "B", "C", "D", "E"])

    def test_later(self) -> None:
        """A thread that has nothing to do begins with the next one."""
        for name in "ab":
            (result,) = self.run_(name)
            self.end()
            self.assertEqual(self.successResultOf(result), name.upper())

    def test_fails(self) -> None:
        """What fails fails alone."""
        results = self.run_("a", "b", "bad", "c")
        self.end()
        self.end()
        self.failureResultOf(results.pop(2), ValueError)
        self.assertEqual([self.successResultOf(d) for d in results], ["A", "B", "C"])

    def test_noThread(self) -> None:
        """Where there is no thread, all fail."""
        results = self.run_("a")
        self.begun.pop().errback(ValueError("stopped"))
        self.failureResultOf(results[0], ValueError)

    def test_cancelled(self) -> None:
        """What is not waited for any longer does not run; nor does its result come."""
        running, waiting, other = self.run_("a", "b", "c")
        running.cancel()
        waiting.cancel()
        self.end()
        self.end()
        self.assertEqual(self.ran, ["a", "c"])
        self.assertEqual(self.successResultOf(other), "C")
        self.failureResultOf(running, CancelledError)
        self.failureResultOf(waiting, CancelledError)

    def test_atOnce(self) -> None:
        """Results that are there at once are told at once."""
        together = TogetherInThread(maybeDeferred, 3)
        found = [self.successResultOf(together.run(str.upper, name)) for name in "ab"]
        self.assertEqual(found, ["A", "B"])


class ThreadsTests(SynchronousTestCase):
    """
    L{Threads}, whose threads end when they are told to.
    """

    def setUp(self) -> None:
        self.begun: list[tuple[str, Deferred[str]]] = []
        self.threads = Threads(self.inThread, 2)

    def inThread(self, function: Any, *args: Any) -> Deferred[Any]:
        d: Deferred[Any] = Deferred()
        self.begun.append((args[0], d))
        return d.addCallback(lambda _: function(*args))

    def end(self, name: str) -> None:
        ((found, d),) = [pair for pair in self.begun if pair[0] == name]
        self.begun.remove((found, d))
        d.callback("")

    def running(self) -> list[str]:
        return [name for name, _ in self.begun]

    def test_limit(self) -> None:
        """So many run at once, in the order in which they were asked for."""
        results = [self.threads.run(str.upper, name) for name in "abc"]
        self.assertEqual((self.running(), self.threads.waiting), (["a", "b"], 1))
        self.end("a")
        self.assertEqual(self.running(), ["b", "c"])
        self.assertEqual(self.successResultOf(results[0]), "A")

    def test_keepsItsSlot(self) -> None:
        """A caller that gives up leaves the thread its slot until the thread has ended."""
        given, _, waiting = (self.threads.run(str.upper, name) for name in "abc")
        given.cancel()
        self.failureResultOf(given, CancelledError)
        self.assertEqual(self.running(), ["a", "b"])
        self.end("a")
        self.assertEqual(self.running(), ["b", "c"])
        self.assertNoResult(waiting)

    def test_leavesTheQueue(self) -> None:
        """A caller that gives up while it waits has no thread at all."""
        for name in "ab":
            self.threads.run(str.upper, name)
        waiting = self.threads.run(str.upper, "c")
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.end("a")
        self.assertEqual((self.running(), self.threads.waiting), (["b"], 0))

    def test_alone(self) -> None:
        """What only one thread may touch waits for that thread, and takes no slot meanwhile."""
        alone = self.threads.alone()
        one, two = alone.run(str.upper, "a"), alone.run(str.upper, "b")
        self.threads.run(str.upper, "c")
        self.assertEqual(self.running(), ["a", "c"])
        one.cancel()
        self.failureResultOf(one, CancelledError)
        self.assertEqual(self.running(), ["a", "c"])
        self.end("a")
        self.assertEqual(self.running(), ["c", "b"])
        self.end("b")
        self.assertEqual(self.successResultOf(two), "B")

    def test_aloneAndGivenUp(self) -> None:
        """One that gives up while no slot is free lets the next one wait for it."""
        for name in "ab":
            self.threads.run(str.upper, name)
        alone = self.threads.alone()
        one, two = alone.run(str.upper, "c"), alone.run(str.upper, "d")
        one.cancel()
        self.failureResultOf(one, CancelledError)
        self.end("a")
        self.assertEqual(self.running(), ["b", "d"])
        self.assertNoResult(two)


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
