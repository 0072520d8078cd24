"""
Look-ups in DNS, with a resolver without sockets.
"""

from __future__ import annotations

from twisted.internet import defer
from twisted.internet.task import Clock
from twisted.names import dns
from twisted.names.error import DNSNameError
from twisted.trial.unittest import SynchronousTestCase

from deferrals.stages.lookups import Keeping, Names, NoSuchName, Unanswered
from tests.resolver import RECORDS, Resolver


class NamesTests(SynchronousTestCase):
    """
    L{Names}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.resolver = Resolver(RECORDS)

    def test_keeping(self) -> None:
        """How long an answer is kept: as DNS says, within bounds (RFC 2308 §5)."""
        keeping = Keeping(30, 300, 120)
        answers = [dns.RRHeader("x", dns.A, dns.IN, ttl) for ttl in (900, 200)]
        self.assertEqual(keeping.some(answers), 200)
        self.assertEqual(keeping.some(answers[:1]), 300)
        self.assertEqual(keeping.some([dns.RRHeader("x", dns.A, dns.IN, 0)]), 30)
        for ttl, minimum, wanted in ((60, 90, 60), (90, 60, 60), (5, 900, 30), (900, 900, 120)):
            soa = dns.Record_SOA(minimum=minimum)
            found = [dns.RRHeader("x", dns.SOA, dns.IN, ttl, soa)]
            self.assertEqual(keeping.none(found), wanted)
        self.assertEqual(keeping.none([]), 120)

    def test_noSuchNameIsKept(self) -> None:
        """As long as its zone says."""
        soa = dns.Record_SOA(minimum=10)
        message = dns.Message(rCode=dns.ENAME)
        message.authority = [dns.RRHeader("x", dns.SOA, dns.IN, 900, soa)]
        names = Names(lambda: self.resolver, self.clock)
        error = DNSNameError(message)
        self.patch(self.resolver, "query", lambda *_: (asked.append(1), defer.fail(error))[1])
        asked: list[int] = []
        for _ in range(2):
            self.failureResultOf(names.find(dns.A, "x.example"), NoSuchName)
        self.assertEqual(len(asked), 1)
        self.clock.advance(11)
        self.failureResultOf(names.find(dns.A, "x.example"), NoSuchName)
        self.assertEqual(len(asked), 2)

    def test_memory(self) -> None:
        """What is remembered has a bound, whatever the answers are."""
        texts = {(f"{n}.example", "TXT"): ["x" * 60_000] for n in range(100)}
        self.resolver = Resolver(texts)
        names = Names(lambda: self.resolver, self.clock, 1_000_000)
        for name, _ in texts:
            self.successResultOf(names.find(dns.TXT, name))
        self.successResultOf(names.find(dns.TXT, "99.example"))
        self.assertEqual(len(self.resolver.asked), 100)
        self.assertLess(names._known.currsize, 1_000_000)
        self.assertIn(len(names._known), range(10, 20))

    def test_unanswered(self) -> None:
        """What DNS cannot say now is no name that is not there, and says why."""
        names = Names(lambda: self.resolver, self.clock)
        self.resolver.broken = {"x.example"}
        error = self.failureResultOf(names.find(dns.A, "x.example"), Unanswered).value
        self.assertRegex(str(error), "^x.example: ")
        self.assertIs(error.isOurs, False)
        self.failureResultOf(names.find(dns.MX, "round.example"), Unanswered)
        self.failureResultOf(names.find(dns.A, "gone.example"), NoSuchName)
