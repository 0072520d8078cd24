"""
Networks and addresses.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.networks import (
    Networks,
    largerNetwork,
    limited,
    neighbourhood,
    normalAddress,
)


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

    def test_mapped(self) -> None:
        """A network of IPv4 in IPv6 is that of IPv4, and so are such addresses."""
        networks = Networks.parse(["::ffff:198.51.100.0/120", "::ffff:192.0.2.1"])
        self.assertEqual(networks, Networks.parse(["198.51.100.0/24", "192.0.2.1"]))
        for address in ("198.51.100.7", "::ffff:198.51.100.7", "::ffff:c000:201"):
            self.assertIn(address, networks)
        self.assertNotIn("198.51.101.7", networks)
        self.assertNotIn("::198.51.100.7", networks)

    def test_everybody(self) -> None:
        """Networks that keep no client out are everybody's, in whatever form."""
        for words in (
            ["0.0.0.0/0"],
            ["::/0"],
            ["2000::/3"],
            ["0.0.0.0/1", "128.0.0.0/1"],
            ["::/1", "8000::/1"],
            ["::ffff:0:0/96"],
            ["::ffff:0.0.0.0/97", "128.0.0.0/1"],
            ["10.0.0.0/8", *(f"{octet}.0.0.0/8" for octet in range(256) if octet != 127)],
            ["2000::/4", "3000::/4"],
            [f"{number:x}::/8" for number in range(0x2000, 0x4000, 0x100)],
            ["64.0.0.0/2"],
        ):
            self.assertTrue(Networks.parse(words).isEverybody, words)
            self.assertRaises(ValueError, limited, words)
        for words in (
            [],
            ["unix"],
            ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "100.64.0.0/10"],
            ["fc00::/7", "fe80::/10", "::1", "2001:db8::/32", "2a00::/12"],
            ["198.0.0.0/8"] * 40,
        ):
            self.assertFalse(Networks.parse(words).isEverybody, words)
            limited(words)

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
        self.assertEqual(largerNetwork("2001:db8:1:2::3"), "2001:db8:1::/48")
        self.assertEqual(largerNetwork("192.0.2.7"), "192.0.2.0/24")
        self.assertEqual(largerNetwork("local"), "local")
