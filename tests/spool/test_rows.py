"""
Values into rows and back; rows that are damaged.
"""

from __future__ import annotations

import json
from typing import Any

import attrs

from deferrals.model.address import Mailbox
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Client, Recipient
from deferrals.model.reply import R250_EXPANDED, Reply
from deferrals.model.verdict import Marks, Route
from deferrals.spool import rows
from deferrals.spool.batch import WriteBatch
from deferrals.spool.rows import LEASED, STAGED
from deferrals.spool.sqlite.writing import apply
from deferrals.testing import makeEnvelope, makeMessage, makeRecipient
from tests.databases import DatabaseCase

MARKS = Marks((("X-Spam", "Yes"),), ("X-Spam",), "[spam] ", True)

ROUTE = Route("open", "box")

REPLY = Reply(550, "5.7.1", "no\nnever")


class RoundTripTests(DatabaseCase):
    """
    What is written is what is read.
    """

    def written(self, *addressees: Addressee) -> list[Any]:
        self.envelope = makeEnvelope("ä@b.example")
        insert = rows.insertion(
            self.envelope,
            makeMessage(b"x\r\n"),
            addressees,
            state=STAGED,
            now=5.0,
            lease=rows.Lease("us", 305.0),
        )
        apply(WriteBatch(inserts=[insert]), self.db)
        return self.all(f"SELECT {rows.ADDRESSEE} FROM recipients ORDER BY seq")

    def test_addressee(self) -> None:
        """A recipient comes back with its address, its marks and its refusal."""
        wanted = [
            Addressee(makeRecipient("a@b.example")),
            Addressee(makeRecipient("ünï@bücher.example"), MARKS, 1),
            Addressee(makeRecipient("a@b.example"), seq=2, refusal=REPLY),
        ]
        found = [rows.addressee(row) for row in self.written(*wanted)]
        for one, other in zip(found, wanted, strict=True):
            assert one.recipient.route is not None
            self.assertEqual(one.recipient.route.delivery, "box")
            self.assertEqual(str(one), str(other))
            self.assertEqual(
                (one.seq, one.marks, one.refusal), (other.seq, other.marks, other.refusal)
            )
            self.assertEqual((one.attempts, one.action, one.reply, one.host), (0, "", None, ""))

    def test_members(self) -> None:
        """A member comes back with its alias, as that was spelled; an alias with its 250."""
        for spelling in ("x.example", "X.Example"):
            aliases = (Mailbox("all", "x.example", spelling),)
            member = attrs.evolve(makeRecipient("a@b.example"), aliases=aliases)
            named = Addressee(Recipient(aliases[0]), seq=1, refusal=R250_EXPANDED)
            one, two = map(rows.addressee, self.written(Addressee(member), named))
            self.assertEqual(str(one.recipient.alias), f"all@{spelling}")
            self.assertEqual((str(two), two.refusal), (f"all@{spelling}", R250_EXPANDED))
            self.setUp()

    def test_spelling(self) -> None:
        """Equal recipients, senders and clients keep what is their own."""
        for spelling, hostname in (("x.example", ""), ("X.Example", "mail.test")):
            one = Addressee(Recipient(Mailbox("a", "x.example", spelling), route=ROUTE))
            envelope = makeEnvelope(f"b@{spelling}", client=Client("192.0.2.1", hostname=hostname))
            lease = rows.Lease("us", 305.0)
            message = makeMessage(b"x\r\n")
            found = rows.insertion(envelope, message, [one], state=STAGED, now=5.0, lease=lease)
            kept = rows.envelope((1, 2.0, found.message[3]))
            self.assertEqual((kept.senderText, kept.client.hostname), (f"b@{spelling}", hostname))
            self.assertEqual(
                str(rows.recipient(str(found.recipients[0][6]), "box")), f"a@{spelling}"
            )

    def test_whole(self) -> None:
        """What has just come in is the whole message."""
        insert = rows.insertion(
            makeEnvelope(),
            makeMessage(),
            [Addressee(makeRecipient("a@b.example"))],
            state=STAGED,
            now=5.0,
            lease=rows.Lease("us", 305.0),
        )
        self.assertTrue(insert.work.whole)

    def test_attempts(self) -> None:
        """Attempts are counted on."""
        (row,) = self.written(Addressee(makeRecipient("a@b.example")))
        seq, _, *rest = row
        self.assertEqual(rows.addressee((seq, 3, *rest)).attempts, 3)

    def test_lease(self) -> None:
        """A new message's recipients are leased to the process that writes them."""
        self.written(Addressee(makeRecipient("a@b.example")))
        found = self.all("SELECT status, owner, due, destination FROM recipients")
        self.assertEqual(found, [(LEASED, "us", 305.0, "")])
        self.assertEqual(self.all("SELECT state, since, size FROM messages"), [(STAGED, 5.0, 3)])

    def test_envelope(self) -> None:
        """An envelope comes back whole."""
        self.written(Addressee(makeRecipient("a@b.example")))
        (row,) = self.all(f"SELECT {rows.ENVELOPE} FROM messages")
        self.assertEqual(rows.envelope(row), self.envelope)

    def test_told(self) -> None:
        """What was said last is read, too; what the sender is told may be another thing."""
        row = self.written(Addressee(makeRecipient("a@b.example")))[0]
        row = (*row[:6], "failed", rows.replyText(REPLY), "mx.example")
        found = rows.addressee(row)
        self.assertEqual((found.action, found.reply, found.host), ("failed", REPLY, "mx.example"))
        self.assertEqual(rows.addressee(row, "expired").action, "expired")

    def test_reply(self) -> None:
        """A reply keeps its lines; as the first format kept it, it is read, too."""
        for reply in (None, REPLY, Reply(451, None, ""), Reply(250, "2.0.0", "ä")):
            self.assertEqual(rows.reply(rows.replyText(reply)), reply)
        self.assertEqual(rows.reply("550 5.1.1 no"), Reply(550, "5.1.1", "no"))


class DamageTests(DatabaseCase):
    """
    Whatever is wrong with a row is a C{ValueError} that says so.
    """

    def test_addressee(self) -> None:
        """Each column of a recipient may be damaged."""
        number = self.add("a@b.example")
        (row,) = self.all(f"SELECT {rows.ADDRESSEE} FROM recipients WHERE message = ?", number)
        names = rows.ADDRESSEE.split(", ")
        for name, values in {
            "recipient": ("", "?", "[]", "{}", "null", "7", json.dumps("\ud800"), b"\xff", None),
            "marks": ("?", "7", "[1]", b"\xff"),
            "refusal": ("[", "[1]", '["550", "5.1.1", "no"]', '[550, "5.1.1", 7]', "{}"),
            "reply": ("[", "?", '[550, 5.1, "no"]'),
            "attempts": ("x", b"\xff", None),
        }.items():
            for value in values:
                damaged = list(row)
                damaged[names.index(name)] = value
                with self.assertRaisesRegex(ValueError, "^recipient 0 cannot be read: "):
                    rows.addressee(tuple(damaged))

    def test_envelope(self) -> None:
        """An envelope may be damaged."""
        number = self.add("a@b.example")
        (row,) = self.all(f"SELECT {rows.ENVELOPE} FROM messages WHERE id = ?", number)
        for text in ("", "?", "[]", "null", "{}", b"\xff", None):
            with self.assertRaisesRegex(ValueError, "^its envelope cannot be read: "):
                rows.envelope((*row[:2], text))
