"""
Files of aliases on the disk.
"""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from deferrals import operatorfiles
from deferrals.stages.envelope.aliasbook import load


class LoadTests(SynchronousTestCase):
    """
    L{load}.
    """

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir(parents=True)

    def write(self, name: str, text: str) -> str:
        path = self.directory / name
        path.write_text(text.replace("DIR", str(self.directory)))
        return str(path)

    def test_included(self) -> None:
        """Files that are included, which may include others; each member once."""
        path = self.write("a", "all: :include:DIR/one, x\nboth: :include:DIR/one\nx: y\n")
        self.write("one", "anna\n:include:DIR/two\n")
        self.write("two", "# us\nbert, anna\n:include:DIR/one\n")
        members = load(path, "aliases").book.members
        self.assertEqual(
            members, {"all": ("anna", "bert", "x"), "both": ("anna", "bert"), "x": ("y",)}
        )

    def test_faults(self) -> None:
        """A file that is not there, or has what is no member, is a fault of who includes it."""
        path = self.write("a", "a: :include:DIR/none\nb: :include:DIR/bad, x\nc: d\n")
        self.write("bad", "|prog\n")
        book = load(path, "aliases").book
        self.assertEqual((book.members, sorted(book.faults)), ({"c": ("d",)}, ["a", "b"]))
        self.assertIn("bad: a program is no member", book.faults["b"])
        self.assertEqual(len(book.problems), 2)

    def test_nesting(self) -> None:
        """Files do not include each other without end."""
        for number in range(12):
            self.write(str(number), f":include:DIR/{number + 1}\n")
        self.write("12", "anna\n")
        book = load(self.write("a", "x: :include:DIR/0\ny: :include:DIR/5\n"), "aliases").book
        self.assertEqual((sorted(book.faults), book.members), (["x"], {"y": ("anna",)}))

    def test_current(self) -> None:
        """It has changed when one of its files has, or has gone."""
        path = self.write("a", "x: :include:DIR/one\n")
        one = self.write("one", "anna\n")
        loaded = load(path, "aliases")
        self.assertTrue(loaded.isCurrent())
        self.write("one", "anna\nbert\n")
        self.assertFalse(loaded.isCurrent())
        loaded = load(path, "aliases")
        os.unlink(one)
        self.assertFalse(loaded.isCurrent())
        self.assertTrue(load(path, "aliases").isCurrent())

    def test_noFile(self) -> None:
        """A directory, a pipe, what is too large or no text: at once, and no thread waits."""
        os.mkfifo(self.directory / "pipe")
        for name in (".", "pipe"):
            self.assertRaises((OSError, ValueError), load, str(self.directory / name), "aliases")
        (self.directory / "octets").write_bytes(b"a: \xff\n")
        self.assertRaises(ValueError, load, str(self.directory / "octets"), "aliases")
        self.patch(operatorfiles, "MAX_OCTETS", 3)
        self.assertRaises(ValueError, load, self.write("a", "a: b\n"), "aliases")
