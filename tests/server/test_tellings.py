"""
Who was told, as one process knows it; what several machines know is in
L{tests.integration.test_cluster_refusals}.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import StoreAway
from deferrals.server.tellings import (
    NOTE_SECONDS,
    TAKEN_SECONDS,
    OwnTellings,
    SharedTellings,
    noteName,
)
from deferrals.spool.memory import MemorySpool
from deferrals.spool.postgresql.owners import Identity


class OwnTellingsTests(SynchronousTestCase):
    """
    L{OwnTellings}.
    """

    def test_notes(self) -> None:
        """What the spool's notes say, and what is noted meanwhile; nothing else of them."""
        spool = MemorySpool(Clock())
        spool.note(noteName("a@example.net"), "5.5", NOTE_SECONDS)
        for name, value in (("x", "1"), ('["digest"]', "1"), ('["digest", "b"]', "x")):
            spool.note(name, value, NOTE_SECONDS)
        own = OwnTellings(spool)
        self.assertEqual(self.now(own.told()), {"a@example.net": 5.5})
        self.assertEqual(self.now(own.take("a@example.net", 6.0)), 5.5)
        self.assertEqual(self.now(own.take("b@example.net", 6.0)), 0.0)
        self.now(own.done("a@example.net", 6.0))
        self.assertIsNone(self.now(own.take("a@example.net", 6.0)))
        self.assertTrue(own.isOurs("a@example.net"))

    def now(self, coroutine: object) -> object:
        return self.successResultOf(Deferred.fromCoroutine(coroutine))  # type: ignore[arg-type]


class _Database:
    """
    One that may be away, and answers what it was given to answer.
    """

    def __init__(self) -> None:
        self.isAway = False
        self.answer: object = {}
        self.asked = 0

    def run(self, function: object) -> Deferred[object]:
        self.asked += 1
        return fail(StoreAway("away")) if self.isAway else succeed(self.answer)


class AwayTests(SynchronousTestCase):
    """
    L{SharedTellings}, while the database is away.
    """

    def setUp(self) -> None:
        self.clock, self.database = Clock(), _Database()
        own = OwnTellings(MemorySpool(self.clock))
        me = Identity("mx1", 0, "1", 20.0)
        self.tellings = SharedTellings(own, self.database, me, self.clock)  # type: ignore[arg-type]

    def test_said(self) -> None:
        """That one was told is said when the database is back, once."""
        self.database.isAway = True
        d = Deferred.fromCoroutine(self.tellings.done("a", 1.0))
        self.successResultOf(d)
        self.failureResultOf(Deferred.fromCoroutine(self.tellings.settle()), StoreAway)
        self.database.isAway = False
        asked = self.database.asked
        for _ in range(2):
            self.successResultOf(Deferred.fromCoroutine(self.tellings.settle()))
        self.assertEqual(self.database.asked, asked + 1)

    def test_takes(self) -> None:
        """Nobody is told by who cannot take it, or took it too long ago."""
        self.database.isAway = True
        self.failureResultOf(Deferred.fromCoroutine(self.tellings.take("a", 1.0)), StoreAway)
        self.assertFalse(self.tellings.isOurs("a"))
        self.database.isAway, self.database.answer = False, 0.0
        self.successResultOf(Deferred.fromCoroutine(self.tellings.take("a", 1.0)))
        self.assertTrue(self.tellings.isOurs("a"))
        self.clock.advance(TAKEN_SECONDS)
        self.assertFalse(self.tellings.isOurs("a"))
