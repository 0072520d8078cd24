"""
When due work is claimed, and how much.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import SpoolError, StoreAway
from deferrals.interfaces import MailKind, Turn, Work
from deferrals.model.schedule import Schedule
from deferrals.relay.attempts import Deliveries
from deferrals.relay.destinations import Destinations
from deferrals.relay.duework import PAUSE_SECONDS, ROUND_SECONDS, SHARE, DueWork
from deferrals.spool.memory import MemorySpool
from deferrals.testing import makeAddressees, makeEnvelope, makeMessage


class DueWorkTests(SynchronousTestCase):
    """
    L{DueWork}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.spool = MemorySpool(self.clock)
        self.destinations = Destinations(self.clock, 10)
        self.claims: list[tuple[int, int]] = []
        self.asked: list[Collection[str] | None] = []
        self.answers: list[Deferred[list[Work]]] = []
        self.patch(self.spool, "claim", self.claim)
        self.taken: list[Work] = []
        self.turns: list[Turn] = []
        self.looked: list[int] = []
        self.begins = True
        self.local: list[str] = []
        deliveries = Deliveries(stage=self.stage, schedule=lambda name: Schedule())
        self.due = DueWork(self.spool, self.clock, self.destinations, deliveries, self.take)

    def stage(self, name: str) -> Any:
        return None if name in self.local else object()

    def claim(
        self,
        limit: int,
        shares: Mapping[str, int],
        share: int,
        only: Collection[str] | None = None,
    ) -> Deferred[list[Work]]:
        self.claims.append((limit, share))
        self.asked.append(only)
        self.answers.append(Deferred())
        return self.answers[-1]

    def take(self, works: Sequence[Work]) -> bool:
        self.taken += works
        self.due.isMore = self.due.isMore or bool(works)
        return self.begins

    def work(self) -> Work:
        return Work(makeEnvelope(), makeMessage(), tuple(makeAddressees("a@x.example")))

    def test_noPause(self) -> None:
        """While work is due, and begins, the next claim follows in the next turn."""
        for number in range(1, 5):
            self.due.wake()
            self.clock.advance(0)
            self.assertEqual(self.claims, [(10, SHARE)] * number)
            self.answers[-1].callback([self.work()])
        self.assertEqual(len(self.taken), 4)

    def test_pause(self) -> None:
        """Where nothing of it begins, there is a pause."""
        self.begins = False
        self.due.claim()
        self.answers[-1].callback([self.work()])
        self.clock.advance(PAUSE_SECONDS / 2)
        self.assertEqual(len(self.claims), 1)
        self.clock.advance(PAUSE_SECONDS / 2)
        self.assertEqual(len(self.claims), 2)

    def test_hidden(self) -> None:
        """
        What is not claimed since its destination has all that it may have is claimed
        when one of these has ended, and not some seconds later.
        """
        while self.destinations.begin("x", 10, "kind"):
            self.assertGreater(self.destinations.room, 0)
        self.due.claim()
        self.answers[-1].callback([])
        self.due.wake()
        self.clock.advance(PAUSE_SECONDS)
        self.assertEqual(len(self.claims), 1)
        self.due.lessBlocked("x")
        self.due.wake()
        self.clock.advance(PAUSE_SECONDS)
        self.assertEqual(len(self.claims), 2)

    def test_oneAtATime(self) -> None:
        """While a claim is under way, nothing else is claimed; nor without room."""
        self.due.claim()
        self.due.claim()
        self.assertEqual(len(self.claims), 1)
        self.answers[-1].callback([])
        self.destinations.limit = 0
        self.due.claim()
        self.assertEqual(len(self.claims), 1)

    def test_nothing(self) -> None:
        """Where nothing is due, nothing is claimed before there is a reason to."""
        self.due.claim()
        self.answers[-1].callback([])
        self.due.wake()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_blocked(self) -> None:
        """What others are in the way of is not claimed before there is room for its sort."""
        self.turns = [Turn("x", (MailKind("relay"),))]
        self.block()
        self.due.claim()
        self.assertEqual(self.claims, [])
        self.assertFalse(self.due.isMore)
        self.destinations.ended("busy", None, MailKind("relay"))
        self.due.lessBlocked("busy")
        self.assertTrue(self.due.isMore)
        self.due.claim()
        self.assertEqual(len(self.claims), 1)

    def block(self) -> None:
        """
        One kind has all that it may have, and more of it waits.
        """
        kind = MailKind("relay")
        while self.destinations.begin("busy", 20, kind, isLocal=True):
            pass
        self.assertGreater(self.destinations.room, 0)
        self.due.isMore = False
        self.patch(self.spool, "turns", self.look)
        self.due.waits("x", self.destinations.sort("x", kind, isLocal=True))
        self.assertFalse(self.due.isMore)

    def look(self, after: Any) -> Deferred[tuple[list[Turn], Any]]:
        """
        One destination at a time.
        """
        place = after or 0
        self.looked.append(place)
        found = self.turns[place : place + 1]
        return succeed((found, place + len(found)))

    def test_passes(self) -> None:
        """What is of another kind passes any number of destinations, and these are not claimed."""
        self.turns = [Turn(f"x{n}", (MailKind("relay"),)) for n in range(1000)]
        self.turns.append(Turn("y", (MailKind("relay"), MailKind("relay", False, "anna"))))
        self.block()
        self.due.claim()
        self.assertEqual(self.asked, [["y"]])
        self.answers[-1].callback([self.work()])
        self.assertEqual(len(self.taken), 1)
        del self.looked[:]
        self.clock.advance(0)  # looked through up to here, nothing more is found
        self.assertEqual((self.looked, len(self.claims)), ([1001], 1))
        self.assertFalse(self.due.isMore)

    def test_newRound(self) -> None:
        """After a while, or for an operator, the queue is looked through from its beginning."""
        self.turns = [Turn("x", (MailKind("relay"),))]
        self.block()
        self.due.claim()
        self.turns[0] = Turn("x", (MailKind("relay"), MailKind("relay", True)))
        self.due.claim()
        self.assertEqual(self.asked, [])
        self.clock.advance(ROUND_SECONDS)
        self.due.claim()
        self.assertEqual(self.asked, [["x"]])
        self.answers[-1].callback([])
        del self.looked[:]
        self.due.again()
        self.clock.advance(PAUSE_SECONDS)
        self.assertEqual(self.looked[0], 0)

    def test_full(self) -> None:
        """A destination that has all that it may have is claimed when there it has room again."""
        anna = MailKind("relay", False, "anna")
        self.turns = [Turn("y", (anna,))]
        self.assertTrue(self.destinations.begin("y", 1, anna))
        self.block()
        self.due.claim()
        self.assertEqual(self.claims, [])
        self.destinations.ended("y", None, anna)
        self.assertTrue(self.destinations.begin("z", 1, MailKind("relay", True)))
        self.due.lessBlocked("y")
        self.due.wake()
        self.clock.advance(PAUSE_SECONDS)
        self.assertEqual(self.asked, [["y"]])

    def test_notKnownYet(self) -> None:
        """What has no destination yet is claimed, to be sorted."""
        self.turns = [Turn("", (MailKind("relay"),))]
        self.block()
        self.due.claim()
        self.assertEqual(self.asked, [[""]])

    def later(self) -> list[Deferred[Any]]:
        """
        What is looked for is answered later.
        """
        asked: list[Deferred[Any]] = []

        def look(after: Any) -> Deferred[Any]:
            asked.append(Deferred())
            self.looked.append(after)
            return asked[-1]

        self.patch(self.spool, "turns", look)
        return asked

    def test_noRoomLeft(self) -> None:
        """Where fresh mail takes the room meanwhile, it ends; and goes on when there is some."""
        self.block()
        asked = self.later()
        self.due.claim()
        while self.destinations.begin("fresh", 20, MailKind("relay", True), isLocal=True):
            pass
        self.destinations.limit -= self.destinations.room
        asked[0].callback(([Turn("y", (MailKind("relay", False, "anna"),))], 1))
        self.assertEqual((len(asked), self.claims), (1, []))
        self.assertTrue(self.due.isMore)

    def test_operatorMeanwhile(self) -> None:
        """Where an operator changes the queue while it is looked through, that begins anew."""
        self.block()
        asked = self.later()
        self.due.claim()
        self.due.again()
        asked[0].callback(([Turn("x", (MailKind("relay"),))], 1))
        self.assertEqual(self.looked, [None, None])

    def test_room(self) -> None:
        """No more destinations are claimed at once than there is room for; then the others."""
        self.turns = []
        self.block()
        room = self.destinations.room
        self.turns = [Turn(f"y{n}", (MailKind("relay", True),)) for n in range(room)]
        self.patch(self.spool, "turns", lambda after: succeed((self.turns, "end")))
        self.turns.append(Turn("z", (MailKind("relay", True),)))
        self.due.claim()
        self.assertEqual(self.asked, [[f"y{n}" for n in range(room)]])
        self.answers[-1].callback([self.work()])
        del self.turns[:room]
        self.clock.advance(0)
        self.assertEqual(self.asked[1:], [["z"]])

    def test_fails(self) -> None:
        """A queue that cannot be read is claimed from again."""
        self.patch(self.spool, "claim", lambda *args: fail(SpoolError("the disk")))
        with capturedLogs() as logged:
            self.due.claim()
        self.assertIn("the disk", formatEvent(logged[0]) or "")
        self.patch(self.spool, "claim", self.claim)
        self.due.claim()
        self.assertEqual(len(self.claims), 1)

    def test_away(self) -> None:
        """That the database is away was said once, by what has lost it."""
        self.patch(self.spool, "claim", lambda *args: fail(StoreAway("refused")))
        with capturedLogs() as logged:
            self.due.claim()
        self.assertEqual(logged, [])
        self.patch(self.spool, "claim", self.claim)
        self.due.claim()
        self.assertEqual(len(self.claims), 1)

    def test_stopped(self) -> None:
        """After a stop nothing is claimed."""
        self.due.wake()
        self.due.stop()
        self.due.claim()
        self.assertEqual((self.claims, self.clock.getDelayedCalls()), ([], []))
