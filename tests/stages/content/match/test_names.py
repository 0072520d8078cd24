"""
What a file could be saved as.
"""

from __future__ import annotations

from hypothesis import given
from twisted.trial.unittest import SynchronousTestCase

from deferrals.stages.content.match.names import MAX_NAME, like, savedNames
from tests.characters import anyText


class SavedNamesTests(SynchronousTestCase):
    """
    L{savedNames} and L{like}.
    """

    def test_forms(self) -> None:
        """Each of these is a program, once it is saved."""
        for name in (
            "a.exe",
            "A.EXE",
            " a.exe ",
            "a.exe.",
            "a.exe. . .",
            "a.exe\xa0",
            "a.e\u200bxe",
            "a.exe\u200e",
            "a\u202eb.exe",
            "a.e\u2060xe\ufeff",
            "a.\uff45\uff58\uff45",
            "a\uff0eexe",
            "a.\U0001d41e\U0001d431\U0001d41e",
            "C:\\temp\\a.exe",
            "../a.exe",
            "a.exe:x",
            "a.exe::$DATA",
            "a.exe\0.txt",
            'a.exe"',
            "a.e\u3164xe",
            "a.exe\ufe0f",
            "\udcfc.exe",
        ):
            self.assertTrue(like([name], ["*.exe"]), ascii(name))
        for name in ("a.txt", "exe", "a.exe.txt", "a.exe x", ""):
            self.assertFalse(like([name], ["*.exe"]), ascii(name))

    def test_names(self) -> None:
        """The name itself is among them, in lower case; one that is plain is alone."""
        self.assertEqual(savedNames("Plain.txt"), ["plain.txt"])
        self.assertEqual(savedNames("D\\Plain.txt"), ["d\\plain.txt", "plain.txt", "d/plain.txt"])
        self.assertEqual(savedNames("\u200b"), ["\u200b"])
        self.assertEqual(savedNames(" "), [])

    def test_long(self) -> None:
        """Of a long name, the beginning and the end count."""
        self.assertTrue(like(["x" * 10 * MAX_NAME + ".exe"], ["x*.exe"]))
        self.assertLess(max(map(len, savedNames("x" * 10 * MAX_NAME))), 2 * MAX_NAME)

    def test_globs(self) -> None:
        """What is wanted may be written in either form of Unicode."""
        self.assertTrue(like(["\u00fc.exe"], ["u\u0308.exe"]))
        self.assertTrue(like(["u\u0308.exe"], ["\u00dc.exe"]))

    @given(anyText(max_size=50))
    def test_anything(self, name: str) -> None:
        """Any name has forms, and each name is like itself."""
        for form in savedNames(name):
            self.assertIn(form, savedNames(form))
