"""
Fresh mail that waits in memory: how much of it, in which order, and for how long.
"""

from __future__ import annotations

from collections.abc import Hashable

from twisted.trial.unittest import SynchronousTestCase

from deferrals.interfaces import Work
from deferrals.model.schedule import Schedule
from deferrals.relay.attempts import Attempt
from deferrals.relay.fresh import ASKED, FreshMail
from deferrals.testing import makeAddressees, makeEnvelope, makeMessage


def attempt(
    destination: str = "box", octets: int = 10, began: float = 0.0, delivery: str = "delivery"
) -> Attempt:
    """
    An attempt for a message of that size.
    """
    message = makeMessage(b"x" * octets)
    work = Work(makeEnvelope(), message, tuple(makeAddressees("a@x.example")))
    return Attempt(work, delivery, destination, Schedule(), began)


class FreshMailTests(SynchronousTestCase):
    """
    L{FreshMail}.
    """

    def ready(self, fresh: FreshMail, room: int, first: Hashable = None) -> list[str]:
        """
        Those that begin where there is room for so many.
        """
        found: list[str] = []

        def mayBegin(one: Attempt) -> bool:
            return len(found) < room

        for one in fresh.ready(mayBegin, first):
            found.append(one.destination)
        return found

    def test_messages(self) -> None:
        """
        There are so many at most; one kind of mail has three quarters of what is free,
        however many destinations it has.
        """
        fresh = FreshMail(messages=8)
        kept = [fresh.keep(attempt(f"box{n}")) for n in range(10)]
        self.assertEqual(kept.count(True), 6)
        kept = [fresh.keep(attempt(delivery=f"other{n}")) for n in range(3)]
        self.assertEqual(kept, [True, True, False])

    def test_octets(self) -> None:
        """Contents take so many octets at most, and give them back when they leave."""
        fresh = FreshMail(octets=100)
        self.assertTrue(fresh.keep(attempt(octets=60)))
        self.assertFalse(fresh.keep(attempt(octets=60)))
        self.assertEqual(self.ready(fresh, 1), ["box"])
        self.assertTrue(fresh.keep(attempt(octets=60)))

    def test_order(self) -> None:
        """The line in which one has ended comes first, and then the others in turn."""
        fresh = FreshMail()
        ones = [attempt(name) for name in ("a", "b", "a", "c")]
        for one in ones:
            fresh.keep(one)
        self.assertEqual(self.ready(fresh, 1, ones[1].line), ["b"])
        self.assertEqual(self.ready(fresh, 10), ["a", "a", "c"])
        self.assertEqual(self.ready(fresh, 10), [])

    def test_asked(self) -> None:
        """However many destinations wait, only some are asked about, and then others."""
        fresh = FreshMail()
        for number in range(3 * ASKED):
            fresh.keep(attempt(str(number)))
        asked: list[str] = []

        def mayBegin(one: Attempt) -> bool:
            asked.append(one.destination)
            return False

        for _ in range(3):
            self.assertEqual(list(fresh.ready(mayBegin, None)), [])
        self.assertEqual(asked, [str(number) for number in range(3 * ASKED)])

    def test_askedOnce(self) -> None:
        """The line in which one has ended is asked once; whether that was all is known."""
        fresh = FreshMail()
        for number in range(ASKED):
            fresh.keep(attempt(str(number)))
        asked: list[str] = []

        def mayBegin(one: Attempt) -> bool:
            asked.append(one.destination)
            return False

        self.assertEqual(list(fresh.ready(mayBegin, attempt("3").line)), [])
        self.assertEqual(asked[0], "3")
        self.assertEqual(sorted(asked), sorted(str(number) for number in range(ASKED)))
        self.assertFalse(fresh.isAskedInPart)
        fresh.keep(attempt("another"))
        self.assertTrue(fresh.isAskedInPart)

    def test_local(self) -> None:
        """
        What is delivered on this machine is asked about however many other destinations
        wait before it, each in turn.
        """
        fresh = FreshMail()
        for number in range(5 * ASKED):
            fresh.keep(attempt(f"far{number}"))
        for number in range(ASKED + 1):
            near = attempt(f"near{number}")
            near.isLocal = True
            fresh.keep(near)
        self.assertEqual(list(fresh.ready(lambda one: False, None)), [])
        found = list(fresh.ready(lambda one: one.destination == f"near{ASKED}", None))
        self.assertEqual(found, [near])
        found = list(fresh.ready(lambda one: one.isLocal, None))
        self.assertEqual(len(found), ASKED)
        self.assertEqual(list(fresh.ready(lambda one: one.isLocal, None)), [])

    def test_of(self) -> None:
        """What waits of some messages leaves, the other stays."""
        fresh = FreshMail()
        one, two, three = attempt(), attempt(), attempt("another")
        for each in (one, two, three):
            fresh.keep(each)
        self.assertEqual(list(fresh.of({1})), [])
        self.assertEqual(list(fresh.of({two.number, three.number})), [two, three])
        self.assertEqual(
            [min(each.keys) in fresh for each in (one, two, three)], [True, False, False]
        )
        self.assertEqual([fresh.isWaiting(one), fresh.isWaiting(three)], [True, False])

    def test_late(self) -> None:
        """What has waited for so long leaves, the other stays."""
        fresh = FreshMail()
        old, young = attempt(began=1.0), attempt(began=2.0)
        fresh.keep(old)
        fresh.keep(young)
        self.assertEqual(list(fresh.late(1.5)), [old])
        self.assertNotIn(min(old.keys), fresh)
        self.assertIn(min(young.keys), fresh)
        self.assertTrue(fresh.isWaiting(old))
        self.assertEqual(list(fresh.late(2.0)), [young])
        self.assertFalse(fresh.isWaiting(old))
