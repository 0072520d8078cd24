"""
The names of clients, with a name server on loopback.
"""

from __future__ import annotations

from typing import Any

from tests.integration.support import CONFIG, IntegrationCase
from tests.zone import Zone

RECORDS: dict[tuple[str, str], list[Any]] = {
    ("7.100.51.198.in-addr.arpa", "PTR"): ["there.example"],
    ("there.example", "A"): ["198.51.100.7"],
    ("8.100.51.198.in-addr.arpa", "PTR"): ["there.example"],
    ("1.0.0.0." + "0." * 20 + "8.b.d.0.1.0.0.2.ip6.arpa", "PTR"): ["six.example"],
    ("six.example", "AAAA"): ["2001:db8::1"],
}
_LISTENERS = """
[[listen]]
endpoint = "haproxy:tcp:0:interface=127.0.0.1"

[[listen]]
endpoint = "tcp:0:interface=127.0.0.1:backlog=10"
xclient = ["127.0.0.1"]
"""
_LISTENER = '\n[[listen]]\nendpoint = "tcp:0:interface=127.0.0.1"\n'


class ReverseTests(IntegrationCase):
    """
    What C{Received} says of a client.
    """

    def names(self, asks: bool, *clients: tuple[int, str]) -> list[str]:
        """
        @param clients: the listener, and the first line.
        @return: what each copy has in front of the address.
        """
        zone = Zone(RECORDS)
        self.addCleanup(zone.close)
        host, port = zone.address
        keys = f'dns = ["{host}:{port}"]\nreverse_dns = {str(asks).lower()}\n'
        server = self.server(keys + CONFIG.replace(_LISTENER, _LISTENERS))
        found = []
        for count, (listener, first) in enumerate(clients, 1):
            client = self.dialogue(server.ports[listener])
            if listener:
                client.reply()
            client.say(first)
            client.say("EHLO c.example", "MAIL FROM:<a@example.com>")
            client.say("RCPT TO:<postmaster@example.net>", "DATA")
            client.say(f"Subject: {count}\r\n\r\nx\r\n.")
            (copy,) = [
                one
                for one in server.arrived("postmaster", count)
                if b"\r\nSubject: %d\r\n" % count in one
            ]
            found.append(copy.partition(b"(")[2].partition(b")")[0].decode())
        if not asks:
            self.assertEqual(zone.asked, [])
        return found

    def test_names(self) -> None:
        """Confirmed, not confirmed, unknown; of the client, not of the proxy."""
        found = self.names(
            True,
            (0, "PROXY TCP4 198.51.100.7 192.0.2.9 1025 25"),
            (0, "PROXY TCP4 198.51.100.8 192.0.2.9 1025 25"),
            (0, "PROXY TCP4 198.51.100.9 192.0.2.9 1025 25"),
            (0, "PROXY TCP6 2001:db8::1 2001:db8::9 1025 25"),
            (1, "XCLIENT ADDR=198.51.100.7"),
            (1, "XCLIENT ADDR=198.51.100.7 NAME=said.example"),
            (1, "XCLIENT ADDR=198.51.100.7 NAME=[UNAVAILABLE]"),
            (1, "NOOP"),
        )
        self.assertEqual(
            found,
            [
                "there.example [198.51.100.7]",
                "unknown [198.51.100.8]",
                "unknown [198.51.100.9]",
                "six.example [IPv6:2001:db8::1]",
                "there.example [198.51.100.7]",
                "said.example [198.51.100.7]",
                "unknown [198.51.100.7]",
                "[127.0.0.1]",
            ],
        )

    def test_off(self) -> None:
        """C{reverse_dns = false} asks no DNS."""
        found = self.names(False, (0, "PROXY TCP4 198.51.100.7 192.0.2.9 1025 25"))
        self.assertEqual(found, ["unknown [198.51.100.7]"])
