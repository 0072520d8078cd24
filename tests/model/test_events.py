"""
What is counted of events.
"""

from __future__ import annotations

from typing import Any

import attrs
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.events import happened
from deferrals.model.limits import Limits
from deferrals.model.status import Status
from deferrals.stages.envelope.ownsenders import ANY
from deferrals.stages.envelope.submission import SubmissionSettings
from deferrals.web.metrics import LIMITS
from tests.harness import GREETING, Bench, connectionLimits, gate


class EventTests(SynchronousTestCase):
    """
    L{happened}.
    """

    def test_unknown(self) -> None:
        """An event that nothing is said of here is counted by its name."""
        status = Status()
        happened(status, "backoff", {"destination": "mx.example"})
        self.assertEqual(status.kinds("events"), {"backoff": 1})

    def test_delivery(self) -> None:
        """A delivery, by its kind and what came of it, and how long it took."""
        status = Status()
        happened(status, "delivery", {"use": "mx", "outcome": "retry", "seconds": 3})
        self.assertEqual(status.kinds("deliveries"), {("mx", "retry"): 1})
        self.assertEqual(status.measured("deliveries")["mx"].total, 3)

    def test_notices(self) -> None:
        """What senders are told, and what they are not."""
        status = Status()
        happened(status, "notice", {"action": "failed"})
        happened(status, "untold", {"recipient": "a@b.example"})
        self.assertEqual(status.kinds("notices"), {"failed": 1, "untold": 1})


class SessionTests(SynchronousTestCase):
    """
    A session's events.
    """

    def test_mail(self) -> None:
        """Each verdict, the transaction and the session are counted once."""
        bench = Bench()
        bench.say(*GREETING, "MAIL FROM:<a@b.example>", "RCPT TO:<postmaster@example.net>", "DATA")
        bench.say("text", ".", "MAIL FROM:<a@b.example>", "RSET", "QUIT")
        bench.lose()
        self.assertEqual(bench.status.kinds("transactions"), {"single": 1, "aborted": 1})
        self.assertEqual(sum(bench.status.kinds("verdicts").values()), 1)
        self.assertEqual([kind[1] for kind in bench.status.kinds("sessions")], ["mail"])
        replies = bench.status.measured("replies")
        self.assertEqual(
            {name: sum(one.counts) for name, one in replies.items()}, {"rcpt": 1, "final": 1}
        )

    def test_none(self) -> None:
        """A session without mail."""
        bench = Bench()
        bench.say(*GREETING, "QUIT")
        bench.lose()
        self.assertEqual([kind[1] for kind in bench.status.kinds("sessions")], ["none"])


MAIL = ("MAIL FROM:<a@b.example>", "RCPT TO:<postmaster@example.net>")

LOGIN = "AUTH PLAIN AGFsaWNlAHNlY3JldA=="  # alice, secret

#: What makes a client meet each limit: the limit, lines, and how long it is silent.
MET: dict[str, tuple[int, tuple[str, ...], float]] = {
    "message_size": (100, (*MAIL, "DATA", "x" * 200, "."), 0),
    "header_size": (100, (*MAIL, "DATA", "X: " + "x" * 200, "", "."), 0),
    "recipients": (1, (*MAIL, "RCPT TO:<a@example.net>", "RCPT TO:<b@example.net>"), 0),
    "extension_recipients": (
        1,
        ("MAIL FROM:<a@b.example> PRDR", MAIL[1], "RCPT TO:<a@example.net>"),
        0,
    ),
    "hops": (1, (*MAIL, "DATA", "Received: a", "Received: b", "", "."), 0),
    "errors": (2, ("NONSENSE",) * 2, 0),
    "commands": (3, ("NOOP",) * 3, 0),
    "transactions": (1, (MAIL[0], "RSET", MAIL[0]), 0),
    "command_line": (1024, ("NOOP " + "x" * 2000,), 0),
    "command_timeout": (5, (), 5),
    "idle_timeout": (20, (), 20),
    "data_timeout": (5, (*MAIL, "DATA"), 5),
    "auth_failures": (1, ("AUTH PLAIN AGFsaWNlAHdyb25n",), 5),
    "auth_address_failures": (1, ("AUTH PLAIN AGFsaWNlAHdyb25n", LOGIN), 5),
    "auth_network_failures": (1, ("AUTH PLAIN AGFsaWNlAHdyb25n", LOGIN), 5),
}


class LimitTests(SynchronousTestCase):
    """
    Limits that clients meet.
    """

    def bench(self, limits: dict[str, Any], **more: Any) -> Bench:
        gatekeeper = {"authenticator": gate(alice=b"secret"), **more}
        return Bench(limits, gatekeeper, auth="offered", auth_without_tls=True)

    def assertMet(self, bench: Bench, limit: str, events: list[Any]) -> None:
        self.assertEqual(bench.status.kinds("limits"), {limit: 1})
        self.assertEqual([one["limit"] for one in events if one.get("limit")], [limit])

    def test_met(self) -> None:
        """Each is counted once where it is met, and is in the log."""
        for limit, (most, lines, seconds) in MET.items():
            with capturedLogs() as events:
                bench = self.bench({limit: most})
                bench.say(*GREETING)
                bench.say(*lines)
                bench.clock.advance(seconds)
                bench.turns()
            with self.subTest(limit):
                self.assertMet(bench, limit, events)
        self.flushLoggedErrors()

    def test_all(self) -> None:
        """What is never met here, or elsewhere below, is no limit of a client."""
        ours = {"auth_delay", "auth_timeout", "envelope_timeout"}
        keys = {one.name for one in attrs.fields(Limits)} - ours
        self.assertEqual(keys | {"messages", "octets"}, set(LIMITS))
        elsewhere = {
            *("connections", "connections_per_address", "handshake_timeout", "data_rate"),
            *("auth_account_failures", "messages", "octets"),
        }
        self.assertEqual(set(MET) | elsewhere, set(LIMITS))

    def test_connections(self) -> None:
        """A connection too many is turned away, and one event."""
        for limit in ("connections", "connections_per_address"):
            with capturedLogs() as events:
                connections = connectionLimits(**{limit: 1})
                self.bench({}, connectionLimits=connections)
                bench = self.bench({}, connectionLimits=connections)
            self.assertMet(bench, limit, events)
            self.assertEqual(bench.status.kinds("connections"), {"turned away": 1})

    def test_dataRate(self) -> None:
        """Data that comes, but not on."""
        bench = self.bench({"data_rate": 1000})
        bench.say(*GREETING, *MAIL, "DATA")
        while not bench.closed:
            bench.say("x")
            bench.clock.advance(100)
        self.assertEqual(bench.status.kinds("limits"), {"data_rate": 1})

    def test_submission(self) -> None:
        """What a login may send within an hour."""
        for limit, times in (("messages", 1), ("recipients", 2), ("octets", 1)):
            bench = Bench(
                {},
                {"authenticator": gate(alice=b"secret")},
                submission=SubmissionSettings(senders=ANY, **{limit: 1}),
                auth="offered",
                auth_without_tls=True,
            )
            bench.say(*GREETING, LOGIN, *MAIL, MAIL[1], "DATA", "x" * 5, ".", "RSET")
            bench.say(*MAIL)
            self.assertEqual(bench.status.kinds("limits"), {limit: times})
            over = bench.status.counted("submission", f"over {limit}")
            self.assertEqual(over, times)


class LateTests(SynchronousTestCase):
    """
    What has not come in time.
    """

    def test_envelope(self) -> None:
        """An envelope stage."""
        bench = Bench()
        bench.envelope.verdicts["x@example.net"] = "pending"
        bench.say(*GREETING, MAIL[0], "RCPT TO:<x@example.net>")
        bench.clock.advance(30)
        bench.turns()
        self.assertEqual(bench.status.kinds("late"), {"envelope": 1})

    def test_content(self) -> None:
        """Judgements of a content."""
        bench = Bench()
        bench.say(*GREETING, MAIL[0], "RCPT TO:<x@example.net>", "RCPT TO:<y@example.net>")
        bench.say("DATA", "x", ".")
        bench.clock.advance(50)
        bench.turns()
        self.assertEqual(bench.status.kinds("late"), {"content": 1})
        self.assertEqual(bench.status.kinds("judgements"), {("FakeContent", "later"): 2})

    def test_spool(self) -> None:
        """The disk."""
        bench = Bench()
        bench.spool.slow = True
        bench.say(*GREETING, *MAIL, "DATA", "x", ".")
        bench.clock.advance(50)
        bench.turns()
        self.assertEqual(bench.status.kinds("late"), {"spool": 1})
