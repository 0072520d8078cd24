"""
Which recipients are handed out, and what is set aside.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Mapping

from deferrals.interfaces import Work
from deferrals.model.disposition import KEEP_SECONDS, LEASE_SECONDS
from deferrals.spool.claims import (
    Claims,
    isDamage,
    setAside,
    verify,
)
from deferrals.spool.message import Message
from deferrals.spool.rows import DAMAGED, ENDED, HELD, LEASED, QUEUED, STAGED, STUCK
from deferrals.spool.sqlite.files import SpoolFiles
from deferrals.spool.sqlite.ledger import SqliteLedger
from tests.databases import DatabaseCase


class ClaimCase(DatabaseCase):
    """
    Claims at a time of the spool.
    """

    def setUp(self) -> None:
        super().setUp()
        self.files = SpoolFiles(os.path.abspath(self.mktemp()))
        self.files.make()

    def claims(self, now: float) -> Claims:
        self.last = Claims(SqliteLedger(self.db, now, "us", 2e9, self.files))
        return self.last

    def due(
        self,
        now: float,
        limit: int = 100,
        shares: Mapping[str, int] | None = None,
        share: int = 100,
    ) -> list[str]:
        works = self.claims(now).due(limit, shares or {}, share)
        return [str(one) for work in works for one in work.addressees]

    def told(self, now: float, number: int | None = None) -> list[tuple[str, str]]:
        works = self.claims(now).notices(100, number)
        return [(str(one), one.action) for work in works for one in work.addressees]


class DueTests(ClaimCase):
    """
    L{Claims.due}.
    """

    def test_lease(self) -> None:
        """What is due is leased, and handed out once."""
        number = self.add("a@b.example", "c@b.example")
        self.assertEqual(self.due(0.0), ["a@b.example", "c@b.example"])
        self.assertEqual(
            self.recipients(number, "status", "owner", "due"), [(LEASED, "us", LEASE_SECONDS)] * 2
        )
        self.assertEqual(self.due(1.0), [])

    def test_only(self) -> None:
        """Of a message only those recipients are handed out that wait for that and are due."""
        number = self.add("a@b.example", "c@b.example", "d@b.example")
        self.change(number, 1, due=10.0)
        self.change(number, 2, destination="mx d.example")
        self.assertEqual(self.due(0.0), ["a@b.example"])

    def test_states(self) -> None:
        """What is held, stuck, ended or damaged is not handed out."""
        for status in (HELD, ENDED, STUCK, DAMAGED):
            self.add("a@b.example", status=status)
        self.waitFor("", 0.0)
        self.assertEqual(self.due(0.0), [])

    def test_oldest(self) -> None:
        """What has waited longest comes first."""
        for due in (3.0, 1.0, 2.0):
            self.add(f"r{due:.0f}@b.example", due=due)
        found = [self.due(5.0, limit=1)[0] for _ in range(3)]
        self.assertEqual(found, ["r1@b.example", "r2@b.example", "r3@b.example"])

    def test_shares(self) -> None:
        """Each destination has its share; one whose share is used up gives its turn away."""
        for name in ("mx a", "mx b"):
            for number in range(3):
                self.add(f"r{number}@{name[3]}.example", destination=name)
        self.assertEqual(len(self.due(0.0, shares={"mx a": 0}, share=2)), 2)
        self.assertEqual(self.due(0.0, shares={"mx b": 0}, limit=1), ["r0@a.example"])

    def test_noShare(self) -> None:
        """Where no destination has room, none has its turn."""
        self.add("a@b.example", destination="mx a")
        self.assertEqual(self.due(5.0, share=0), [])
        self.assertEqual(self.due(5.0, limit=0), [])
        self.assertEqual(self.all("SELECT name, ready FROM destinations"), [("mx a", 0.0)])

    def test_together(self) -> None:
        """Whether destinations have their turn together or not, each has all of its share."""
        for name, count in (("mx a", 1), ("mx b", 4), ("mx c", 2)):
            for number in range(count):
                self.add(f"r{number}@{name[3]}.example", destination=name)
        found = [one.partition("@")[2] for one in self.due(0.0, limit=5, share=3)]
        self.assertEqual(found, ["a.example", *["b.example"] * 3, "c.example"])

    def test_gate(self) -> None:
        """A destination that is left alone is not asked before its time."""
        self.add("a@b.example", destination="mx a")
        self.db.execute("UPDATE destinations SET gate = 10, ready = 10")
        self.assertEqual(self.due(9.0), [])
        self.assertEqual(self.due(10.0), ["a@b.example"])

    def test_served(self) -> None:
        """A destination is due again when its next recipient is; without any it is gone."""
        self.add("a@b.example", destination="mx a", due=0.0)
        self.add("b@b.example", destination="mx a", due=50.0)
        self.due(0.0)
        self.assertEqual(self.all("SELECT name, ready FROM destinations"), [("mx a", 50.0)])
        self.due(50.0)
        self.assertEqual(self.all("SELECT name FROM destinations"), [])

    def test_leaseEnds(self) -> None:
        """What was leased for too long is due; what is staged is not ours yet."""
        self.add("a@b.example", status=LEASED, owner="another", due=5.0)
        self.add("c@d.example", status=LEASED, owner="another", due=5.0, state=STAGED)
        self.assertEqual(self.due(4.0), [])
        self.assertEqual(self.due(5.0), ["a@b.example"])

    def test_othersOfMessage(self) -> None:
        """Of a message that is due, what is leased to another one or held stays with it."""
        number = self.add("a@b.example", "c@b.example", "d@b.example")
        self.change(number, 1, status=LEASED, owner="another", due=500.0)
        self.change(number, 2, status=HELD)
        (work,) = self.claims(0.0).due(1, {}, 1)
        self.assertEqual([str(one) for one in work.addressees], ["a@b.example"])
        self.assertEqual(
            self.recipients(number, "status", "owner"),
            [(LEASED, "us"), (LEASED, "another"), (HELD, None)],
        )

    def test_leaseEndsAlone(self) -> None:
        """One lease that has run out ends no other of its message; and is no owner's then."""
        number = self.add("a@b.example", "c@b.example", status=LEASED, owner="another")
        self.change(number, 0, due=5.0)
        self.change(number, 1, due=500.0)
        self.claims(5.0).due(0, {}, 0)
        self.assertEqual(
            self.recipients(number, "status", "owner", "due"),
            [(QUEUED, None, 5.0), (LEASED, "another", 500.0)],
        )

    def test_notFresh(self) -> None:
        """A content that comes from the disk is checked before its delivery."""
        number = self.add("a@b.example")
        (work,) = self.claims(0.0).due(1, {}, 1)
        other = self.add("c@d.example")
        self.db.execute("DELETE FROM bodies WHERE id = ?", (other,))
        with open(self.files.body(other), "wb") as file:
            file.write(b"not what came in")
        (large,) = self.claims(0.0).due(1, {}, 1)
        self.assertEqual([work.envelope.transaction, large.envelope.transaction], [number, other])
        for one in (work, large):
            assert isinstance(one.message, Message)
            self.assertFalse(one.message.fresh)

    def test_work(self) -> None:
        """A work says how old its message is, and when it is given up."""
        number = self.add("a@b.example", expires=500.0)
        self.db.execute("UPDATE messages SET since = 100 WHERE id = ?", (number,))
        (work,) = self.claims(160.0).due(1, {}, 1)
        self.assertEqual((work.ageSeconds, work.expireSeconds), (60.0, 400.0))
        self.assertTrue(work.whole)
        with work.message.open() as file:
            self.assertEqual(hashlib.sha256(file.read()).digest(), work.message.digest)

    def test_whole(self) -> None:
        """A work is whole where the message has no other recipients, due or not."""
        number = self.add("a@b.example", "c@d.example")
        self.change(number, 1, due=100.0)
        (work,) = self.claims(0.0).due(1, {}, 1)
        self.assertFalse(work.whole)
        (other,) = self.claims(100.0).due(1, {}, 1)
        self.assertFalse(other.whole)
        self.db.execute("DELETE FROM recipients WHERE seq = 0")
        self.change(number, 1, status=QUEUED, due=0.0)
        self.waitFor("", 0.0)
        (last,) = self.claims(100.0).due(1, {}, 1)
        self.assertTrue(last.whole)


class DamageTests(ClaimCase):
    """
    What cannot be read.
    """

    def test_recipient(self) -> None:
        """One recipient that cannot be read is set aside; the others go their way."""
        number = self.add("a@b.example", "c@b.example")
        self.change(number, 0, recipient="?")
        self.assertEqual(self.due(5.0), ["c@b.example"])
        self.assertEqual(
            self.recipients(number, "status", "notice"),
            [(DAMAGED, 5.0 + KEEP_SECONDS), (LEASED, None)],
        )
        ((found, why),) = self.last.damaged
        self.assertEqual(found, number)
        self.assertIn("recipient 0 cannot be read", why)

    def test_twice(self) -> None:
        """What is set aside, and cannot be told either, is left to the operator."""
        number = self.add("a@b.example", recipient="?", status=DAMAGED, notice=5.0)
        self.assertEqual(self.told(5.0), [])
        self.assertEqual(self.recipients(number, "status", "notice"), [(DAMAGED, None)])

    def test_message(self) -> None:
        """A message without envelope or content is set aside, all of it."""
        for sql, why in (
            ("UPDATE messages SET envelope = '?' WHERE id = ?", "its envelope cannot be read"),
            ("DELETE FROM messages WHERE id = ?", "its envelope is missing"),
            ("DELETE FROM bodies WHERE id = ?", "its content is missing"),
        ):
            number = self.add("a@b.example", "c@b.example")
            self.db.execute(sql, (number,))
            self.assertEqual(self.due(5.0), [])
            self.assertEqual(self.recipients(number, "status"), [DAMAGED, DAMAGED])
            self.assertIn(why, self.last.damaged[0][1])
            self.assertEqual(len(self.last.damaged), 1)

    def test_later(self) -> None:
        """A content that cannot be read now comes back with the end of its lease."""
        number = self.add("a@b.example")
        self.db.execute("DELETE FROM bodies WHERE id = ?", (number,))
        os.symlink(self.files.body(number), self.files.body(number))  # a loop: ELOOP
        self.assertEqual(self.due(0.0), [])
        self.assertEqual([found for found, _ in self.last.later], [number])
        self.assertEqual(self.last.damaged, [])
        os.unlink(self.files.body(number))
        with open(self.files.body(number), "wb") as file:
            file.write(b"x")
        (work,) = self.claims(LEASE_SECONDS).due(1, {}, 1)
        with work.message.open() as content:
            self.assertEqual(content.read(), b"x")

    def test_setAside(self) -> None:
        """The sender is told when the recipient would have been given up, not before 5 days."""
        number = self.add("a@b.example", "c@b.example", "d@b.example", owner="us")
        self.change(number, 0, expires=KEEP_SECONDS * 2)
        self.change(number, 2, status=HELD)
        setAside(SqliteLedger(self.db, 7.0), number)
        self.assertEqual(
            self.recipients(number, "status", "notice", "owner"),
            [
                (DAMAGED, KEEP_SECONDS * 2, None),
                (DAMAGED, 7.0 + KEEP_SECONDS, None),
                (HELD, None, "us"),
            ],
        )

    def test_isDamage(self) -> None:
        """Some errors are the content's own; others pass."""
        for number, expected in (
            (errno.EIO, True),
            (errno.ENOENT, True),
            (errno.EISDIR, True),
            (errno.EMFILE, False),
            (errno.ENOMEM, False),
            (errno.EACCES, False),
        ):
            self.assertEqual(isDamage(OSError(number, "")), expected)
        self.assertFalse(isDamage(ValueError()))

    def test_verify(self) -> None:
        """A content is compared with what was stored: its size, and its octets."""
        digest = hashlib.sha256(b"abc").digest()
        for octets, why in (
            (b"abc", ""),
            (b"ab", "its content has 2 octets, not 3"),
            (b"abd", "its content is not what was stored"),
        ):
            self.assertEqual(verify(Message(3, digest, octets, None, octets, False)), why)


class NoticeTests(ClaimCase):
    """
    L{Claims.notices}: about whom a sender is to be told.
    """

    def test_ended(self) -> None:
        """What has ended is told, once per lease."""
        number = self.add("a@b.example", status=ENDED, due=10.0, action="failed")
        self.assertEqual(self.told(9.0), [])
        self.assertEqual(self.told(10.0), [("a@b.example", "failed")])
        self.assertEqual(self.told(11.0), [])
        self.assertEqual(self.told(10.0 + LEASE_SECONDS), [("a@b.example", "failed")])
        self.assertEqual(self.recipients(number, "status", "owner"), [(ENDED, "us")])

    def test_one(self) -> None:
        """One message's recipients are told at once, whatever is due."""
        number = self.add("a@b.example", status=ENDED, due=10.0, action="failed")
        self.add("c@d.example", status=ENDED, due=0.0, action="failed")
        self.assertEqual(self.told(0.0, number), [("a@b.example", "failed")])

    def test_late(self) -> None:
        """A recipient that is late may still be delivered meanwhile."""
        number = self.add("a@b.example", notice=10.0, expires=100.0)
        self.assertEqual(self.told(9.0), [])
        self.assertEqual(self.told(10.0), [("a@b.example", "delayed")])
        self.assertEqual(
            self.recipients(number, "status", "notice"), [(QUEUED, 10.0 + LEASE_SECONDS)]
        )
        self.assertEqual(self.due(11.0), ["a@b.example"])

    def test_notWhole(self) -> None:
        """What is told of is never the whole message: what is recorded takes no other along."""
        number = self.add("a@b.example", "c@b.example")
        self.change(number, 0, status=ENDED, due=10.0, action="failed")
        (work,) = self.claims(10.0).notices(1, None)
        self.assertEqual([str(one) for one in work.addressees], ["a@b.example"])
        self.assertFalse(work.whole)

    def test_underWay(self) -> None:
        """A recipient whose copy is under way is not late."""
        number = self.add("a@b.example", "c@b.example", notice=10.0, expires=100.0)
        self.change(number, 1, status=LEASED, owner="us", due=500.0)
        self.assertEqual(self.told(10.0), [("a@b.example", "delayed")])
        self.assertEqual(self.told(10.0, number), [])

    def test_expired(self) -> None:
        """One that is given up is leased: it is not delivered any longer."""
        number = self.add("a@b.example", notice=100.0, expires=100.0)
        self.assertEqual(self.told(100.0), [("a@b.example", "expired")])
        self.assertEqual(self.recipients(number, "status"), [LEASED])
        self.assertEqual(self.due(101.0), [])

    def test_kept(self) -> None:
        """What was kept for its sender, or is damaged, keeps its state while that is told."""
        for status, action in ((STUCK, "stuck"), (DAMAGED, "damaged")):
            number = self.add("a@b.example", status=status, notice=50.0)
            self.assertEqual(self.told(50.0), [("a@b.example", action)])
            self.assertEqual(
                self.recipients(number, "status", "notice"), [(status, 50.0 + LEASE_SECONDS)]
            )
            self.change(number, notice=None)

    def test_held(self) -> None:
        """What the operator holds does not expire."""
        self.add("a@b.example", status=HELD, notice=1.0, expires=1.0)
        self.assertEqual(self.told(50.0), [])

    def test_withoutContent(self) -> None:
        """A sender can be told although the content is gone."""
        number = self.add("a@b.example", status=ENDED, due=0.0, action="failed")
        self.db.execute("DELETE FROM bodies WHERE id = ?", (number,))
        works: list[Work] = self.claims(0.0).notices(1, None)
        self.assertEqual([work.message.size for work in works], [0])
        self.assertFalse(works[0].message.isIntact())
