"""
Tests for L{deferrals.spool.moving}; with real stores in
L{tests.spool.sqlite.test_moving} and L{tests.integration.test_cluster_move}.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import SpoolError, StoreAway
from deferrals.spool.ledger import Stored
from deferrals.spool.message import Message
from deferrals.spool.moving import Carried, move
from deferrals.spool.rows import HELD, HOLD, LEASED, QUEUED, QueueRow
from deferrals.testing import makeMessage


class _End:
    """
    A queue in memory, and what is wrong with it.
    """

    def __init__(self, *numbers: int) -> None:
        self.has = {number: carried(number) for number in numbers}
        self.wrong: Exception | None = None

    def numbers(self, after: int, limit: int) -> list[int]:
        return sorted(number for number in self.has if number > after)[:limit]

    def take(self, number: int) -> Carried:
        return self.has[number]

    def known(self, number: int) -> tuple[int, bytes] | None:
        one = self.has.get(number)
        return None if one is None else (one.message.size, one.message.digest)

    def put(self, carried: Carried) -> None:
        if self.wrong is not None:
            raise self.wrong
        self.has[carried.envelope[0]] = carried

    def remove(self, number: int) -> None:
        del self.has[number]


def carried(number: int, content: bytes = b"hello\r\n") -> Carried:
    message = makeMessage(content)
    assert isinstance(message, Message)
    return Carried((number, 0.0, "{}"), 0.0, (), message)


class MoveTests(SynchronousTestCase):
    """
    L{move}.
    """

    def test_all(self) -> None:
        """All are moved, in the order of their numbers, however many there are."""
        source, target = _End(*range(1, 1201)), _End()
        self.assertEqual(list(move(source, target)), [(n, "") for n in range(1, 1201)])
        self.assertEqual((len(source.has), len(target.has)), (0, 1200))

    def test_stays(self) -> None:
        """What is wrong with one is said of it, and the others go on."""
        source, target = _End(1, 2, 3), _End(2)
        source.has[3].message.digest = b"another"
        target.has[2] = carried(2, b"another\r\n")
        found = dict(move(source, target))
        self.assertEqual((found[1], found[2]), ("", "another message has its id there"))
        self.assertIn("not what was stored", found[3])
        target.wrong = SpoolError("no room")
        source.has = {4: carried(4)}
        self.assertEqual(list(move(source, target)), [(4, "no room")])
        self.assertEqual([*source.has], [4])

    def test_away(self) -> None:
        """A store that is away ends it."""
        source, target = _End(1, 2), _End()
        target.wrong = StoreAway("away")
        self.assertRaises(StoreAway, list, move(source, target))
        self.assertEqual(len(source.has), 2)


class CarriedTests(SynchronousTestCase):
    """
    L{Carried}.
    """

    def test_of(self) -> None:
        """Times are what is left of them; what was leased waits, or is held."""
        rows = [
            QueueRow(1, 0, QUEUED, 110.0, expires=300.0, notice=200.0),
            QueueRow(1, 1, LEASED, 500.0, "owner"),
            QueueRow(1, 2, LEASED, 500.0, "owner", action=HOLD),
        ]
        stored = Stored((1, 5.0, "{}"), 7, b"", 60.0, None, 3)
        found = Carried.of(stored, rows, carried(1).message, 100.0)
        self.assertEqual(found.age, 40.0)
        first, second, third = found.rows
        self.assertEqual((first.due, first.expires, first.notice), (10.0, 200.0, 100.0))
        self.assertEqual((second.status, second.due, second.owner), (QUEUED, 0.0, None))
        self.assertEqual((third.status, third.action), (HELD, None))

    def test_damaged(self) -> None:
        """A message whose envelope cannot be read is not inserted."""
        self.assertRaises(ValueError, carried(1).insertion, b"", 100.0)
