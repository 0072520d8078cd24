"""
Networks and addresses.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.networks import Networks, largerNetwork, neighbourhood, normalAddress


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
        self.assertEqual(largerNetwork("2001:db8:1:2::3"), "2001:db8:1::/48")
        self.assertEqual(largerNetwork("192.0.2.7"), "192.0.2.0/24")
        self.assertEqual(largerNetwork("local"), "local")
