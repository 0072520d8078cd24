"""
The file that links are signed with.
"""

from __future__ import annotations

import os
import stat

from twisted.trial.unittest import SynchronousTestCase

from deferrals.server.linkkey import LinkKey


class LinkKeyTests(SynchronousTestCase):
    """
    L{LinkKey}.
    """

    def setUp(self) -> None:
        self.path = os.path.join(self.mktemp(), "link.key")

    def test_made(self) -> None:
        """It is made where it is missing, for one user, and all have the same."""
        key = LinkKey(self.path).get()
        self.assertEqual(len(key), 32)
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o600)
        self.assertEqual(LinkKey(self.path).get(), key)
        self.assertEqual(os.listdir(os.path.dirname(self.path)), ["link.key"])

    def test_race(self) -> None:
        """Another process that was faster has made the one that counts."""
        first, second = LinkKey(self.path), LinkKey(self.path)
        made = first.get()
        self.patch(second, "_read", iter([None, made]).__next__)
        self.assertEqual(second.get(), made)

    def test_wrong(self) -> None:
        """What is none is not used: a short one could be guessed."""
        os.makedirs(os.path.dirname(self.path))
        for text in ("", "00", "x" * 64):
            with open(self.path, "w", encoding="ascii") as file:
                file.write(text)
            self.assertRaises(ValueError, LinkKey(self.path).get)
