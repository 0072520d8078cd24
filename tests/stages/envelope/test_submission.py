"""
What users who have logged in may send.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from deferrals.errors import PeerError
from deferrals.interfaces import IEnvelopeStage, ISenderStage
from deferrals.model.address import Mailbox
from deferrals.model.envelope import Envelope, Parameters
from deferrals.model.reply import R550_UNKNOWN_RECIPIENT
from deferrals.model.settings import BadSetting, TableName
from deferrals.model.verdict import ACCEPT, Defer, Refuse
from deferrals.stages.envelope.ownsenders import ANY, Senders
from deferrals.stages.envelope.submission import Submission, SubmissionSettings
from deferrals.testing import FakeEnvelope, FakeServices, makeEnvelope, makeMessage, makeRecipient
from tests.stages.tables.test_frame import Source


class SubmissionCase(SynchronousTestCase):
    """
    A server with users, and their table.
    """

    def setUp(self) -> None:
        self.directory = os.path.abspath(self.mktemp())
        os.makedirs(self.directory)
        self.services = FakeServices(self.directory)

    def stage(self, **settings: Any) -> Submission:
        return Submission(SubmissionSettings(**settings), self.services)

    def envelope(self, sender: str, user: str | None = "alice@example.net") -> Envelope:
        envelope = makeEnvelope(sender)
        return attrs.evolve(envelope, client=attrs.evolve(envelope.client, user=user))

    def said(self, stage: Submission, sender: str, user: str | None = "alice@example.net") -> str:
        """
        What MAIL FROM is answered.
        """
        refusal = self.successResultOf(stage.judgeSender(self.envelope(sender, user)))
        return "" if refusal is None else f"{refusal.reply.code} {refusal.reply.enhanced}"

    def recipient(self, stage: Submission, envelope: Envelope, verdict: Any = ACCEPT) -> Any:
        inner = FakeEnvelope()
        inner.verdicts["bob@x.example"] = verdict
        counting = stage.counting(inner)
        self.assertTrue(verifyObject(IEnvelopeStage, counting))
        answer: Any = counting.judgeRecipient(envelope, makeRecipient("bob@x.example"))
        d = answer if isinstance(answer, Deferred) else Deferred.fromCoroutine(answer)
        return self.successResultOf(d)

    def fill(self, *rows: tuple[Any, ...]) -> None:
        path = os.path.join(self.directory, "users.db")
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("DROP TABLE IF EXISTS users")
            database.execute(
                "CREATE TABLE users (address TEXT PRIMARY KEY, senders TEXT,"
                " messages INT, recipients INT, octets TEXT)"
            )
            database.executemany("INSERT INTO users VALUES (?, ?, ?, ?, ?)", rows)
            database.commit()


class SenderTests(SubmissionCase):
    """
    As whom a login may send.
    """

    def test_own(self) -> None:
        """By default its own address, in whatever spelling, and the null path (S10)."""
        stage = self.stage()
        self.assertTrue(verifyObject(ISenderStage, stage))
        signed = "prvs=0123456789=alice@example.net"
        for sender in ("alice@example.net", "Alice@EXAMPLE.net", signed, ""):
            self.assertEqual(self.said(stage, sender), "")
        for sender in ("ceo@example.net", "alice@example.org", "alice+x@example.net"):
            self.assertEqual(self.said(stage, sender), "553 5.7.1")
        self.assertEqual(self.said(stage, "alice@mx.example.net", "alice"), "")
        self.assertEqual(self.said(stage, "alice@example.net", "alice"), "553 5.7.1")
        self.assertEqual(self.said(stage, "ab@example.net", "a b"), "553 5.7.1")
        self.assertEqual(self.services.status.counted("submission", "senders refused"), 5)

    def test_submitter(self) -> None:
        """As the author of a message a login is what it may send as."""
        stage = self.stage(senders=Senders(("*@shared.example",)))
        submitter = stage.submitter(self.envelope("alice@example.net"))
        assert submitter is not None
        self.assertEqual(str(submitter.address), "alice@example.net")
        for address, mayUse in (("x@shared.example", True), ("boss@example.net", False)):
            self.assertEqual(submitter.mayUse(Mailbox.parse(address)), mayUse)
        named = stage.submitter(self.envelope("a@b.example", "alice"))
        self.assertEqual(named and str(named.address), "alice@mx.example.net")
        for user in (None, "a b", "\u00fc@example.net"):
            self.assertIsNone(stage.submitter(self.envelope("a@b.example", user)))
        utf8 = attrs.evolve(
            self.envelope("a@b.example", "\u00fc@example.net"), parameters=Parameters(smtputf8=True)
        )
        self.assertIsNotNone(stage.submitter(utf8))

    def test_nobody(self) -> None:
        """Clients without a login are not meant."""
        self.assertEqual(self.said(self.stage(messages=1), "ceo@example.net", None), "")
        self.assertEqual(self.said(self.stage(messages=1), "ceo@example.net", None), "")

    def test_patterns(self) -> None:
        """A pattern is for its logins."""
        stage = self.stage(senders=Senders(("{user}@example.org", "*@shared.example")))
        for user in ("alice", "bob"):
            self.assertEqual(self.said(stage, f"{user}@example.org", user), "")
            self.assertEqual(self.said(stage, "any@shared.example", user), "")
            self.assertEqual(self.said(stage, "carol@example.org", user), "553 5.7.1")
        self.assertEqual(self.said(self.stage(senders=ANY), "ceo@example.net"), "")

    def test_table(self) -> None:
        """The table adds senders of its own to a login; what it says counts a minute later."""
        self.fill(
            ("alice@example.net", "ceo@example.net, *@lists.example", None, None, None),
            ("bob@example.net", '["{user}", "sales@example.net"]', None, None, None),
            ("carol@example.net", "*", None, None, None),
        )
        stage = self.stage(sqlite="users.db")
        self.assertEqual(self.said(stage, "ceo@example.net"), "")
        self.assertEqual(self.said(stage, "x@lists.example"), "")
        self.assertEqual(self.said(stage, "sales@example.net"), "553 5.7.1")
        self.assertEqual(self.said(stage, "sales@example.net", "bob@example.net"), "")
        self.assertEqual(self.said(stage, "x@anywhere.example", "carol@example.net"), "")
        self.assertEqual(self.said(stage, "ceo@example.net", "dave@example.net"), "553 5.7.1")
        self.fill()
        self.assertEqual(self.said(stage, "ceo@example.net"), "")
        self.services.reactor.advance(61)
        self.assertEqual(self.said(stage, "ceo@example.net"), "553 5.7.1")
        self.assertEqual(self.said(stage, "alice@example.net"), "")

    def test_noTable(self) -> None:
        """A table that cannot be asked, or is nonsense, is 451; what was known of it counts."""
        stage = self.stage(sqlite="users.db")
        self.assertEqual(self.said(stage, "alice@example.net"), "451 4.3.0")
        self.assertIsInstance(self.recipient(stage, self.envelope("alice@example.net")), Refuse)
        failure = self.failureResultOf(stage.weigh(makeMessage(), self.envelope("x@y.example")))
        self.assertEqual(failure.value.reply.code, 451)
        self.fill(("alice@example.net", "ceo@example.net", None, None, None))
        self.services.reactor.advance(61)
        self.assertEqual(self.said(stage, "ceo@example.net"), "")
        os.unlink(os.path.join(self.directory, "users.db"))
        self.services.reactor.advance(61)
        self.assertEqual(self.said(stage, "ceo@example.net"), "")
        for row in (("no pattern", None), ("[", None), (None, -1), (None, "many"), (None, 0)):
            self.fill(("alice@example.net", row[0], row[1], None, None))
            self.services.reactor.advance(61)
            self.assertEqual(self.said(stage, "alice@example.net"), "451 4.3.0", row)

    def test_cancelled(self) -> None:
        """A client that goes while the table is asked leaves nothing behind."""
        source, stage = Source(), self.stage(table=TableName("people"))
        source.rows["alice@example.net"] = Deferred()
        self.services.tables.now = {"people": source}
        d = stage.judgeSender(self.envelope("alice@example.net"))
        d.cancel()
        self.failureResultOf(d)
        source.broken = OSError()
        self.assertEqual(self.said(stage, "alice@example.net"), "451 4.3.0")

    def test_settings(self) -> None:
        """There is one table at most, and its URL has the login's parts."""
        self.assertRaises(BadSetting, SubmissionSettings, sqlite="a", url="http://a/")
        for url in ("x", "http://a/{who}", "http://a/{"):
            self.assertRaises(BadSetting, SubmissionSettings, url=url)


class LimitTests(SubmissionCase):
    """
    How much a login may send.
    """

    def test_messages(self) -> None:
        """So many within an hour, over all connections and spellings; then 450 4.7.1."""
        stage = self.stage(messages=3)
        said = [self.said(stage, "alice@example.net") for _ in range(3)]
        said.append(self.said(stage, "alice@example.net", "Alice@example.net"))
        self.assertEqual(said, ["", "", "", "450 4.7.1"])
        self.assertEqual(self.said(stage, "bob@example.net", "bob@example.net"), "")
        self.services.reactor.advance(3700)
        self.assertEqual(self.said(stage, "alice@example.net"), "")

    def test_recipients(self) -> None:
        """Only those are counted that are let in; no next message begins without any left."""
        stage = self.stage(recipients=2)
        envelope = self.envelope("alice@example.net")
        refused = Refuse(R550_UNKNOWN_RECIPIENT)
        for _ in range(5):
            self.assertIs(self.recipient(stage, envelope, refused), refused)
        for verdict in (ACCEPT, Defer()):
            self.assertIs(self.recipient(stage, envelope, verdict), verdict)
        self.assertEqual(self.recipient(stage, envelope).reply.code, 450)
        self.assertEqual(self.said(stage, "alice@example.net"), "450 4.7.1")
        stranger = self.envelope("x@y.example", None)
        for _ in range(9):
            self.assertIs(self.recipient(stage, stranger), ACCEPT)

    def test_octets(self) -> None:
        """A message that is too much is refused when it is complete, and costs nothing."""
        stage = self.stage(octets=100)
        envelope = self.envelope("alice@example.net")
        for size, wanted in ((60, 0), (41, 450), (40, 0), (1, 450)):
            message = makeMessage(b"x" * size)
            d = stage.weigh(message, envelope).addErrback(lambda f: f.value.reply.code)
            found = self.successResultOf(d)
            self.assertEqual(0 if found is message else found, wanted)
        self.assertEqual(self.said(stage, "alice@example.net"), "450 4.7.1")
        message = makeMessage(b"x" * 1000)
        stranger = self.envelope("x@y.example", None)
        self.assertIs(self.successResultOf(stage.weigh(message, stranger)), message)

    def test_table(self) -> None:
        """The table's numbers are for its login; what it does not say is as for all."""
        self.fill(
            ("alice@example.net", None, 2, None, None), ("bob@example.net", None, None, None, "1K")
        )
        stage = self.stage(messages=1, octets=10, sqlite="users.db")
        said = [self.said(stage, "alice@example.net") for _ in range(3)]
        self.assertEqual(said, ["", "", "450 4.7.1"])
        bob = self.envelope("bob@example.net", "bob@example.net")
        self.successResultOf(stage.weigh(makeMessage(b"x" * 1000), bob))
        self.assertEqual(self.said(stage, "bob@example.net", "bob@example.net"), "")
        self.assertEqual(self.said(stage, "bob@example.net", "bob@example.net"), "450 4.7.1")

    def test_hold(self) -> None:
        """With C{hold} more is taken and held, as much again; only then is it refused."""
        stage = self.stage(messages=2, octets=10, over="hold")
        held = []
        for _ in range(4):
            envelope = self.envelope("alice@example.net")
            self.assertIsNone(self.successResultOf(stage.judgeSender(envelope)))
            held.append(stage.isHeld(envelope))
        self.assertEqual(held, [False, False, True, True])
        self.assertEqual(self.said(stage, "alice@example.net"), "450 4.7.1")
        bob = self.envelope("bob@example.net", "bob@example.net")
        self.successResultOf(stage.weigh(makeMessage(b"x" * 8), bob))
        self.assertFalse(stage.isHeld(bob))
        self.successResultOf(stage.weigh(makeMessage(b"x" * 8), bob))
        self.assertTrue(stage.isHeld(bob))
        self.failureResultOf(stage.weigh(makeMessage(b"x" * 8), bob), PeerError)
        self.assertEqual(self.services.status.counted("submission", "held"), 3)

    def test_status(self) -> None:
        """The status shows the logins that have used most, and how much of what."""
        stage = self.stage(messages=10, recipients=4)
        alice = self.envelope("alice@example.net")
        self.successResultOf(stage.judgeSender(alice))
        self.recipient(stage, alice)
        self.recipient(stage, alice)
        self.successResultOf(stage.weigh(makeMessage(b"x" * 50), alice))
        for number in range(30):
            user = f"user{number:02}@example.net"
            self.assertEqual(self.said(stage, user, user), "")
        found = stage.describe()
        self.assertEqual(found["logins"], 31)
        self.assertEqual(len(found["most_used"]), 20)
        first = next(iter(found["most_used"].items()))
        self.assertEqual(
            first,
            (
                "alice@example.net",
                {"messages": [1, 10], "recipients": [2, 4], "octets": [50, 1 << 30]},
            ),
        )
