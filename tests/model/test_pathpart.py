"""
Addresses in paths.
"""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.pathpart import pathPart


class PathPartTests(SynchronousTestCase):
    """
    L{pathPart}.
    """

    def test_parts(self) -> None:
        """What could lead elsewhere is written out."""
        for text, wanted in (
            ("User", "user"),
            ("a/b", "a%2Fb"),
            ("..", "%2E."),
            (".", "%2E"),
            ("", "%"),
            ("a\0b", "a%00b"),
            ("a+b=c", "a+b=c"),
        ):
            self.assertEqual(pathPart(text), wanted)

    @given(st.text(alphabet=st.characters(codec="utf-8")))
    def test_one(self, text: str) -> None:
        """It is one component, and no way up."""
        part = pathPart(text)
        self.assertTrue(part.isascii() and part.isprintable())
        self.assertEqual(os.path.normpath(os.path.join("/a", part)), f"/a/{part}")
