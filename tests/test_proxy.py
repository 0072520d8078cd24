"""
Who the client is: PROXY headers, XCLIENT, networks, and how many may come.
"""

from __future__ import annotations

import socket
import struct
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.networks import Networks, neighbourhood, normalAddress
from deferrals.model.proxyprotocol import ProxyError, Source, takeHeader
from deferrals.smtp.server.connectionlimits import ConnectionLimits
from tests.harness import GREETING, Bench, Transport, gate

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V1 = b"PROXY TCP4 198.51.100.7 192.0.2.1 1025 25\r\n"


def v2(command: int, family: int, payload: bytes) -> bytes:
    return SIGNATURE + struct.pack("!BBH", 0x20 | command, family, len(payload)) + payload


def v2inet(address: str, port: int, more: bytes = b"") -> bytes:
    if ":" in address:
        both = socket.inet_pton(socket.AF_INET6, address) * 2
        return v2(1, 0x21, both + struct.pack("!HH", port, 25) + more)
    both = socket.inet_pton(socket.AF_INET, address) * 2
    return v2(1, 0x11, both + struct.pack("!HH", port, 25) + more)


GOOD = [
    (V1, Source("198.51.100.7", 1025)),
    (b"PROXY TCP6 2001:DB8::7 ::1 65535 25\r\n", Source("2001:db8::7", 65535)),
    (b"PROXY TCP6 ::ffff:198.51.100.7 ::1 1 25\r\n", Source("198.51.100.7", 1)),
    (b"PROXY UNKNOWN\r\n", Source()),
    (b"PROXY UNKNOWN ffff:f::1 ffff:f::2 65535 65535\r\n", Source()),
    (v2inet("198.51.100.7", 1025), Source("198.51.100.7", 1025)),
    (v2inet("2001:db8::7", 1, b"\x04\x00\x03abc"), Source("2001:db8::7", 1)),
    (v2(0, 0, b""), Source()),
    (v2(0, 0x11, b"garbage"), Source()),
    (v2(1, 0, b"abc"), Source()),
    (v2(1, 0x31, b"\0" * 216), Source("local")),
]
BAD = [
    b"EHLO client\r\n",
    b"PROXY TCP4 198.51.100.7 192.0.2.1 1025\r\n",
    b"PROXY TCP4 2001:db8::7 192.0.2.1 1025 25\r\n",
    b"PROXY TCP4 198.51.100.7 nonsense 1025 25\r\n",
    b"PROXY TCP4 198.51.100.7 192.0.2.1 65536 25\r\n",
    b"PROXY TCP9 198.51.100.7 192.0.2.1 1 25\r\n",
    b"PROXY UNKNOWN " + b"x" * 200,
    b"PROXY\tTCP4\r\n",
    SIGNATURE + b"\x11\x11\0\0",
    SIGNATURE + b"\x22\x11\0\0",
    SIGNATURE + b"\x21\x11\xff\xff",
    v2(1, 0x11, b"short"),
    v2(1, 0x21, b"\0" * 12),
]


class HeaderTests(SynchronousTestCase):
    """
    L{takeHeader}.
    """

    def test_good(self) -> None:
        """Versions 1 and 2, for others and for the proxy itself; what follows is not touched."""
        for header, source in GOOD:
            self.assertEqual(takeHeader(header + b"EHLO x\r\n"), (source, len(header)))

    def test_inPieces(self) -> None:
        """No beginning of a header is one, and none is refused."""
        for header, _ in GOOD:
            for end in range(len(header)):
                self.assertIsNone(takeHeader(header[:end]), header[:end])

    def test_bad(self) -> None:
        """Everything else is refused, as soon as that can be known."""
        for data in BAD:
            with self.assertRaises(ProxyError, msg=repr(data)):
                takeHeader(data)

    @given(st.binary(max_size=60), st.sampled_from([b"", b"PROXY ", SIGNATURE, V1[:20]]))
    def test_any(self, data: bytes, front: bytes) -> None:
        """Any octets are a header, the beginning of one, or L{ProxyError}."""
        try:
            found = takeHeader(front + data)
        except ProxyError:
            return
        self.assertTrue(found is None or found[1] <= len(front + data))


class ProxiedTests(SynchronousTestCase):
    """
    A listener behind a proxy.
    """

    def bench(self, host: str = "192.0.2.1", **more: Any) -> Bench:
        proxies = Networks.parse(["192.0.2.0/24"])
        return Bench(transport=Transport(host), proxied=True, proxies=proxies, **more)

    def test_silent(self) -> None:
        """No greeting before the header."""
        bench = self.bench()
        self.assertEqual(bench.take(), b"")
        bench.send(V1)
        self.assertEqual(bench.take(), b"220 mx.example.net ESMTP deferrals\r\n")
        bench.say(*GREETING, "MAIL FROM:<a@example.com>")
        client = bench.session._transaction.envelope.client
        self.assertEqual((client.address, client.port), ("198.51.100.7", 1025))

    def test_byteByByte(self) -> None:
        """In whatever pieces it comes, with the first command right behind it."""
        for header, source in GOOD:
            bench = self.bench()
            for octet in header + b"NOOP\r\n":
                bench.send(bytes([octet]))
            self.assertEqual([line[:3] for line in bench.take().splitlines()], [b"220", b"250"])
            self.assertEqual(bench.session._address, source.address or "192.0.2.1")

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
        bench = self.bench(greetSeconds=3.0)
        bench.clock.advance(30)
        bench.send(V1 + b"EHLO x\r\n")
        self.assertTrue(bench.take().startswith(b"554 5.5.1"))

    def test_counted(self) -> None:
        """Connections are counted as the client's, not as the proxy's."""
        guard = ConnectionLimits(perNeighbourhood=1)
        benches = [self.bench(backend={"connectionLimits": guard}) for _ in range(3)]
        other = V1.replace(b".7 ", b".8 ")
        for bench, header in zip(benches, (V1, other, V1), strict=True):
            bench.send(header)
        self.assertEqual([bench.take()[:3] for bench in benches], [b"220", b"220", b"421"])
        for bench in benches:
            bench.lose()
        self.assertEqual((guard.total, guard._open), (0, {}))


class XClientTests(SynchronousTestCase):
    """
    XCLIENT, beside its dialogues.
    """

    def bench(self, **more: Any) -> Bench:
        return Bench(xclient=Networks.parse(["192.0.2.1"]), **more)

    def test_known(self) -> None:
        """Address, port and login are the new client's; everything else is forgotten."""
        bench = self.bench(auth="required", backend={"authenticator": gate(a=b"b")})
        said = bench.say(*GREETING, "XCLIENT ADDR=IPV6:2001:db8::7 PORT=99 LOGIN=al+2Bice HELO=h")
        self.assertEqual(said[-1], "220 mx.example.net ESMTP deferrals")
        self.assertEqual(bench.say("EHLO client")[0], "250-mx.example.net")
        bench.say("MAIL FROM:<a@example.com>")
        client = bench.session._transaction.envelope.client
        self.assertEqual(
            (client.address, client.port, client.user, client.protocol, client.helo),
            ("2001:db8::7", 99, "al+ice", "ESMTPA", "client"),
        )

    def test_again(self) -> None:
        """It may be said again at once: a front end may need more than one line."""
        bench = self.bench()
        bench.say("XCLIENT ADDR=198.51.100.7 LOGIN=alice")
        bench.say("XCLIENT ADDR=198.51.100.8 LOGIN=[UNAVAILABLE]")
        self.assertEqual(bench.session._client.address, "198.51.100.8")
        self.assertIsNone(bench.session._user)

    def test_notByTheClient(self) -> None:
        """The greeting behind it is the client's own, and so is what follows: a front end that
        only passes on what the client says must not make XCLIENT the client's."""
        bench = self.bench()
        bench.say(*GREETING)
        self.assertEqual(bench.say("XCLIENT ADDR=198.51.100.7")[-1][:3], "220")
        said = bench.say(*GREETING)
        self.assertFalse([line for line in said if "XCLIENT" in line])
        self.assertEqual(bench.say("XCLIENT ADDR=127.0.0.1 LOGIN=alice")[-1][:9], "503 5.5.1")
        self.assertEqual(bench.session._client.address, "198.51.100.7")

    def test_unknown(self) -> None:
        """A client whose address the front end does not know has not the front end's."""
        bench = self.bench()
        bench.say("XCLIENT ADDR=[UNAVAILABLE]")
        self.assertEqual(bench.session._client.address, "unknown")
        self.assertNotIn("unknown", Networks.parse(["0.0.0.0/0", "::/0", "unix"]))
        bench.lose()
        self.assertEqual(bench.backend.connectionLimits._open, {})

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
            self.assertEqual(bench.session._client.hostname, wanted, said)

    def test_counted(self) -> None:
        """The new client counts, and the front end does not."""
        guard = ConnectionLimits(perNeighbourhood=1)
        benches = [self.bench(backend={"connectionLimits": guard}) for _ in range(2)]
        replies = [bench.say("XCLIENT ADDR=198.51.100.7")[-1][:3] for bench in benches]
        self.assertEqual(replies, ["220", "421"])
        for bench in benches:
            bench.lose()
        self.assertEqual((guard.total, guard._open), (0, {}))


class GuardTests(SynchronousTestCase):
    """
    How many may come.
    """

    def benches(self, guard: ConnectionLimits, *hosts: str) -> list[Bench]:
        return [
            Bench(backend={"connectionLimits": guard}, transport=Transport(host)) for host in hosts
        ]

    def test_total(self) -> None:
        """One too many gets 421 4.3.2; when one has gone there is room."""
        guard = ConnectionLimits(connections=2)
        benches = self.benches(guard, "192.0.2.1", "192.0.2.2", "192.0.2.3")
        self.assertEqual(
            [bench.take()[:9] for bench in benches], [b"220 mx.ex", b"220 mx.ex", b"421 4.3.2"]
        )
        self.assertTrue(benches[2].closed)
        for bench in benches[1:]:
            bench.lose()
        (bench,) = self.benches(guard, "192.0.2.3")
        self.assertEqual(bench.take()[:3], b"220")

    def test_perAddress(self) -> None:
        """IPv4 addresses count by themselves, IPv6 addresses with their /64."""
        guard = ConnectionLimits(perNeighbourhood=1)
        hosts = (
            *("192.0.2.1", "192.0.2.2", "192.0.2.1"),
            *("2001:db8::1", "2001:db8:0:0:ffff::2", "2001:db8:0:1::1"),
            *("::ffff:192.0.2.2", "::ffff:192.0.2.3"),
        )
        said = [bench.take()[:3] for bench in self.benches(guard, *hosts)]
        wanted = [b"220", b"220", b"421", b"220", b"421", b"220", b"421", b"220"]
        self.assertEqual(said, wanted)
        self.assertEqual(guard.total, len(hosts))

    def test_turnedAway(self) -> None:
        """Who was turned away is not listened to."""
        (bench,) = self.benches(ConnectionLimits(connections=0), "192.0.2.1")
        bench.take()
        bench.send(b"EHLO x\r\nMAIL FROM:<a@example.com>\r\n")
        self.assertEqual(bench.take(), b"")
        self.assertEqual(bench.status.counted("connections", "turned away"), 1)


class NetworkTests(SynchronousTestCase):
    """
    L{Networks} and addresses.
    """

    def test_in(self) -> None:
        """Addresses, networks, and the word for Unix sockets."""
        networks = Networks.parse(["192.0.2.1", "10.0.0.0/8", "2001:db8::/32", "unix"])
        for address in ("192.0.2.1", "10.255.0.1", "2001:db8:1::", "local"):
            self.assertIn(address, networks)
        for address in ("192.0.2.2", "11.0.0.1", "2001:db9::", "nonsense", ""):
            self.assertNotIn(address, networks)
        self.assertNotIn("local", Networks.parse(["0.0.0.0/0"]))
        self.assertFalse(Networks())

    def test_wrong(self) -> None:
        """What is no network is told."""
        for word in ("example.net", "192.0.2.1/33", "192.0.2.1/24", ""):
            with self.assertRaisesRegex(ValueError, "networks such as 192.0.2.0/24"):
                Networks.parse([word])

    def test_spellings(self) -> None:
        """One spelling for one address."""
        for text, wanted in (
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:DB8:0::1", "2001:db8::1"),
            ("fe80::1%eth0", "fe80::1"),
        ):
            self.assertEqual(normalAddress(text), wanted)
        self.assertEqual(neighbourhood("2001:db8::1:2"), "2001:db8::/64")
        self.assertEqual(neighbourhood("local"), "local")
