"""
What an outcome writes into the spool: a table.
"""

from __future__ import annotations

from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import SpoolError
from deferrals.interfaces import Work
from deferrals.model.delivery import Addressee
from deferrals.model.disposition import (
    DELIVERED,
    TELL_SECONDS,
    DelayNotified,
    Disposition,
    NotifyThenRemove,
    Remove,
    Reschedule,
    Undeliverable,
)
from deferrals.model.reply import Reply
from deferrals.model.verdict import Details
from deferrals.spool.batch import Insert
from deferrals.spool.outcomes import Outcomes, backOff, isAllDelivered
from deferrals.spool.rows import (
    DAMAGED,
    ENDED,
    HELD,
    LEASED,
    QUEUED,
    RELEASED,
    STUCK,
    Lease,
    insertion,
    replyText,
)
from deferrals.spool.sqlite.ledger import SqliteLedger
from deferrals.testing import makeAddressees, makeEnvelope, makeMessage, makeRecipient
from tests.databases import DatabaseCase

REPLY = Reply(451, "4.3.0", "later")


def reschedule(**more: Any) -> Reschedule:
    values: dict[str, Any] = {
        "destination": "mx a",
        "seconds": 60.0,
        "expireSeconds": 1000.0,
        "warnSeconds": 300.0,
        **more,
    }
    return Reschedule(**values)


def notice() -> Insert:
    return insertion(
        makeEnvelope(""),
        makeMessage(),
        makeAddressees("sender@example.com"),
        state=RELEASED,
        now=0.0,
        lease=Lease("us", 300.0),
    )


class RecordTests(DatabaseCase):
    """
    L{Outcomes.record}, at the time 100, for a message that came at 10.
    """

    def setUp(self) -> None:
        super().setUp()
        self.number = self.add("a@b.example", "c@b.example", status=LEASED, owner="us", due=300.0)
        self.db.execute("UPDATE messages SET since = 10")

    def record(self, disposition: Disposition, *notices: Insert, owner: str = "us") -> bool:
        addressee = Addressee(makeRecipient("a@b.example"), seq=0)
        outcomes = Outcomes(SqliteLedger(self.db, 100.0, owner, 2e9))
        return outcomes.record(self.number, [(addressee, disposition)], notices)

    def test_details(self) -> None:
        """What no sender is told is kept in the history, and nowhere else."""
        details = Details("no way to /srv/mail", Reply(250, "2.0.0", "as 4711"), "192.0.2.1", 25)
        shown = "451 4.3.0 later (final: 250 2.0.0 as 4711; at [192.0.2.1]:25; cause: no way to"
        for disposition in (
            reschedule(reply=REPLY, details=details),
            NotifyThenRemove("failed", REPLY, details=details),
            Remove("failed", REPLY, details=details),
        ):
            self.setUp()
            self.record(disposition)
            self.assertEqual(self.history()[0][3], f"{shown} /srv/mail)")
            kept = self.all("SELECT * FROM recipients") + self.all("SELECT * FROM messages")
            self.assertNotIn("/srv/mail", repr(kept))

    def first(self, *columns: str) -> Any:
        return self.recipients(self.number, *columns)[0]

    def history(self) -> list[tuple[Any, ...]]:
        return self.all("SELECT seq, at, event, reply, host FROM history")

    def test_remove(self) -> None:
        """A recipient leaves; with the last one its message does."""
        self.assertFalse(self.record(Remove("delivered", Reply(250, "2.0.0", "ok"), "mx")))
        self.assertEqual(self.recipients(self.number, "seq"), [1])
        self.assertEqual(self.history(), [(0, 2e9, "delivered", "250 2.0.0 ok", "mx")])
        self.db.execute("DELETE FROM recipients")
        self.assertTrue(self.record(Remove()))
        self.assertEqual(self.all("SELECT id FROM messages"), [])
        self.assertEqual(self.all("SELECT id FROM bodies"), [])

    def test_reschedule(self) -> None:
        """A recipient waits: until then, until it is warned of, until it is given up."""
        self.record(reschedule(reply=REPLY, host="mx"))
        self.assertEqual(
            self.first("status", "owner", "destination", "due", "attempts", "notice", "expires"),
            (QUEUED, None, "mx a", 160.0, 1, 310.0, 1010.0),
        )
        self.assertEqual(self.first("reply", "host"), (replyText(REPLY), "mx"))
        self.assertEqual(self.all("SELECT name, ready FROM destinations"), [("mx a", 160.0)])
        self.assertEqual(self.history(), [(0, 2e9, "retry", "451 4.3.0 later", "mx")])

    def test_notice(self) -> None:
        """When a recipient's sender is told: once that it is late, and when it is given up."""
        for warned, seconds, expected in (
            (0, 300.0, 310.0),
            (0, 0.0, 1010.0),
            (0, 2000.0, 1010.0),
            (1, 300.0, 1010.0),
        ):
            self.change(self.number, 0, status=LEASED, owner="us", warned=warned)
            self.record(reschedule(warnSeconds=seconds))
            self.assertEqual(self.first("notice"), expected)

    def test_putBack(self) -> None:
        """What was not attempted counts as no attempt, and keeps what was said last."""
        self.change(self.number, 0, attempts=2, reply=replyText(REPLY), host="mx")
        self.record(reschedule(attempted=False))
        self.assertEqual(self.first("attempts", "reply", "host"), (2, replyText(REPLY), "mx"))
        self.assertEqual(self.history(), [])

    def test_ended(self) -> None:
        """An outcome that stands is kept until its sender has been told."""
        self.record(NotifyThenRemove("failed", REPLY, "mx"))
        self.assertEqual(
            self.first("status", "due", "action", "reply", "host"),
            (ENDED, 100.0 + TELL_SECONDS, "failed", replyText(REPLY), "mx"),
        )
        self.assertEqual(self.history(), [(0, 2e9, "failed", "451 4.3.0 later", "mx")])

    def test_delayNotified(self) -> None:
        """What is late is told once; next when it is given up."""
        self.change(self.number, 0, expires=500.0, notice=120.0)
        self.record(DelayNotified())
        self.assertEqual(self.first("status", "warned", "notice"), (LEASED, 1, 500.0))
        self.assertEqual([row[2] for row in self.history()], ["warned"])

    def test_undeliverable(self) -> None:
        """What the sender cannot be told is kept for the operator."""
        self.record(Undeliverable(1000.0))
        self.assertEqual(self.first("status", "notice", "expires"), (STUCK, 1100.0, 1100.0))
        self.assertEqual([row[2] for row in self.history()], ["stuck"])

    def test_another(self) -> None:
        """What is leased to another process by now is left to it."""
        for disposition in (Remove(), reschedule(), NotifyThenRemove("failed"), Undeliverable(1.0)):
            self.assertFalse(self.record(disposition, owner="late"))
            self.assertEqual(self.first("status", "owner", "due"), (LEASED, "us", 300.0))

    def test_leaseEnded(self) -> None:
        """What was leased to us, and to no other since, is still ours to record."""
        self.change(self.number, 0, status=QUEUED, owner=None)
        self.record(Remove())
        self.assertEqual(self.recipients(self.number, "seq"), [1])

    def test_held(self) -> None:
        """What is to be held is held, and what an operator holds meanwhile stays so."""
        self.record(reschedule(isHeld=True, attempted=False))
        self.assertEqual(self.first("status", "owner"), (HELD, None))
        self.record(reschedule())
        self.assertEqual(self.first("status", "owner"), (HELD, None))

    def test_setAside(self) -> None:
        """What was set aside since its lease ran out stays so."""
        self.change(self.number, 0, status=DAMAGED, owner=None)
        for disposition in (Remove(), reschedule(), NotifyThenRemove("failed"), Undeliverable(1.0)):
            self.assertFalse(self.record(disposition))
            self.assertEqual(self.first("status", "owner"), (DAMAGED, None))

    def test_heldLate(self) -> None:
        """
        What was held when its lease ran out is still ours to record: what has been
        delivered is not delivered again when it is released.
        """
        for disposition, wanted in (
            (NotifyThenRemove("failed"), [(ENDED,), (LEASED,)]),
            (Undeliverable(1.0), [(STUCK,), (LEASED,)]),
            (Remove(), [(LEASED,)]),
        ):
            self.change(self.number, 0, status=HELD, owner=None, action=None)
            self.record(disposition)
            found = self.all("SELECT status FROM recipients ORDER BY seq")
            self.assertEqual(found, wanted)

    def test_withNotice(self) -> None:
        """A notice comes in with what it tells of; but not where that is not ours."""
        told = notice()
        self.record(reschedule(), told)
        self.assertEqual(self.recipients(told.number, "status"), [LEASED])
        self.change(self.number, owner="another")
        untrue = notice()
        addressee = Addressee(makeRecipient("c@b.example"), seq=1)
        with self.assertRaises(SpoolError):
            Outcomes(SqliteLedger(self.db, 100.0, "us", 2e9)).record(
                self.number, [(addressee, Remove())], [untrue]
            )
        self.assertEqual(self.recipients(untrue.number, "status"), [])


class AllDeliveredTests(SynchronousTestCase):
    """
    L{isAllDelivered}.
    """

    def test_all(self) -> None:
        """Each recipient that the message has left is delivered, and untold."""
        one, two = makeAddressees("a@b.example", "c@b.example")
        envelope, message = makeEnvelope(), makeMessage()
        whole = Work(envelope, message, (one, two), True)
        part = attrs.evolve(whole, whole=False)
        both = {one: DELIVERED, two: Remove()}
        self.assertTrue(isAllDelivered(whole, both))
        self.assertFalse(isAllDelivered(part, both))
        self.assertFalse(isAllDelivered(whole, {one: DELIVERED}))
        later = NotifyThenRemove("failed", REPLY)
        self.assertFalse(isAllDelivered(whole, {one: DELIVERED, two: later}))


class BackOffTests(DatabaseCase):
    """
    L{backOff}.
    """

    def ready(self) -> list[tuple[Any, ...]]:
        return self.all("SELECT name, ready, gate FROM destinations")

    def test_gate(self) -> None:
        """A destination is left alone, whatever is due; it may be unknown till now."""
        self.add("a@b.example", destination="mx a", due=10.0)
        backOff(SqliteLedger(self.db, 50.0), "mx a", 30.0)
        self.assertEqual(self.ready(), [("mx a", 80.0, 80.0)])
        backOff(SqliteLedger(self.db, 50.0), "mx b", 20.0)
        self.assertEqual(self.ready()[1], ("mx b", 70.0, 70.0))

    def test_open(self) -> None:
        """It is used again as soon as a recipient is due; without any it is forgotten."""
        for due, ready in ((10.0, 50.0), (90.0, 90.0)):
            self.add("a@b.example", destination="mx a", due=due)
            backOff(SqliteLedger(self.db, 50.0), "mx a", 30.0)
            backOff(SqliteLedger(self.db, 50.0), "mx a", 0.0)
            self.assertEqual(self.ready(), [("mx a", ready, 0.0)])
            self.db.execute("DELETE FROM recipients")
        backOff(SqliteLedger(self.db, 50.0), "mx a", 0.0)
        self.assertEqual(self.ready(), [])
