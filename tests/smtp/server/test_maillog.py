"""
What the log says of a transaction.
"""

from __future__ import annotations

from typing import Any

import attrs
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from deferrals.interfaces import ISenderStage
from deferrals.model.envelope import Client, Envelope
from deferrals.model.reply import Reply
from deferrals.model.status import Status
from deferrals.model.verdict import Refuse
from deferrals.operator.explain import Word
from deferrals.operator.logs import LogEntry
from deferrals.smtp.server.maillog import recipientVerdict, recipientVerdicts, transactionEnd
from deferrals.testing import makeEnvelope
from tests.harness import GREETING, Bench

#: What Twisted's logger adds, for old observers, too.
TWISTED = {
    *("log_format", "log_legacy", "log_level", "log_logger", "log_namespace", "log_source"),
    *("log_time", "format", "isError", "message", "system", "time"),
}

#: The keys of a recipient's event; they are public.
RECIPIENT = {
    *("event", "transaction", "client", "sender", "recipient", "alias"),
    *("stage", "cohort", "reply", "why", "marked", "milliseconds"),
}

#: The keys of a transaction's event; they are public.
TRANSACTION = {
    *("event", "transaction", "client", "helo", "user", "tls", "listener", "sender", "size"),
    *(
        "messageId",
        "rung",
        "recipients",
        "accepted",
        "sentAway",
        "reply",
        "milliseconds",
        "answered",
    ),
}


@implementer(ISenderStage)
class RefusingSenders:
    """
    Lets no sender in.
    """

    def judgeSender(self, envelope: Envelope) -> Refuse:
        return Refuse(Reply(550, "5.7.1", "not you"))


class EventTests(SynchronousTestCase):
    """
    One event each.
    """

    def test_recipients(self) -> None:
        """Those of a cohort: the same event for each as if it were alone."""
        names = ["one@x.example", "t\x1bwo@x.example"]
        said = "content", "strict/2", Reply(550, "5.7.1", "no"), 0.0123, "score"
        status, envelope = Status(), makeEnvelope()
        with capturedLogs() as logged:
            recipientVerdicts(status, envelope, names, *said)
            for name in names:
                recipientVerdict(status, envelope, name, *said)
        together, alone = logged[:2], logged[2:]
        for event, other in zip(together, alone, strict=True):
            self.assertEqual(formatEvent(event), formatEvent(other))
            self.assertEqual(
                [(key, event[key]) for key in event if key in RECIPIENT],
                [(key, other[key]) for key in other if key in RECIPIENT],
            )
        self.assertEqual(status.kinds("verdicts"), {("content", "strict", "550"): 4})

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

    def test_noCohort(self) -> None:
        """A recipient of no rule has no policy, and no place where one would be."""
        envelope, no = makeEnvelope("a@b.c"), Reply(550, "5.7.1", "no")
        with capturedLogs() as events:
            recipientVerdict(Status(), envelope, "a@b.c", "envelope", "", no, 0, "no rule matches")
        self.assertEqual(
            formatEvent(events[0]),
            f"{envelope.id} to=<a@b.c> envelope: 550 5.7.1 no [no rule matches] (0 ms)",
        )

    def test_why(self) -> None:
        """The rule, or the score and its limit, stands behind the reply."""
        with capturedLogs() as events:
            no, why = Reply(550, "5.7.1", "spam"), "rspamd: score 8.2, refuse_score 5"
            recipientVerdict(Status(), makeEnvelope("a@b.c"), "a@b.c", "content", "x/1", no, 0, why)
        self.assertIn(f"550 5.7.1 spam [{why}] (", formatEvent(events[0]))
        self.assertEqual(events[0]["why"], why)

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
            f"{envelope.id} {envelope.client.address} helo={envelope.client.helo} from=<>"
            " size=4711 mixed, 2 of 3 accepted: 250 2.6.0 ok (1500.0 ms)",
        )

    def test_who(self) -> None:
        """The line of a transaction has the login, TLS and the message's own id."""
        client = Client("192.0.2.1", helo="c.test", user="anna", tls="TLSv1.3 X")
        envelope = attrs.evolve(makeEnvelope("a@b.test"), client=client)
        with capturedLogs() as events:
            transactionEnd(Status(), envelope, "single", 1, 1, 0, 1, "250 ok", 1, 1, "1@c.test")
        self.assertIn(
            " 192.0.2.1 helo=c.test user=anna tls=(TLSv1.3 X) from=<a@b.test>"
            " message-id=<1@c.test> size=1 ",
            formatEvent(events[0]),
        )

    def test_forged(self) -> None:
        """What a client says cannot look like other words of a line, and is not long."""
        client = Client("192.0.2.1", helo="c.test", user='a> from=<boss@b.test> "')
        envelope = attrs.evolve(makeEnvelope("a@b.test"), client=client)
        ident = "x> size=1 single, 1 of 1 accepted: 250 ok\u2028\x1b" + "y" * 2000
        with capturedLogs() as events:
            transactionEnd(Status(), envelope, "single", 1, 0, 0, 1, "550 no", 1, 1, ident)
        text = formatEvent(events[0])
        self.assertEqual((text.count(" from="), text.count(" size=")), (1, 1))
        self.assertRegex(text, r"^[ -~]{,1200}$")


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

    def test_reference(self) -> None:
        """Whatever refuses a recipient, in whatever way, ends with the id that the log has."""
        bench = Bench(limits={"recipients": 1})
        bench.envelope.verdicts["raises@example.net"] = ValueError("no")
        bench.content.verdicts["fighter@example.net"] = Refuse(Reply(550, "5.7.1", "no"))
        with capturedLogs() as events:
            bench.say(*GREETING, "MAIL FROM:<a@b.example>")
            said = bench.say("RCPT TO:<old-user@example.net>", "RCPT TO:<raises@example.net>")
            said += bench.say(
                "RCPT TO:<a b@example.net>", "RCPT nobody", "RCPT TO:<\x01@x.example>"
            )
            bench.send(b"RCPT TO:<\xfc@example.net>\r\n")
            said += bench.take().decode().splitlines()
            for step in (1000, 5000):
                long = b"RCPT TO:<long@example.net> X=" + b"y" * 5000 + b"\r\n"
                for start in range(0, len(long), step):
                    bench.send(long[start : start + step])
                said += bench.take().decode().splitlines()
            bench.say("RCPT TO:<fighter@example.net>")
            said += bench.say("RCPT TO:<second@example.net>")
            said += bench.say("DATA", "Message-ID: <1@c>", "", "hello", ".")[1:]
        (end,) = (one for one in events if one.get("event") == "transaction")
        self.assertEqual(len(said), 10)
        for line in said:
            self.assertRegex(line, rf"^[45].*\(id {end['transaction']}\)$")
        named = [one for one in events if one.get("event") == "recipient"]
        self.assertEqual([one["reply"][:3] for one in named], [line[:3] for line in said])
        self.assertEqual(end["messageId"], "1@c")

    def test_outOfSequence(self) -> None:
        """A recipient that is named between chunks is one of this transaction."""
        bench = Bench()
        bench.say(*GREETING, "MAIL FROM:<a@b.example>", "RCPT TO:<postmaster@example.net>")
        bench.send(b"BDAT 5\r\nhello")
        bench.take()
        with capturedLogs() as events:
            (said,) = bench.say("RCPT TO:<late@example.net>")
        self.assertRegex(said, r"^503 .*\(id \w{13}\)$")
        self.assertEqual([one["recipient"] for one in events], ["late@example.net"])

    def test_ends(self) -> None:
        """What ends a session in a transaction refers to it."""
        for octets, code in (
            (b"RCPT TO:<a@example.net>\n", "500"),
            (b"\x16\x03", "421"),
            (b"NOOP\r\nNOOP\r\n", "421"),
        ):
            bench = Bench(limits={"commands": 2})
            bench.say(*GREETING, "MAIL FROM:<a@b.example>")
            bench.say("RCPT TO:<postmaster@example.net>")
            bench.send(octets)
            said = bench.take().decode().removeprefix("250 2.0.0 ok\r\n")
            self.assertRegex(said, rf"^{code} .*\(id \w{{13}}\)\r\n$")
            self.assertTrue(bench.closed)

    def test_sender(self) -> None:
        """A sender that is refused without a transaction is found by its address, whatever why."""
        for line, settings, code in (
            ("MAIL FROM:<a@b.example> NOSUCH", {}, "555"),
            ("MAIL FROM:<a@b.example> SIZE=11", {"limits": {"message_size": 10}}, "552"),
            ("MAIL FROM:<a@b.example>", {"limits": {"transactions": 1}}, "421"),
            ("MAIL FROM:<a@b.example>", {"auth": "required", "auth_without_tls": True}, "530"),
            ("MAIL FROM:<a@b.example> X=" + "y" * 5000, {}, "500"),
            ("MAIL FROM:<a@b.example>\x01", {}, "500"),
        ):
            bench = Bench(**settings)
            bench.say(*GREETING, "MAIL FROM:<>", "RSET")
            with capturedLogs() as events:
                (said,) = bench.say(line)
            self.assertEqual(said[:3], code)
            (one,) = (one for one in events if one.get("event") == "sender")
            text = formatEvent(one)
            end = ">" if "\x01" not in line else ""
            self.assertIn(f"192.0.2.1 helo=client.example.com from=<a@b.example{end}", text)
            self.assertTrue(text.endswith(f" refused: {said}"), text)
            entry = LogEntry(0.0, text)
            for word in ("a@b.example", "b.example", "192.0.2.1", "client.example.com"):
                self.assertTrue(Word(word).matches(entry), (word, text))

    def test_senderInTransaction(self) -> None:
        """A sender that a stage refuses is told the id that the log has."""
        bench = Bench(backend={"senders": [RefusingSenders()]})
        bench.say(*GREETING)
        with capturedLogs() as events:
            (said,) = bench.say("MAIL FROM:<a@b.example>")
        (one,) = events
        self.assertEqual(one["rung"], "sender")
        self.assertEqual(said, f"550 5.7.1 not you (id {one['transaction']})")

    def test_tooLarge(self) -> None:
        """A message that cannot be taken as a whole is refused with the id, too."""
        bench = Bench(limits={"message_size": 10})
        bench.say(*GREETING, "MAIL FROM:<a@b.example>", "RCPT TO:<postmaster@example.net>")
        said = bench.say("DATA", "Message-ID: <1@c>", "", "hello", ".")
        self.assertRegex(said[-1], r"^552 .*\(id \w{13}\)$")

    def test_session(self) -> None:
        """A session without mail leaves one line that says what it was."""
        bench = Bench()
        with capturedLogs() as events:
            bench.say(*GREETING, "VRFY", "QUIT")
            bench.lose()
        (one,) = events
        self.assertEqual(one["event"], "session")
        self.assertEqual(
            formatEvent(one),
            "192.0.2.1 helo=client.example.com has gone from test without mail: 3 commands,"
            " the last refusal: 501 5.5.4 syntax error in the arguments",
        )

    def test_probe(self) -> None:
        """Where the client has said nothing, or a line is there, there is no further one."""
        for lines in ((), ("GET / HTTP/1.1",)):
            bench = Bench()
            with capturedLogs() as events:
                bench.say(*lines)
                bench.lose()
            levels = [one["log_level"] for one in events if one.get("event") == "session"]
            self.assertEqual(levels, [LogLevel.debug])

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
