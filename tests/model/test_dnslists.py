"""
DNS lists: names that are asked for, and answers.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.dnslists import (
    MAX_TEXT,
    DNSList,
    NoAnswer,
    checkAnswer,
    clientName,
    isOutside,
    listedNames,
    shownText,
)
from deferrals.model.settings import BadSetting


class ListTests(SynchronousTestCase):
    """
    L{DNSList}.
    """

    def test_means(self) -> None:
        """Addresses, and ranges at their ends; one of several is enough."""
        meant = DNSList("a.example", answers=("127.0.0.2-11", "127.0.1.255", "127.0.2.7-7"))
        for answers, wanted in (
            (["127.0.0.2"], True),
            (["127.0.0.11"], True),
            (["127.0.0.12"], False),
            (["127.0.0.1"], False),
            (["127.0.1.255"], True),
            (["127.0.2.7"], True),
            (["127.0.2.8"], False),
            (["127.0.0.1", "127.0.0.9"], True),
            ([], False),
        ):
            self.assertEqual(meant.means(answers), wanted, answers)

    def test_wrong(self) -> None:
        """What no list can have."""
        wrong: list[tuple[str, dict[str, Any]]] = [
            ("zone", {"zone": ""}),
            ("zone", {"zone": "example"}),
            ("zone", {"zone": "[192.0.2.1]"}),
            ("zone", {"zone": "a b.example"}),
            ("answers", {"answers": ()}),
            ("answers", {"answers": ("10.0.0.1",)}),
            ("answers", {"answers": ("127.0.0.256",)}),
            ("answers", {"answers": ("127.0.0.9-2",)}),
            ("answers", {"answers": ("127.0.0.2-300",)}),
            ("answers", {"answers": ("127.0.0",)}),
            ("answers", {"answers": ("127.0.0.٣",)}),
            ("weight", {"weight": 0.0}),
            ("weight", {"weight": float("nan")}),
            ("weight", {"weight": float("inf")}),
            ("name", {"name": ""}),
            ("name", {"name": "a\nb"}),
        ]
        for key, settings in wrong:
            error = self.assertRaises(BadSetting, DNSList, **{"zone": "a.example", **settings})
            self.assertEqual(error.key, key, settings)

    def test_shown(self) -> None:
        """A zone with a customer's key in it need not be seen; spellings are one."""
        self.assertEqual(DNSList("Zen.Example.").shown, "zen.example")
        self.assertEqual(DNSList("key.zen.example", name="zen").shown, "zen")
        self.assertEqual(DNSList("bücher.example").domain, "xn--bcher-kva.example")

    def test_checkAnswer(self) -> None:
        """A parked zone's address, and a list's word about the resolver, are no listings."""
        checkAnswer(["127.0.0.2", "127.0.0.10"])
        checkAnswer([])
        for wrong in ("192.0.2.1", "127.255.255.254", "128.0.0.1", "0.0.0.0"):
            self.assertRaises(NoAnswer, checkAnswer, ["127.0.0.2", wrong])


class NameTests(SynchronousTestCase):
    """
    What lists are asked about.
    """

    def test_clientName(self) -> None:
        """Octets backwards, and nibbles (RFC 5782 §2.1, §2.4)."""
        self.assertEqual(clientName("192.0.2.99"), "99.2.0.192")
        nibbles = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2"
        self.assertEqual(clientName("2001:db8::1"), nibbles)

    @given(st.ip_addresses())
    def test_everyAddress(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
        """Backwards, it is the address."""
        parts = clientName(str(address)).split(".")[::-1]
        if address.version == 4:
            self.assertEqual(".".join(parts), str(address))
        else:
            self.assertEqual(ipaddress.IPv6Address(int("".join(parts), 16)), address)

    def test_isOutside(self) -> None:
        """Lists know of no private network, and of nothing that is no address."""
        for inside in (
            *("127.0.0.1", "10.1.2.3", "172.31.0.1", "192.168.1.1", "169.254.1.1", "100.64.0.1"),
            *("::1", "fe80::1", "fd00::1", "0.0.0.0", "local", "unknown", ""),
        ):
            self.assertFalse(isOutside(inside), inside)
        for outside in ("192.0.2.1", "8.8.8.8", "172.32.0.1", "2001:db8::1"):
            self.assertTrue(isOutside(outside), outside)

    def test_listedNames(self) -> None:
        """Names with a dot, in A-labels, each once."""
        names = [
            *("Mail.Example.COM.", "mail.example.com", "bücher.example", "localhost", ""),
            *("[192.0.2.1]", "[IPv6:2001:db8::1]", "192.0.2.1", "a b.example", "x" * 300),
            *("a..example", "x" * 64 + ".example"),
        ]
        found = listedNames(names)
        self.assertEqual(found, ["mail.example.com", "xn--bcher-kva.example"])

    @given(st.text())
    def test_anyName(self, name: str) -> None:
        """Whatever a client says, it is a name that DNS can be asked for, or none."""
        for found in listedNames([name]):
            self.assertTrue(found.isascii() and "." in found and len(found) < 256)

    def test_shownText(self) -> None:
        """One line that can be shown, and not more than enough of it."""
        for octets, wanted in (
            (b"see https://list.example/?ip=192.0.2.1 ", "see https://list.example/?ip=192.0.2.1"),
            (b"a\r\n250 ok\x00\x1b[2J", "a  250 ok\\x{00}\\x{1B}[2J"),
            (b"\xff\xfe", "\ufffd\ufffd"),
            ("später".encode(), "später"),
            (b"", ""),
        ):
            self.assertEqual(shownText(octets), wanted)
        self.assertEqual(len(shownText(b"x" * 60_000)), MAX_TEXT)
        self.assertLessEqual(len(shownText(b"\x00" * 60_000)), MAX_TEXT)
