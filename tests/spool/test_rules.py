"""
What a recipient may become: in all stores the same.
"""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.disposition import KEEP_SECONDS, LEASE_SECONDS
from deferrals.spool import rules
from deferrals.spool.changes import Changes
from deferrals.spool.memory import MemorySpool
from deferrals.spool.rows import (
    COLUMNS,
    DAMAGED,
    ENDED,
    HELD,
    HOLD,
    LEASED,
    QUEUED,
    STUCK,
    QueueRow,
    queueRow,
)
from deferrals.spool.sqlite.ledger import SqliteLedger
from deferrals.spool.sqlite.spool import SqliteSpool
from tests.operations import SEQUENCES, RandomSequence, Store
from tests.reactors import PumpedReactor


def row(status: int = QUEUED, **more: Any) -> QueueRow:
    values: dict[str, Any] = {"message": 1, "seq": 0, "due": 0.0, **more}
    return QueueRow(status=status, **values)


class LeaseTests(SynchronousTestCase):
    """
    L{rules.leased}, L{rules.renewed}, L{rules.freed}.
    """

    def test_life(self) -> None:
        """A lease ends; what was to be held is held then."""
        leased = rules.leased(row(), "us", 10.0)
        self.assertEqual((leased.status, leased.owner), (LEASED, "us"))
        renewed = rules.renewed(leased, "us", 20.0)
        self.assertEqual(renewed, attrs.evolve(leased, due=20.0 + LEASE_SECONDS))
        self.assertEqual(rules.freed(leased, 30.0), row(due=30.0))
        held = rules.freed(attrs.evolve(leased, action=HOLD), 30.0)
        self.assertEqual(held, row(HELD, due=30.0))

    def test_others(self) -> None:
        """No owner renews what is another one's, or is leased no longer."""
        self.assertIsNone(rules.renewed(row(LEASED, owner="another"), "us", 1.0))
        self.assertIsNone(rules.renewed(row(QUEUED), "us", 1.0))

    def test_isOurs(self) -> None:
        """What waits, and is leased to no owner, is any owner's to record."""
        for status, owner, expected in (
            (LEASED, "us", True),
            (LEASED, "another", False),
            (QUEUED, None, True),
            (HELD, None, True),
            (DAMAGED, None, False),
            (ENDED, "us", True),
            (ENDED, "another", False),
        ):
            self.assertEqual(rules.isOurs(row(status, owner=owner), "us"), expected)


class ToldTests(SynchronousTestCase):
    """
    L{rules.told}.
    """

    def test_anyway(self) -> None:
        """What has just ended here is told at once; what another owner tells is not."""
        ended = row(ENDED, due=60.0, owner="us", action="failed")
        self.assertIsNone(rules.told(ended, "us", 0.0))
        self.assertEqual(rules.told(ended, "us", 0.0, True), ("", attrs.evolve(ended, due=300.0)))
        self.assertIsNone(rules.told(ended, "another", 0.0, True))
        told = rules.told(ended, "another", 60.0)
        self.assertEqual(told, ("", attrs.evolve(ended, owner="another", due=360.0)))

    def test_untellable(self) -> None:
        """What cannot be read is set aside; where it was before, the operator has it."""
        aside = rules.untellable(row(LEASED, owner="us"), 5.0)
        self.assertEqual((aside.status, aside.notice), (DAMAGED, 5.0 + KEEP_SECONDS))
        again = rules.untellable(row(DAMAGED, notice=305.0, owner="us"), 5.0)
        self.assertEqual((again.notice, again.owner), (None, None))


class OperatedTests(SynchronousTestCase):
    """
    L{rules.operated}: a table.
    """

    def test_all(self) -> None:
        """What each command makes of each state; C{None} for nothing, "gone" where it leaves."""
        table: dict[str, dict[int, Any]] = {
            "retry": {QUEUED: QUEUED, DAMAGED: QUEUED, STUCK: ENDED},
            "hold": {QUEUED: HELD, LEASED: LEASED},
            "release": {HELD: QUEUED},
            "remove": dict.fromkeys((QUEUED, HELD, ENDED, STUCK, DAMAGED), "gone"),
        }
        for command, wanted in table.items():
            for status in (QUEUED, LEASED, HELD, ENDED, STUCK, DAMAGED):
                made = rules.operated(row(status), command, 7.0)
                became = "gone" if made.row is None else made.row.status
                found = became if made.isChanged else None
                self.assertEqual(found, wanted.get(status), (command, status))


def memoryStore() -> Store:
    """
    The spool in memory.
    """
    clock = Clock()
    spool = MemorySpool(clock)

    def operate(command: str, keys: Any) -> tuple[int, int]:
        changes = Changes(spool._ledger)
        return changes.make(command, keys), changes.active

    return Store(spool, lambda d: d.result, clock.advance, operate, lambda: spool._ledger.all())


class SameTests(SynchronousTestCase):
    """
    Random sequences of operations end in the same state in all stores.
    """

    def sqlite(self) -> Store:
        reactor = PumpedReactor()
        spool = SqliteSpool(self.mktemp(), reactor, _now)
        reactor.wait(spool.open())
        self.closing = lambda: reactor.wait(spool.close())
        names = ", ".join(COLUMNS)

        def operate(command: str, keys: Any) -> tuple[int, int]:
            def apply(db: Any) -> tuple[int, int]:
                changes = Changes(SqliteLedger(db, spool.store.clock.now()))
                return changes.make(command, keys), changes.active

            found: tuple[int, int] = reactor.wait(spool.store.run(apply))
            return found

        def rows() -> list[QueueRow]:
            select = f"SELECT {names} FROM recipients"
            found = reactor.wait(spool.store.run(lambda db: db.execute(select).fetchall()))
            return [queueRow(columns) for columns in found]

        return Store(spool, reactor.wait, reactor.advance, operate, rows)

    def test_sameInBoth(self) -> None:
        """What the spool in memory does, the one in SQLite does."""
        for number in range(SEQUENCES):
            wanted = RandomSequence(memoryStore(), number).run()
            found = RandomSequence(self.sqlite(), number).run()
            self.closing()
            for step, (one, other) in enumerate(zip(wanted, found, strict=True)):
                self.assertEqual(one, other, (number, step))


def _now(function: Any, *args: Any) -> Deferred[Any]:
    return succeed(function(*args))
