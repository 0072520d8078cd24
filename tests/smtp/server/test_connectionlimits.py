"""
How many connections may come from where.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.limits import Limits
from deferrals.smtp.server.connectionlimits import ConnectionLimits
from tests.harness import Bench, Transport


class GuardTests(SynchronousTestCase):
    """
    How many may come.
    """

    def benches(self, limits: ConnectionLimits, *hosts: str) -> list[Bench]:
        return [
            Bench(backend={"connectionLimits": limits}, transport=Transport(host)) for host in hosts
        ]

    def test_total(self) -> None:
        """One too many gets 421 4.3.2; when one has gone there is room."""
        limits = ConnectionLimits(Limits(connections=2))
        benches = self.benches(limits, "192.0.2.1", "192.0.2.2", "192.0.2.3")
        self.assertEqual(
            [bench.take()[:9] for bench in benches], [b"220 mx.ex", b"220 mx.ex", b"421 4.3.2"]
        )
        self.assertTrue(benches[2].closed)
        for bench in benches[1:]:
            bench.lose()
        (bench,) = self.benches(limits, "192.0.2.3")
        self.assertEqual(bench.take()[:3], b"220")

    def test_perAddress(self) -> None:
        """IPv4 addresses count by themselves, IPv6 addresses with their /64."""
        limits = ConnectionLimits(Limits(connections_per_address=1))
        hosts = (
            *("192.0.2.1", "192.0.2.2", "192.0.2.1"),
            *("2001:db8::1", "2001:db8:0:0:ffff::2", "2001:db8:0:1::1"),
            *("::ffff:192.0.2.2", "::ffff:192.0.2.3"),
        )
        said = [bench.take()[:3] for bench in self.benches(limits, *hosts)]
        wanted = [b"220", b"220", b"421", b"220", b"421", b"220", b"421", b"220"]
        self.assertEqual(said, wanted)
        self.assertEqual(limits.total, len(hosts))

    def test_turnedAway(self) -> None:
        """A client that was turned away is not listened to."""
        limits = ConnectionLimits(Limits(connections=1))
        _, bench = self.benches(limits, "192.0.2.1", "192.0.2.1")
        bench.take()
        bench.send(b"EHLO x\r\nMAIL FROM:<a@example.com>\r\n")
        self.assertEqual(bench.take(), b"")
        self.assertEqual(bench.status.counted("connections", "turned away"), 1)
