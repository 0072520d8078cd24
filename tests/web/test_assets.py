"""
What pages load beside themselves.
"""

from __future__ import annotations

import re

from twisted.trial.unittest import SynchronousTestCase

from deferrals.web.assets import ASSETS, Assets


class AssetsTests(SynchronousTestCase):
    """
    L{Assets}.
    """

    def test_names(self) -> None:
        """A name has the content's hash: it changes with that, and only then."""
        one, two = Assets({"a.css": b"x"}), Assets({"a.css": b"y"})
        self.assertRegex(one.path("a.css"), r"^/static/a-[0-9a-f]{16}\.css$")
        self.assertNotEqual(one.path("a.css"), two.path("a.css"))
        self.assertEqual(one.path("a.css"), Assets({"a.css": b"x"}).path("a.css"))

    def test_own(self) -> None:
        """Nothing of ours names another host, makes HTML of text, or runs text."""
        for name, (content, _) in ASSETS.files.items():
            text = content.decode().replace('xmlns="http://www.w3.org/2000/svg"', "")
            self.assertNotRegex(text, r"https?://|//[a-z]+\.", name)
            self.assertIsNone(
                re.search(r"innerHTML|insertAdjacent|\beval\(|Function\(", text), name
            )
