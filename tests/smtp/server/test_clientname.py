"""
The name that a client has in DNS, while a session goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from deferrals.interfaces import IMessage
from deferrals.model.trace import received
from deferrals.smtp.server.clientname import NAME_SECONDS
from tests.harness import GREETING, Bench, Transport
from tests.proxies import V1

MAIL = ("MAIL FROM:<a@example.com>", "RCPT TO:<postmaster@x.example>")
DATA = ("DATA", "Subject: x", "", "y", ".")


class ClientNameTests(SynchronousTestCase):
    """
    L{ClientName<deferrals.smtp.server.clientname.ClientName>}.
    """

    def bench(
        self, host: str = "192.0.2.1", more: Mapping[str, Any] | None = None, **settings: Any
    ) -> Bench:
        self.asked: list[str] = []
        self.answers: list[Deferred[str]] = []
        self.cancelled = 0
        return Bench(
            backend={"findName": self.find, **(more or {})},
            transport=Transport(host),
            mixed=None,
            **settings,
        )

    def find(self, address: str) -> Deferred[str]:
        def cancel(d: Deferred[str]) -> None:
            self.cancelled += 1

        self.asked.append(address)
        self.answers.append(Deferred(cancel))
        return self.answers[-1]

    def name(self, bench: Bench) -> str:
        """
        What the copy of the last message says.
        """
        text = received(bench.works[-1].envelope, "mx.example.net").decode()
        return text.partition("(")[2].partition("[")[0].strip()

    def test_known(self) -> None:
        """It is asked for at the connection, and nothing waits where it is known."""
        bench = self.bench()
        self.assertEqual(self.asked, ["192.0.2.1"])
        bench.say(*GREETING)
        self.answers[0].callback("mail.example.com")
        bench.say(*MAIL)
        self.assertEqual(
            bench.session.state.transaction.envelope.client.hostname, "mail.example.com"
        )
        self.assertEqual(bench.say(*DATA)[-1][:3], "250")
        self.assertEqual(self.name(bench), "mail.example.com")

    def test_inTheMiddle(self) -> None:
        """One that comes in the middle of a transaction is in its envelope, the same one."""
        bench = self.bench()
        bench.say(*GREETING, *MAIL)
        envelope = bench.session.state.transaction.envelope
        known = {envelope: True}
        self.answers[0].callback("mail.example.com")
        self.assertEqual(envelope.client.hostname, "mail.example.com")
        self.assertEqual(bench.say(*DATA)[-1][:3], "250")
        self.assertIs(bench.works[-1].envelope, envelope)
        self.assertTrue(known[envelope])

    def test_waited(self) -> None:
        """A message that is complete waits for it."""
        bench = self.bench()
        self.assertEqual(bench.say(*GREETING, *MAIL, *DATA)[-1][:3], "354")
        bench.clock.advance(NAME_SECONDS - 1)
        self.assertEqual(bench.take(), b"")
        self.answers[0].callback("mail.example.com")
        self.assertEqual(bench.take()[:3], b"250")
        self.assertEqual(self.name(bench), "mail.example.com")
        self.assertEqual(bench.say(*MAIL, *DATA)[-1][:3], "250")
        self.assertEqual(self.name(bench), "mail.example.com")

    def test_late(self) -> None:
        """
        Not longer than it may: C{unknown}; what comes after that is for the next
        message alone.
        """
        bench = self.bench()
        bench.say(*GREETING, *MAIL, *DATA)
        bench.clock.advance(NAME_SECONDS)
        self.assertEqual(bench.take()[:3], b"250")
        self.assertEqual(self.name(bench), "unknown")
        self.assertEqual(bench.say(*MAIL, *DATA)[-1][:3], "250")  # waits no more
        self.assertEqual(self.name(bench), "unknown")
        bench.say(*MAIL)
        self.answers[0].callback("mail.example.com")
        self.assertEqual(self.name(bench), "unknown")  # as the scanners were told
        self.assertEqual(bench.say(*DATA)[-1][:3], "250")
        self.assertEqual(self.name(bench), "mail.example.com")

    def test_shortDeadline(self) -> None:
        """Waiting for it is never the reason that a message is refused."""
        bench = self.bench(reply_deadline=4.0)
        bench.say(*GREETING, *MAIL, *DATA)
        bench.clock.advance(2)
        self.assertEqual(bench.take()[:3], b"250")

    def test_none(self) -> None:
        """Where there is none, nothing waits."""
        bench = self.bench()
        self.answers[0].callback("")
        self.assertEqual(bench.say(*GREETING, *MAIL, *DATA)[-1][:3], "250")
        self.assertEqual(self.name(bench), "unknown")

    def test_notAsked(self) -> None:
        """This machine is not asked about."""
        for host in ("127.0.0.1", "127.5.5.5", "::1", "::ffff:127.0.0.1"):
            bench = self.bench(host)
            self.assertEqual(self.asked, [])
            self.assertEqual(bench.say(*GREETING, *MAIL, *DATA)[-1][:3], "250")

    def test_gone(self) -> None:
        """A client that has gone leaves nothing behind."""
        for lines in ((), (*GREETING, *MAIL), (*GREETING, *MAIL, *DATA)):
            bench = self.bench()
            bench.say(*lines)
            bench.lose()
            self.assertEqual(self.cancelled, 1)
            self.assertEqual(bench.released, [])
            self.assertEqual(bench.clock.getDelayedCalls(), [])

    def test_goneUnweighed(self) -> None:
        """What a client leaves while its name is waited for does not count as sent."""
        weighed: list[IMessage] = []
        for end in (lambda bench: bench.lose(), lambda bench: bench.session.shutdownNow()):
            bench = self.bench(more={"weigh": lambda message, _: weighed.append(message)})
            bench.say(*GREETING, *MAIL, *DATA)
            end(bench)
            bench.clock.advance(NAME_SECONDS)
            self.assertEqual((weighed, bench.released), ([], []))

    def test_proxied(self) -> None:
        """The client is asked about that the PROXY header names, not the proxy."""
        bench = self.bench(proxied=True, proxies=("192.0.2.0/24",))
        self.assertEqual(self.asked, [])
        bench.send(V1)
        self.assertEqual(self.asked, ["198.51.100.7"])
        bench = self.bench(proxied=True, proxies=("192.0.2.0/24",))
        bench.send(b"PROXY UNKNOWN\r\n")
        self.assertEqual(self.asked, [])

    def test_xclient(self) -> None:
        """What XCLIENT says counts; only where it says an address alone, DNS is asked."""
        for words, asked, name in (
            ("ADDR=198.51.100.9 NAME=there.example", [], "there.example"),
            ("ADDR=198.51.100.9 NAME=[UNAVAILABLE]", [], ""),
            ("NAME=there.example", [], "there.example"),
            ("ADDR=198.51.100.9", ["198.51.100.9"], "answer.example"),
            ("LOGIN=alice", [], "front.example"),
            ("ADDR=127.0.0.1", [], ""),
        ):
            bench = self.bench(xclient=("192.0.2.1",))
            self.answers.pop().callback("front.example")
            self.asked.clear()
            bench.say(*GREETING, f"XCLIENT {words}")
            self.assertEqual([one for one in self.asked if one != "127.0.0.1"], asked, words)
            for answer in self.answers:
                if not answer.called:
                    answer.callback("answer.example")
            bench.say(*GREETING, *MAIL)
            self.assertEqual(bench.session.state.transaction.envelope.client.hostname, name, words)

    def test_replaced(self) -> None:
        """An answer about the client before is not heard any longer."""
        bench = self.bench(xclient=("192.0.2.1",))
        bench.say(*GREETING, "XCLIENT ADDR=198.51.100.9 NAME=there.example")
        self.assertEqual(self.cancelled, 1)
        bench.say(*GREETING, *MAIL)
        self.assertEqual(bench.session.state.transaction.envelope.client.hostname, "there.example")
