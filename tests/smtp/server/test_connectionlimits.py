"""
How many connections may come from where.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import LineError
from deferrals.smtp.server import connectionlimits as module
from deferrals.smtp.server.connectionlimits import ConnectionLimits
from tests.harness import Bench, Transport, connectionLimits


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
        limits = connectionLimits(connections=2)
        benches = self.benches(limits, "192.0.2.1", "192.0.2.2", "192.0.2.3")
        self.assertEqual(
            [bench.take()[:9] for bench in benches], [b"220 mx.ex", b"220 mx.ex", b"421 4.3.2"]
        )
        self.assertTrue(benches[2].closed)
        for bench in benches[1:]:
            bench.lose()
        (bench,) = self.benches(limits, "192.0.2.3")
        self.assertEqual(bench.take()[:3], b"220")

    def test_early(self) -> None:
        """Before mail can be taken nobody is let in, or counted."""
        limits = connectionLimits(connections=1)
        limits.isEarly = True
        (bench,) = self.benches(limits, "192.0.2.1")
        self.assertEqual(bench.take()[:9], b"421 4.3.2")
        self.assertTrue(bench.closed)
        limits.isEarly = False
        (bench,) = self.benches(limits, "192.0.2.1")
        self.assertEqual(bench.take()[:3], b"220")

    def test_perAddress(self) -> None:
        """IPv4 addresses count by themselves, IPv6 addresses with their /64."""
        limits = connectionLimits(connections_per_address=1)
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
        limits = connectionLimits(connections=1)
        _, bench = self.benches(limits, "192.0.2.1", "192.0.2.1")
        bench.take()
        bench.send(b"EHLO x\r\nMAIL FROM:<a@example.com>\r\n")
        self.assertEqual(bench.take(), b"")
        self.assertEqual(bench.status.counted("connections", "turned away"), 1)


class Later:
    """
    Limits whose answers take a while.

    @ivar asked: limit and Deferred of what is not answered yet.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, Deferred[bool]]] = []
        self.left: list[str] = []

    def enter(self, limit: str, key: str, most: int) -> Deferred[bool]:
        self.asked.append((limit, Deferred()))
        return self.asked[-1][1]

    def leave(self, limit: str, key: str) -> None:
        self.left.append(limit)

    def answer(self, isIn: bool) -> str:
        limit, d = self.asked.pop(0)
        d.callback(isIn)
        return limit


class LaterTests(SynchronousTestCase):
    """
    Where another process counts.
    """

    def setUp(self) -> None:
        self.counts = Later()
        counts: Any = self.counts
        self.limits = ConnectionLimits(counts)

    def bench(self, **more: Any) -> Bench:
        return Bench(backend={"connectionLimits": self.limits}, **more)

    def test_waits(self) -> None:
        """Nothing is said, nor taken, before both answers are there."""
        bench = self.bench()
        bench.send(b"EHLO x\r\n")
        self.assertEqual(self.counts.answer(True), "connections")
        self.assertEqual(bench.take(), b"")
        self.assertEqual(self.counts.answer(True), "connections_per_address")
        said = bench.take()
        self.assertTrue(said.startswith(b"220 mx.ex"), said)
        self.assertIn(b"\r\n250-mx.ex", said)
        bench.lose()
        self.assertEqual(self.counts.left, ["connections_per_address", "connections"])

    def test_refused(self) -> None:
        """Who is one too many gets 421, and is not counted."""
        for answers, left in (([False], []), ([True, False], ["connections"])):
            self.counts.left.clear()
            bench = self.bench()
            for answer in answers:
                self.counts.answer(answer)
            self.assertEqual(bench.take()[:3], b"421")
            self.assertTrue(bench.closed)
            bench.lose()
            self.assertEqual(self.counts.left, left)

    def test_gone(self) -> None:
        """A client that goes meanwhile is asked about no longer."""
        for answers, left in (([], []), ([True], ["connections"])):
            self.counts.left.clear()
            bench = self.bench()
            for answer in answers:
                self.counts.answer(answer)
            (_, d), *_ = self.counts.asked
            self.counts.asked.clear()
            bench.lose()
            self.assertTrue(d.called)
            self.assertEqual(self.counts.left, left)
            self.assertEqual(self.limits.total, 0)

    def test_unknown(self) -> None:
        """Where there is no answer the client is to come again; that is logged."""
        errors: list[str] = []
        self.patch(module._log, "error", lambda text, **_: errors.append(text))
        bench = self.bench()
        self.counts.asked.pop()[1].errback(LineError("the other process has gone away"))
        self.assertEqual(bench.take()[:9], b"421 4.3.0")
        bench.lose()
        self.assertEqual((len(errors), self.counts.left), (1, []))

    def test_proxied(self) -> None:
        """Behind a PROXY header what has come with it is taken afterwards."""
        bench = self.bench(proxied=True, proxies=("192.0.2.1",))
        self.counts.answer(True)
        bench.send(b"PROXY TCP4 203.0.113.9 192.0.2.1 1 25\r\nEHLO x\r\n")
        self.assertEqual(bench.take(), b"")
        self.assertEqual(self.counts.answer(True), "connections_per_address")
        said = bench.take()
        self.assertTrue(said.startswith(b"220 mx.ex"), said)
        self.assertIn(b"\r\n250-mx.ex", said)

    def test_xclient(self) -> None:
        """XCLIENT is answered when its client is counted."""
        for isIn in (True, False):
            bench = self.bench(xclient=("192.0.2.1",))
            self.counts.answer(True)
            bench.take()
            bench.send(b"XCLIENT ADDR=203.0.113.9\r\nEHLO x\r\n")
            self.assertEqual(bench.take(), b"")
            self.assertEqual(self.counts.answer(isIn), "connections_per_address")
            said = bench.take().split(b"\r\n")
            self.assertEqual(
                [one[:3] for one in said][:2], [b"220", b"250"] if isIn else [b"421", b""]
            )
            bench.lose()

    def test_stopping(self) -> None:
        """A server that stops does not wait for the answer."""
        bench = self.bench()
        bench.session.shutdown()
        self.assertTrue(bench.closed)
