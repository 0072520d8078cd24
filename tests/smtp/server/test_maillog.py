"""
What the log says of a transaction.
"""

from __future__ import annotations

from typing import Any

from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.reply import Reply
from deferrals.model.status import Status
from deferrals.smtp.server.maillog import recipientVerdict, transactionEnd
from deferrals.testing import makeEnvelope
from tests.harness import GREETING, Bench

#: What Twisted's logger adds, for old observers, too.
TWISTED = {
    *("log_format", "log_legacy", "log_level", "log_logger", "log_namespace", "log_source"),
    *("log_time", "format", "isError", "message", "system", "time"),
}

#: The keys of a recipient's event; they are public.
RECIPIENT = {
    *("event", "transaction", "client", "sender", "recipient"),
    *("stage", "cohort", "reply", "milliseconds"),
}

#: The keys of a transaction's event; they are public.
TRANSACTION = {
    *("event", "transaction", "client", "helo", "user", "tls", "listener", "sender", "size"),
    *("rung", "recipients", "accepted", "sentAway", "reply", "milliseconds", "answered"),
}


class EventTests(SynchronousTestCase):
    """
    One event each.
    """

    def test_recipient(self) -> None:
        """A recipient's verdict: keys for machines, one line for people."""
        envelope = makeEnvelope("me@client.test")
        with capturedLogs() as events:
            reply = Reply(550, "5.7.1", "spam")
            recipientVerdict(Status(), envelope, "a@b.test", "content", "strict/2", reply, 0.01234)
        (event,) = events
        self.assertEqual(event.keys() - TWISTED, RECIPIENT)
        self.assertEqual((event["event"], event["milliseconds"]), ("recipient", 12.3))
        self.assertEqual((event["sender"], event["recipient"]), ("me@client.test", "a@b.test"))
        self.assertEqual(
            formatEvent(event),
            f"{envelope.id} to=<a@b.test> content strict/2: 550 5.7.1 spam (12.3 ms)",
        )

    def test_transaction(self) -> None:
        """A transaction's end: keys for machines, one line for people."""
        envelope = makeEnvelope("")
        with capturedLogs() as events:
            transactionEnd(Status(), envelope, "mixed", 3, 2, 1, 4711, "250 2.6.0 ok", 1.5)
        (event,) = events
        self.assertEqual(event.keys() - TWISTED, TRANSACTION)
        self.assertEqual((event["event"], event["sentAway"]), ("transaction", 1))
        self.assertEqual(
            formatEvent(event),
            f"{envelope.id} {envelope.client.address} from=<> size=4711 mixed, 2 of 3 accepted:"
            " 250 2.6.0 ok (1500.0 ms)",
        )


class SessionTests(SynchronousTestCase):
    """
    What whole sessions leave in the log.
    """

    def events(self, *lines: str, **settings: Any) -> list[dict[str, Any]]:
        """
        @return: the events of transactions in a session that says these lines.
        """
        bench = Bench(**settings)
        with capturedLogs() as events:
            bench.say(*GREETING, *lines)
            bench.lose()
        return [one for one in events if one["log_namespace"] == "deferrals.transaction"]

    def test_once(self) -> None:
        """Each recipient has one verdict, and each transaction one end, with one number."""
        mail = (
            *("MAIL FROM:<a@b.example>", "RCPT TO:<postmaster@example.net>"),
            *("RCPT TO:<old-user@example.net>", "DATA", "Subject: secret", "", "secret", "."),
        )
        found = self.events(*mail, *mail)
        self.assertEqual(
            [(one["event"], one["reply"][:3]) for one in found],
            [("recipient", "250"), ("recipient", "550"), ("transaction", "250")] * 2,
        )
        self.assertEqual(len({one["transaction"] for one in found}), 2)
        self.assertEqual(len({one["transaction"] for one in found[:3]}), 1)

    def test_noContent(self) -> None:
        """Nothing of the message is in the log."""
        found = self.events(
            *("MAIL FROM:<a@b.example>", "RCPT TO:<postmaster@example.net>", "DATA"),
            *("Subject: secret", "", "secret", "."),
        )
        self.assertNotIn("secret", repr([(one, formatEvent(one)) for one in found]))

    def test_noAnswer(self) -> None:
        """A transaction without a final reply has ended, too, and says why."""
        for lines, reason in (
            (("RSET",), "RSET"),
            (("EHLO again",), "a new greeting"),
            (("QUIT",), "QUIT"),
            (("DATA", "text"), "the connection was lost"),
        ):
            (end,) = (
                one
                for one in self.events(
                    "MAIL FROM:<a@b.example>", "RCPT TO:<postmaster@example.net>", *lines
                )
                if one["event"] == "transaction"
            )
            self.assertEqual((end["rung"], end["accepted"]), ("aborted", 0))
            self.assertEqual(end["reply"], reason)
