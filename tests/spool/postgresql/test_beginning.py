"""
Tests for L{deferrals.spool.postgresql.beginning}; those with a real database are in
L{tests.integration.test_cluster_start}.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import OutcomeUnknown, SpoolError, StoreAway
from deferrals.spool.postgresql.beginning import AGAIN_SECONDS, Beginning


class Connection:
    """
    @ivar did: what was asked of it.
    @ivar opened: what C{open} comes to.
    @ivar expected: what C{there} comes to.
    """

    def __init__(self) -> None:
        self.did: list[str] = []
        self.opened: Deferred[None] = succeed(None)
        self.expected: Deferred[None] = Deferred()

    def open(self) -> Deferred[None]:
        self.did.append("open")
        return self.opened

    def there(self) -> Deferred[None]:
        self.did.append("there")
        return self.expected

    def close(self) -> Deferred[None]:
        self.did.append("close")
        if not self.expected.called:
            self.expected.errback(StoreAway("it is closed"))
            self.expected.addErrback(lambda _: None)  # perhaps nobody waits for it
        return succeed(None)


class BeginningTests(SynchronousTestCase):
    """
    L{Beginning}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.first, self.second = Connection(), Connection()
        self.beginning = Beginning([self.first, self.second], self.clock)
        self.waited: list[None] = []
        self.beginning.waits = lambda: self.waited.append(None)
        self.wrong: list[Exception] = []
        self.begun = 0

    async def begin(self) -> None:
        await self.beginning.connections()
        self.begun += 1
        if self.wrong:
            raise self.wrong.pop(0)

    def whole(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self.beginning.whole(self.begin))

    def test_there(self) -> None:
        """What is there is not waited for."""
        self.successResultOf(self.whole())
        self.assertEqual((self.first.did, self.second.did), (["open"], ["open"]))
        self.assertEqual((self.waited, self.beginning.isWaiting), ([], False))

    def test_waits(self) -> None:
        """One that is away is opened once, and then waited for; whoever waits is told once."""
        self.first.opened = fail(StoreAway("refused"))
        done = self.whole()
        self.assertEqual((len(self.waited), self.beginning.isWaiting), (1, True))
        self.clock.advance(AGAIN_SECONDS)
        self.assertNoResult(done)
        self.wrong = [StoreAway("again"), OutcomeUnknown("and again")]
        self.first.expected.callback(None)
        self.second.expected.callback(None)
        self.clock.pump([AGAIN_SECONDS] * 2)
        self.successResultOf(done)
        self.assertEqual(self.first.did, ["open", "there", "there", "there"])
        self.assertEqual((len(self.waited), self.begun), (1, 3))

    def test_fails(self) -> None:
        """What is wrong with one that is there ends the start; a command waits for nothing."""
        self.wrong = [SpoolError("fsync = off")]
        self.failureResultOf(self.whole(), SpoolError)
        self.beginning.waits = None
        self.wrong = [StoreAway("refused")]
        self.first.expected = self.second.expected = succeed(None)
        self.failureResultOf(self.whole(), StoreAway)
        self.assertEqual(self.waited, [])

    def test_later(self) -> None:
        """Once it was waited for, what is wrong is said, once, and tried again."""
        said: list[str] = []

        def observe(event: Any) -> None:
            said.append(event["log_format"].format(**event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        self.first.expected = self.second.expected = succeed(None)
        full = [SpoolError("256 processes") for _ in range(2)]
        self.wrong = [StoreAway("refused"), *full, SpoolError("no file queue")]
        done = self.whole()
        self.clock.pump([AGAIN_SECONDS] * 4)
        self.successResultOf(done)
        wanted = [f"the queue cannot be used: {one}" for one in ("256 processes", "no file queue")]
        self.assertEqual(said, wanted)

    def test_end(self) -> None:
        """A wait that is ended fails at once: for a connection, or for the next time."""
        for isPausing in (True, False):
            self.setUp()
            self.first.opened = fail(StoreAway("refused"))
            done = self.whole()
            if not isPausing:
                self.clock.advance(AGAIN_SECONDS)
            self.assertNoResult(done)
            self.beginning.end()
            self.failureResultOf(done, StoreAway)
            self.assertEqual(self.clock.getDelayedCalls(), [])
            self.assertEqual(self.second.did, ["close"])

    def test_askedNoMore(self) -> None:
        """Once that is ended, or all is known, nothing more is waited for."""
        self.beginning.end(isBegun=True)
        asked = self.beginning.asked(lambda: fail(StoreAway("refused")))
        self.failureResultOf(Deferred.fromCoroutine(asked), StoreAway)
        self.assertEqual((self.first.did, self.waited), ([], []))

    def test_askedEnds(self) -> None:
        """What is asked is waited for, which is told, until that is ended."""
        asked = self.beginning.asked(lambda: fail(StoreAway("refused")))
        done = Deferred.fromCoroutine(asked)
        self.assertNoResult(done)
        self.assertEqual((len(self.waited), self.beginning.isWaiting), (1, True))
        self.beginning.end(isBegun=True)
        self.failureResultOf(done, StoreAway)

    def test_asked(self) -> None:
        """What has to be known at the start is asked until it is known."""
        answers: list[Any] = [fail(StoreAway("refused")), fail(OutcomeUnknown("lost"))]
        answers.append(succeed("known"))
        self.first.expected = succeed(None)
        asked = self.beginning.asked(lambda: answers.pop(0))
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(asked)), "known")
        self.beginning.waits = None
        asked = self.beginning.asked(lambda: fail(StoreAway("refused")))
        self.failureResultOf(Deferred.fromCoroutine(asked), StoreAway)
