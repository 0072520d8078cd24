"""
Who the client is: PROXY headers and XCLIENT.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.networks import Networks
from tests.harness import GREETING, Bench, Transport, connectionLimits, gate
from tests.proxies import GOOD, V1, v2, v2inet


class ProxiedTests(SynchronousTestCase):
    """
    A listener behind a proxy.
    """

    def bench(self, host: str = "192.0.2.1", **more: Any) -> Bench:
        proxies = ("192.0.2.0/24",)
        return Bench(transport=Transport(host), proxied=True, proxies=proxies, **more)

    def test_silent(self) -> None:
        """No greeting before the header."""
        bench = self.bench()
        self.assertEqual(bench.take(), b"")
        bench.send(V1)
        self.assertEqual(bench.take(), b"220 mx.example.net ESMTP deferrals\r\n")
        bench.say(*GREETING, "MAIL FROM:<a@example.com>")
        client = bench.session.state.transaction.envelope.client
        self.assertEqual((client.address, client.port), ("198.51.100.7", 1025))

    def test_tls(self) -> None:
        """Where the client speaks TLS with the proxy, the session is one with TLS."""
        told = b"\x01\0\0\0\0" + b"\x21\0\x07TLSv1.3"
        addresses = b"\xc6\x33\x64\x07\xc0\0\2\1\4\1\0\x19"
        for more, tls in ((b"\x20\0" + bytes([len(told)]) + told, "TLSv1.3"), (b"", None)):
            bench = self.bench(auth="offered", backend={"authenticator": gate(a=b"secret")})
            bench.send(v2(1, 0x11, addresses + more))
            offered = bench.say("EHLO client.example.com")
            self.assertEqual(any("AUTH" in line for line in offered), tls is not None, offered)
            bench.say("MAIL FROM:<a@example.com>")
            client = bench.session.state.transaction.envelope.client
            self.assertEqual((client.tls, client.protocol), (tls, "ESMTPS" if tls else "ESMTP"))

    def test_byteByByte(self) -> None:
        """In whatever pieces it comes, with the first command right behind it."""
        for header, source in GOOD:
            bench = self.bench()
            for octet in header + b"NOOP\r\n":
                bench.send(bytes([octet]))
            self.assertEqual([line[:3] for line in bench.take().splitlines()], [b"220", b"250"])
            self.assertEqual(bench.session.state.address, source.address or "192.0.2.1")

    def test_none(self) -> None:
        """Without a header the connection is closed, and nothing was executed."""
        bench = self.bench()
        bench.send(b"EHLO x\r\nMAIL FROM:<a@example.com>\r\n")
        self.assertEqual(bench.take(), b"")
        self.assertTrue(bench.transport.aborted)

    def test_late(self) -> None:
        """A header that does not come in time ends the connection, also when it drips."""
        bench = self.bench()
        for octet in V1[:6]:
            bench.send(bytes([octet]))
            bench.clock.advance(10)
        self.assertEqual(bench.take(), b"")
        self.assertTrue(bench.transport.aborted)

    def test_notTrusted(self) -> None:
        """A header from anybody else is not even read."""
        bench = self.bench("203.0.113.5")
        self.assertTrue(bench.transport.aborted)
        bench.send(V1)
        self.assertEqual(bench.take(), b"")

    def test_earlyTalker(self) -> None:
        """The greeting's delay begins behind the header."""
        bench = self.bench(greet_delay=3.0)
        bench.clock.advance(30)
        bench.send(V1 + b"EHLO x\r\n")
        self.assertTrue(bench.take().startswith(b"554 5.5.1"))

    def test_counted(self) -> None:
        """Connections are counted as the client's, not as the proxy's."""
        limits = connectionLimits(connections_per_address=1)
        benches = [self.bench(backend={"connectionLimits": limits}) for _ in range(3)]
        other = V1.replace(b".7 ", b".8 ")
        for bench, header in zip(benches, (V1, other, V1), strict=True):
            bench.send(header)
        self.assertEqual([bench.take()[:3] for bench in benches], [b"220", b"220", b"421"])
        for bench in benches:
            bench.lose()
        self.assertEqual((limits.total, limits._shared._entered), (0, {}))


class TrustTests(SynchronousTestCase):
    """
    Behind a proxy, whom the server trusts is the client that the proxy names.
    """

    def session(self, header: bytes, **more: Any) -> Bench:
        """
        A session through a proxy whose own address may do everything.
        """
        networks = ("192.0.2.0/24",)
        bench = Bench(
            transport=Transport("192.0.2.1"),
            proxied=True,
            proxies=networks,
            **{"xclient": networks, "exdata": networks, **more},
        )
        bench.send(header)
        self.assertTrue(bench.take().startswith(b"220"))
        return bench

    def test_xclient(self) -> None:
        """XCLIENT is that of the client's address, not of the proxy's (S7)."""
        for header, known in (
            (V1, False),
            (v2inet("2001:db8::7", 1), False),
            (b"PROXY UNKNOWN\r\n", False),
            (v2(1, 0, b""), False),
            (v2(1, 0x31, b"\0" * 216), False),
            (V1.replace(b"198.51.100.7", b"192.0.2.77"), True),
        ):
            bench = self.session(header)
            said = bench.say("EHLO client.example.com")
            self.assertEqual(any("XCLIENT" in line for line in said), known, header)
            said = bench.say("XCLIENT ADDR=192.0.2.9 LOGIN=alice")
            self.assertEqual(said[-1][:3], "220" if known else "550", header)
            self.assertEqual(bench.session.state.user, "alice" if known else None)

    def test_client(self) -> None:
        """Nor is it in the proxy's networks for anything that looks at the envelope."""
        for header in (V1, b"PROXY UNKNOWN\r\n", v2(1, 0, b"")):
            bench = self.session(header)
            said = bench.say("EHLO client.example.com")
            self.assertFalse([line for line in said if "XEXDATA" in line], header)
            bench.say("MAIL FROM:<a@example.com>")
            address = bench.session.state.transaction.envelope.client.address
            self.assertNotIn(address, Networks.parse(["192.0.2.0/24", "unix"]))

    def test_counted(self) -> None:
        """A client that has an address among the proxies' is counted, too; a check is not."""
        limits = connectionLimits(connections_per_address=1)
        near = V1.replace(b"198.51.100.7", b"192.0.2.77")
        more = {"backend": {"connectionLimits": limits}, "xclient": ()}
        self.session(near, **more)
        for header, wanted in ((v2(0, 0, b""), b"220"), (near, b"421")):
            bench = Bench(
                transport=Transport("192.0.2.1"), proxied=True, proxies=("192.0.2.0/24",), **more
            )
            bench.send(header)
            self.assertEqual(bench.take()[:3], wanted)


class XClientTests(SynchronousTestCase):
    """
    XCLIENT, beside its dialogues.
    """

    def bench(self, **more: Any) -> Bench:
        return Bench(xclient=("192.0.2.1",), **more)

    def test_known(self) -> None:
        """Address, port and login are the new client's; everything else is forgotten."""
        bench = self.bench(auth="required", backend={"authenticator": gate(a=b"b")})
        said = bench.say(*GREETING, "XCLIENT ADDR=IPV6:2001:db8::7 PORT=99 LOGIN=al+2Bice HELO=h")
        self.assertEqual(said[-1], "220 mx.example.net ESMTP deferrals")
        self.assertEqual(bench.say("EHLO client")[0], "250-mx.example.net")
        bench.say("MAIL FROM:<a@example.com>")
        client = bench.session.state.transaction.envelope.client
        self.assertEqual(
            (client.address, client.port, client.user, client.protocol, client.helo),
            ("2001:db8::7", 99, "al+ice", "ESMTPA", "client"),
        )

    def test_again(self) -> None:
        """It may be said again at once: a front end may need more than one line."""
        bench = self.bench()
        bench.say("XCLIENT ADDR=198.51.100.7 LOGIN=alice")
        bench.say("XCLIENT ADDR=198.51.100.8 LOGIN=[UNAVAILABLE]")
        self.assertEqual(bench.session.state.client.address, "198.51.100.8")
        self.assertIsNone(bench.session.state.user)

    def test_notByTheClient(self) -> None:
        """The greeting behind it is the client's own, and so is what follows: a front end that
        only passes on what the client says must not make XCLIENT the client's."""
        bench = self.bench()
        bench.say(*GREETING)
        self.assertEqual(bench.say("XCLIENT ADDR=198.51.100.7")[-1][:3], "220")
        said = bench.say(*GREETING)
        self.assertFalse([line for line in said if "XCLIENT" in line])
        self.assertEqual(bench.say("XCLIENT ADDR=127.0.0.1 LOGIN=alice")[-1][:9], "503 5.5.1")
        self.assertEqual(bench.session.state.client.address, "198.51.100.7")

    def test_unknown(self) -> None:
        """A client whose address the front end does not know has not the front end's."""
        bench = self.bench()
        bench.say("XCLIENT ADDR=[UNAVAILABLE]")
        self.assertEqual(bench.session.state.client.address, "unknown")
        self.assertNotIn("unknown", Networks.parse(["0.0.0.0/0", "::/0", "unix"]))
        bench.lose()
        self.assertEqual(
            bench.backend.connectionLimits._shared._entered.keys() - {("connections", "")}, set()
        )

    def test_name(self) -> None:
        """The client's name in DNS, if it is one; it is not the next client's."""
        bench = self.bench()
        for said, wanted in (
            ("NAME=Mail.Client.Example.", "mail.client.example"),
            ("NAME=[UNAVAILABLE]", ""),
            ("NAME=no+0Aname", ""),
            ("PORT=99", ""),
        ):
            bench.say(f"XCLIENT ADDR=198.51.100.7 {said}")
            self.assertEqual(bench.session.state.client.hostname, wanted, said)

    def test_counted(self) -> None:
        """The new client counts, and the front end does not."""
        limits = connectionLimits(connections_per_address=1)
        benches = [self.bench(backend={"connectionLimits": limits}) for _ in range(2)]
        replies = [bench.say("XCLIENT ADDR=198.51.100.7")[-1][:3] for bench in benches]
        self.assertEqual(replies, ["220", "421"])
        for bench in benches:
            bench.lose()
        self.assertEqual((limits.total, limits._shared._entered), (0, {}))
