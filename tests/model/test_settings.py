"""
Time spans and sizes as text.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.settings import parseOctets, parseSeconds


class UnitTests(SynchronousTestCase):
    """
    Numbers with a unit.
    """

    def test_seconds(self) -> None:
        """Time spans."""
        for text, seconds in (
            (5, 5),
            (0.5, 0.5),
            ("5m", 300),
            ("1h 30m", 5400),
            ("5d", 432000),
            ("1.5s", 1.5),
        ):
            self.assertEqual(parseSeconds(text), seconds)
        for bad in ("", "5", "m", -1, True, None, "5 m", [5]):
            self.assertRaises(ValueError, parseSeconds, bad)

    def test_octets(self) -> None:
        """Sizes."""
        for text, octets in ((5, 5), ("5", 5), ("5K", 5120), ("1M", 1 << 20), ("2G", 2 << 30)):
            self.assertEqual(parseOctets(text), octets)
        for bad in ("", "K", -1, True, None, "5k", 1.5):
            self.assertRaises(ValueError, parseOctets, bad)
