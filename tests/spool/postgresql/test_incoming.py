"""
Tests for L{deferrals.spool.postgresql.incoming}; those with a real server are in
L{tests.integration.test_incoming}.
"""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import OutcomeUnknown, SpoolError, StoreAway
from deferrals.model.ids import formatId
from deferrals.spool.postgresql import contents
from deferrals.spool.postgresql.contents import Contents
from deferrals.spool.postgresql.incoming import BEHIND_PIECES, PIECE_SECONDS, IncomingContents
from deferrals.spool.postgresql.large import LargeContents

#: A message, its content's file, and the owner that this process is.
NUMBER, PATH, ME = 77, "/spool/77.part", 5

PIECE = 10


class FakeStore:
    """
    A connection of which each statement waits until it is told what becomes of it.

    @ivar asked: what it was asked for, and how to answer.
    @ivar done: what it has done.
    """

    def __init__(self) -> None:
        self.isAway = False
        self.asked: list[tuple[Any, tuple[Any, ...], Deferred[None]]] = []
        self.done: list[Any] = []

    def alone(self, function: Any, *args: Any) -> Deferred[None]:
        if self.isAway:
            return fail(StoreAway("it is away"))
        d: Deferred[None] = Deferred()
        self.asked.append((function, args, d))
        return d

    def work(self, error: Exception | None = None) -> None:
        """
        Do what is next, or do not; what is not waited for is not done.
        """
        while self.asked:
            function, args, d = self.asked.pop(0)
            if not d.called:
                break
        else:
            return
        if error is not None:
            d.errback(error)
            return
        if function is contents.putFrom:
            number, seq, path, octets, owner = args
            assert (number, path) == (NUMBER, PATH)
            self.done.append((seq, octets, owner))
        else:
            assert (function, args) == (contents.drop, (NUMBER,))
            self.done.append("dropped")
        d.callback(None)


class IncomingTests(SynchronousTestCase):
    """
    L{IncomingContents}, and one of them.
    """

    def setUp(self) -> None:
        self.patch(contents, "PIECE_OCTETS", PIECE)
        self.begin()

    def begin(self) -> None:
        self.store, self.clock, self.coming = FakeStore(), Clock(), set[int]()
        self.me = SimpleNamespace(id=ME, row=SimpleNamespace(id=ME))
        self.forgotten: list[tuple[int, int]] = []
        self.caughtUp = 0
        store: Any = self.store
        me: Any = self.me
        self.all = IncomingContents(store, me, self.clock, self.coming, self.forget)
        one = self.all.follow(NUMBER, PATH, self.onCaughtUp)
        assert one is not None
        self.one = one

    def forget(self, number: int, owner: int) -> None:
        self.forgotten.append((number, owner))

    def onCaughtUp(self) -> None:
        self.caughtUp += 1

    def put(self, size: int) -> Deferred[None]:
        return Deferred.fromCoroutine(self.all.put(NUMBER, PATH, size))

    def test_pieces(self) -> None:
        """Each is put there when it is complete, one after the other."""
        self.one.grew(PIECE - 1)
        self.assertEqual((self.store.asked, self.coming), ([], set()))
        self.one.grew(2 * PIECE + 1)
        self.assertEqual((len(self.store.asked), self.coming), (1, {NUMBER}))
        self.store.work()
        self.store.work()
        self.assertEqual(self.store.asked, [])
        self.assertEqual(self.store.done, [(0, PIECE, ME), (1, PIECE, ME)])
        self.one.ended()
        d = self.put(2 * PIECE + 1)
        self.assertNoResult(d)
        self.store.work()
        self.successResultOf(d)
        self.assertEqual(self.store.done[2:], [(2, 1, ME)])
        self.assertEqual((self.store.asked, self.forgotten), ([], []))

    def test_onePiece(self) -> None:
        """What has no more than one is put there when it is wanted, and not before."""
        self.one.grew(PIECE - 1)
        self.one.ended()
        self.assertEqual(self.store.asked, [])
        d = self.put(PIECE - 1)
        self.store.work()
        self.successResultOf(d)
        self.assertEqual(self.store.done, [(0, PIECE - 1, ME)])

    def test_judged(self) -> None:
        """The last piece of what was begun does not wait for the verdicts."""
        self.one.grew(PIECE + 1)
        self.store.work()
        self.one.ended()
        self.store.work()
        self.successResultOf(self.put(PIECE + 1))
        self.assertEqual(self.store.done, [(0, PIECE, ME), (1, 1, ME)])

    def test_behind(self) -> None:
        """A sender that is faster than the database waits until it is not behind."""
        self.one.grew(BEHIND_PIECES * PIECE)
        self.assertFalse(self.one.isBehind)
        self.one.grew(BEHIND_PIECES * PIECE + PIECE)
        self.assertTrue(self.one.isBehind)
        self.assertEqual(self.caughtUp, 0)
        self.store.work()
        self.assertEqual((self.one.isBehind, self.caughtUp), (False, 1))

    def test_slow(self) -> None:
        """It does not wait for ever: what is not put there in time has its time at the end."""
        said: list[Any] = []
        globalLogPublisher.addObserver(said.append)
        self.addCleanup(globalLogPublisher.removeObserver, said.append)
        self.one.grew(9 * PIECE)
        self.clock.advance(PIECE_SECONDS - 1)
        self.assertEqual((self.one.isBehind, self.caughtUp), (True, 0))
        self.clock.advance(1)
        self.assertEqual((self.one.isBehind, self.caughtUp), (False, 1))
        self.one.grew(20 * PIECE)
        self.store.work()
        self.assertEqual((self.store.done, self.one.isBehind), ([], False))
        ((transaction, why),) = [(one["transaction"], one["error"]) for one in said]
        self.assertEqual((transaction, why.partition(":")[0]), (formatId(NUMBER), "TimeoutError"))
        d = self.put(2 * PIECE)
        self.store.work()
        self.store.work()
        self.successResultOf(d)
        self.assertEqual(self.store.done, [(0, PIECE, ME), (1, PIECE, ME)])

    def test_away(self) -> None:
        """A database that is away has nobody wait; it is asked again with what comes next."""
        self.one.grew(PIECE)
        self.store.work()
        self.store.isAway = True
        self.one.grew(9 * PIECE)
        self.assertFalse(self.one.isBehind)
        self.store.isAway = False
        self.one.grew(9 * PIECE + 1)
        self.store.work()
        self.assertEqual(self.store.done, [(0, PIECE, ME), (1, PIECE, ME)])
        self.assertTrue(self.one.isBehind)

    def test_awayAtTheEnd(self) -> None:
        """Where it is away still when all has come, the content cannot be had."""
        self.one.grew(PIECE)
        self.store.work()
        self.store.isAway = True
        self.failureResultOf(self.put(2 * PIECE), StoreAway)
        self.assertEqual(self.forgotten, [])  # it is the caller's

    def test_unknown(self) -> None:
        """What may be there, or was refused, is put there again, at the end."""
        for error in (OutcomeUnknown("cut"), SpoolError("full")):
            self.begin()
            self.one.grew(PIECE)
            self.store.work(error)
            self.one.grew(3 * PIECE)
            self.assertEqual(self.store.asked, [])
            self.assertFalse(self.one.isBehind)
            d = self.put(2 * PIECE)
            self.store.work()
            self.store.work()
            self.successResultOf(d)
            self.assertEqual(self.store.done, [(0, PIECE, ME), (1, PIECE, ME)])

    def test_refusedAtTheEnd(self) -> None:
        """What the database refuses in the end is not taken."""
        self.one.grew(PIECE)
        d = self.put(2 * PIECE)
        self.store.work()
        self.assertNoResult(d)
        self.store.work(SpoolError("full"))
        self.failureResultOf(d, SpoolError)

    def test_underWay(self) -> None:
        """The rest is put there behind what is under way."""
        self.one.grew(2 * PIECE)
        d = self.put(2 * PIECE)
        self.assertEqual(len(self.store.asked), 1)
        self.store.work()
        self.assertNoResult(d)
        self.store.work()
        self.successResultOf(d)
        self.assertEqual(self.store.done, [(0, PIECE, ME), (1, PIECE, ME)])

    def test_aborted(self) -> None:
        """What is not wanted is removed, behind what is under way; what waits is not done."""
        for grown, forgotten in ((0, []), (PIECE - 1, []), (PIECE, [(NUMBER, ME)])):
            self.begin()
            self.one.grew(grown)
            self.one.abort()
            self.one.abort()
            self.assertEqual((self.forgotten, self.coming), (forgotten, set()))
            self.one.grew(9 * PIECE)
            self.one.ended()
            self.store.work()
            self.assertEqual((self.store.done, self.one.isBehind), ([], False))

    def test_abortedLate(self) -> None:
        """What somebody else puts there is that one's to remove."""
        self.one.grew(PIECE)
        d = self.put(PIECE)
        self.one.abort()
        self.assertEqual((self.forgotten, self.coming), ([], {NUMBER}))
        self.store.work()
        self.successResultOf(d)

    def test_woken(self) -> None:
        """What was put there by who this process was is not trusted: all is put there anew."""
        self.one.grew(PIECE)
        self.store.work()
        self.me.id = ME + 1
        self.one.grew(2 * PIECE)
        d = self.put(2 * PIECE)
        self.store.work(SpoolError("others have its work"))
        for _ in range(3):
            self.assertNoResult(d)
            self.store.work()
        self.successResultOf(d)
        anew = [(0, PIECE, ME + 1), (1, PIECE, ME + 1)]
        self.assertEqual(self.store.done, [(0, PIECE, ME), "dropped", *anew])

    def test_notFollowed(self) -> None:
        """Before this process is an owner it puts nothing there while it is received."""
        row, self.me.row = self.me.row, None
        self.assertIsNone(self.all.follow(NUMBER, PATH, self.onCaughtUp))
        self.me.row = row

    def test_closed(self) -> None:
        """At the end of the process what waits is not done, and nobody waits for it."""
        self.one.grew(9 * PIECE)
        self.all.close()
        self.one.grew(10 * PIECE)
        self.store.work()
        self.assertEqual((self.store.done, self.one.isBehind), ([], False))

    def test_anyOrder(self) -> None:
        """
        Whatever comes when: pieces are put there in their order, each as long as it is; what
        is taken is there as a whole, what is not wanted is forgotten, and nobody waits then.
        """
        for seed in range(500):
            self.begin()
            self.anyOrder(random.Random(seed), seed)

    def anyOrder(self, some: random.Random, seed: int) -> None:
        """
        One content.
        """
        size, octets = some.randrange(6 * PIECE), 0
        failures = [None, None, None, StoreAway("x"), OutcomeUnknown("x"), SpoolError("x")]

        def step() -> None:
            self.store.isAway = some.random() < 0.1
            if some.random() < 0.5:
                self.store.work(some.choice(failures))
            elif some.random() < 0.05:
                self.clock.advance(PIECE_SECONDS)

        while octets < size and some.random() < 0.9:
            octets = min(size, octets + some.randrange(2 * PIECE))
            self.one.grew(octets)
            step()
        if octets == size and some.random() < 0.8:
            self.one.ended()
            step()
        if octets == size and some.random() < 0.8:
            self.store.isAway = False
            self.coming.add(NUMBER)
            d = self.put(size)
            while not d.called:
                self.store.work()
            self.successResultOf(d)
            there = dict.fromkeys(self.store.done)
            lengths = [octets for _, octets, _ in there]
            self.assertEqual([seq for seq, _, _ in there], [*range(len(there))], seed)
            self.assertEqual(sum(lengths), size, seed)
            self.assertTrue(all(one == PIECE for one in lengths[:-1]), seed)
            self.one.abort()
            self.assertEqual((self.forgotten, self.coming), ([], {NUMBER}), seed)
        else:
            self.one.abort()
            self.assertEqual(len(self.forgotten), self.one.hasBegun, seed)
            self.assertEqual(self.coming, set(), seed)
        self.assertFalse(self.one.isBehind, seed)
        done = len(self.store.done)
        self.store.work()
        self.assertEqual((self.store.asked, len(self.store.done)), ([], done), seed)


class LeftTests(SynchronousTestCase):
    """
    What could not be removed.
    """

    def test_back(self) -> None:
        """It is looked for once, as soon as the database is back; and only where there is some."""
        store: Any = FakeStore()
        swept: list[tuple[Any, ...]] = []

        def run(*asked: Any) -> Deferred[None]:
            swept.append(asked)
            return succeed(None)

        store.run = run
        me: Any = SimpleNamespace(id=ME, row=None)
        large = LargeContents(Contents(self.mktemp()), store, me, maybeDeferred, Clock(), None)
        large.coming.add(1)
        for isAway in (False, True):
            store.isAway = isAway
            large.forget(NUMBER, ME)
            store.work()
            large.isBack()
            self.assertEqual(swept, [])
        self.flushLoggedErrors()
        me.row = me
        for _ in range(2):
            large.isBack()
            self.assertEqual(swept, [(contents.dropOwn, ME, {1})])
