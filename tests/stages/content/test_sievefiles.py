"""
Scripts, read again when their files are others.
"""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from deferrals.stages.content.sievefiles import ScriptFiles, ScriptFound


class ScriptFilesTests(SynchronousTestCase):
    """
    L{ScriptFiles}.
    """

    def setUp(self) -> None:
        self.files = ScriptFiles(100)
        self.path = self.mktemp()

    def write(self, text: str) -> None:
        with open(self.path, "w", encoding="utf-8") as file:
            file.write(text)

    def read(self) -> ScriptFound:
        (found,) = self.files.read([self.path])
        return found

    def test_kept(self) -> None:
        """One that is the same is read once; another one anew."""
        self.assertIsNone(self.files.known(self.path))
        self.assertEqual(self.read(), ScriptFound())
        self.write("discard;")
        first = self.read()
        self.assertIs(self.read(), first)
        self.assertIs(self.files.known(self.path), first)
        os.utime(self.path, ns=(1, 1))
        self.assertIsNot(self.read(), first)
        self.assertEqual(self.read(), first)
        self.write("keep;")
        self.assertNotEqual(self.read().digest, first.digest)
        os.unlink(self.path)
        self.assertEqual(self.read(), ScriptFound())
        self.assertIsNone(self.files.known(self.path))

    def test_replaced(self) -> None:
        """So is one that has another's name, size and time."""
        self.write("discard;")
        first = self.read()
        with open(f"{self.path}.new", "w", encoding="utf-8") as file:
            file.write("keep;   ")
        status = os.stat(self.path)
        os.utime(f"{self.path}.new", ns=(status.st_atime_ns, status.st_mtime_ns))
        os.replace(f"{self.path}.new", self.path)
        self.assertNotEqual(self.read().digest, first.digest)

    def test_problems(self) -> None:
        """What is too large, no file, or no path, is said, and nothing waits for it."""
        self.write("x" * 101)
        self.assertEqual(self.read().problem, "it is larger than 100 octets")
        os.unlink(self.path)
        os.mkfifo(self.path)
        self.assertEqual(self.read().problem, "it is no file")
        for path, problem in (
            (f"{self.path}/x", ""),
            ("/dev/zero", "it is no file"),
            ("a\0b", "ValueError"),
            ("x" * 300, "OSError"),
        ):
            (found,) = self.files.read([path])
            self.assertTrue(found.problem.startswith(problem), (path, found.problem))

    def test_many(self) -> None:
        """Each is read once, and found in the places that asked for it."""
        self.write("discard;")
        found = self.files.read([self.path, "/no/where", self.path])
        self.assertIs(found[0], found[2])
        self.assertEqual(found[1], ScriptFound())
