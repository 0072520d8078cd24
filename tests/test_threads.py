"""
L{deferrals.threads}.
"""

import threading
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import (
    CancelledError,
    Deferred,
    maybeDeferred,
)
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.threads import MAX_STUCK, STUCK_SECONDS, OwnThread, Threads, TogetherInThread


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
        return [self.runInTurn(name) for name in names]

    def runInTurn(self, name: str) -> Deferred[str]:
        """
        Ask for one, in a turn of its own.
        """
        return self.together.run(self.upper, name)

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


class StuckThreadTests(TogetherInThreadTests):
    """
    L{TogetherInThread}, with a function that does not end: in the middle of it, time
    goes by.
    """

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.together = TogetherInThread(self.inThread, 3, self.clock)
        self.inside: list[Deferred[str]] = []

    def runInTurn(self, name: str) -> Deferred[str]:
        result = super().runInTurn(name)
        self.clock.advance(0)
        return result

    def test_turn(self) -> None:
        """What comes in one turn of the reactor runs at one go, once the turn is over."""
        results = [self.together.run(self.upper, name) for name in "abcd"]
        results[1].cancel()
        self.assertEqual(self.begun, [])
        self.clock.advance(0)
        self.end()
        self.assertEqual((self.ran, self.begun), (["a", "c", "d"], []))
        self.failureResultOf(results.pop(1), CancelledError)
        self.assertEqual([self.successResultOf(d) for d in results], ["A", "C", "D"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def upper(self, name: str) -> str:
        if name == "stuck":
            self.clock.advance(STUCK_SECONDS)
            self.told = [d.called for d in self.inside]
        return super().upper(name)

    def test_neighbours(self) -> None:
        """What ended before it is told, and what has not begun goes to another thread."""
        self.inside = self.run_("a", "b", "stuck", "c", "d")
        self.end()
        self.begun.insert(0, self.begun.pop())  # one is on its way to the thread
        self.end()
        self.assertEqual(self.told, [True, True, False, False, False])
        self.assertEqual(self.ran, ["a", "b", "stuck"])
        self.assertEqual(self.successResultOf(self.inside[2]), "STUCK")
        self.end()
        self.assertEqual(self.ran, ["a", "b", "stuck", "c", "d"])
        self.assertEqual([d.called for d in self.inside], [True] * 5)
        self.assertEqual((self.begun, self.clock.getDelayedCalls()), ([], []))

    def test_bounded(self) -> None:
        """Not more than so many threads are lost; one that comes back is no longer."""
        self.run_("a")
        for _ in range(MAX_STUCK + 2):
            self.run_("b")
            self.clock.advance(STUCK_SECONDS)
        self.assertEqual(len(self.begun), MAX_STUCK + 1)
        self.end()
        self.assertEqual(len(self.begun), MAX_STUCK)
        self.clock.advance(STUCK_SECONDS)
        self.assertEqual(len(self.begun), MAX_STUCK + 1)
        while self.begun:
            self.end()
        self.assertEqual(self.ran, ["a", *["b"] * (MAX_STUCK + 2)])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_failsLater(self) -> None:
        """A thread that ends in vain, long after, takes nothing with it."""
        (first,) = self.run_("a")
        (second,) = self.run_("b")
        self.clock.advance(STUCK_SECONDS)
        late = self.begun.pop(0)
        self.end()
        self.assertEqual((self.ran, second.called), (["a", "b"], True))
        late.errback(ValueError("stopped"))
        self.assertEqual(self.successResultOf(first), "A")


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


class OwnThreadTests(SynchronousTestCase):
    """
    L{OwnThread}.
    """

    def test_ownThread(self) -> None:
        """What it is called with runs in its thread, in order, until it is to end."""
        told: list[str] = []
        done = threading.Event()

        class Reactor:
            def callFromThread(self, tell: Callable[[], None]) -> None:
                tell()
                told.append(threading.current_thread().name)
                if len(told) == 3:
                    done.set()

        reactor: Any = Reactor()
        thread = OwnThread(reactor, "mine")
        results = [thread(int, text) for text in ("1", "x", "3")]
        thread.end()
        thread(told.append, "late")
        self.assertTrue(done.wait(60))
        self.assertEqual(told, ["mine"] * 3)
        self.failureResultOf(results.pop(1), ValueError)
        self.assertEqual([self.successResultOf(d) for d in results], [1, 3])
