"""
SPF against a zone on loopback.
"""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SkipTest, TestCase

from deferrals.app import spf
from deferrals.model.envelope import Client
from deferrals.server.spf import SPF
from deferrals.testing import makeEnvelope
from tests.zone import Zone

RECORDS: dict[tuple[str, str], list[Any]] = {
    ("aligned.example", "TXT"): ["v=spf1 ip4:192.0.2.0/24 -all"],
    ("other.example", "TXT"): ["v=spf1 ip4:198.51.100.1 -all"],
    ("soft.example", "TXT"): ["v=spf1 ~all"],
    ("mx.example", "TXT"): ["some text", "v=spf1 mx -all"],
    ("mx.example", "MX"): [(10, "host.mx.example")],
    ("host.mx.example", "A"): ["192.0.2.1"],
    ("include.example", "TXT"): ["v=spf1 include:aligned.example -all"],
    ("loop.example", "TXT"): ["v=spf1 include:loop.example -all"],
    ("nothing.example", "A"): ["192.0.2.9"],
}


class SPFTests(TestCase):
    """
    L{SPF}.
    """

    def setUp(self) -> None:
        self.zone = Zone(RECORDS)
        self.addCleanup(self.zone.close)
        self.spf = SPF(reactor, deferToThread, [self.zone.address])
        if not self.spf.available:
            raise SkipTest("pyspf and dnspython are not installed (the extra spf)")

    @inlineCallbacks
    def test_passes(self) -> Any:
        """Only "pass" passes; whoever has no record, or a broken one, does not."""
        for sender, wanted in (
            ("a@aligned.example", True),
            ("a@mx.example", True),
            ("a@include.example", True),
            ("a@other.example", False),
            ("a@soft.example", False),
            ("a@nothing.example", False),
            ("a@unknown.example", False),
            ("a@loop.example", False),
            ("", False),
        ):
            passes = yield self.spf.passes(makeEnvelope(sender))
            self.assertEqual(passes, wanted, sender)

    @inlineCallbacks
    def test_client(self) -> Any:
        """It is the client's address that counts, of either family."""
        envelope = makeEnvelope("a@aligned.example")
        for address in ("203.0.113.5", "2001:db8::1"):
            other = attrs.evolve(envelope, client=Client(address, 25, "x.example"))
            self.assertFalse((yield self.spf.passes(other)))

    def test_slow(self) -> None:
        """
        Checks of senders whose DNS does not answer take some threads, not all
        that there are; who has waited too long does not pass.
        """
        clock = Clock()
        asked: list[Deferred[Any]] = []

        def inThread(function: Any, *args: Any) -> Deferred[Any]:
            asked.append(Deferred())
            return asked[-1]

        checks = SPF(clock, inThread)
        results = [checks.passes(makeEnvelope("a@slow.example")) for _ in range(10)]
        self.assertEqual(len(asked), 3)
        clock.advance(spf.CHECK_SECONDS)
        self.assertEqual([self.successResultOf(d) for d in results], [False] * 10)
        result = checks.passes(makeEnvelope("a@slow.example"))
        self.assertEqual(len(asked), 3, "the threads are still busy")
        asked[0].callback("fail")
        asked[1].errback(OSError())
        asked[3].callback("pass")
        self.assertTrue(self.successResultOf(result))

    @inlineCallbacks
    def test_noServer(self) -> Any:
        """No DNS, no pass, and no failure."""
        self.patch(spf, "CHECK_SECONDS", 1.0)
        self.patch(self.spf, "_nameservers", [("127.0.0.1", 1)])
        passes = yield self.spf.passes(makeEnvelope("a@aligned.example"))
        self.assertFalse(passes)
