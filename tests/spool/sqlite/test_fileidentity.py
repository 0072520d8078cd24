"""
Files of an open database that are moved, deleted or put back.
"""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from deferrals.spool.sqlite.fileidentity import FileIdentity


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class FileIdentityTests(SynchronousTestCase):
    """
    L{FileIdentity}.
    """

    def setUp(self) -> None:
        self.path = self.mktemp()
        for name in (self.path, f"{self.path}-wal"):
            self.write(name)

    def write(self, name: str) -> None:
        with open(name, "w") as file:
            file.write("x")

    def identity(self) -> FileIdentity:
        found = FileIdentity(self.path)
        self.addCleanup(found.close)
        return found

    def test_there(self) -> None:
        """Nothing is wrong with files that are where they were."""
        identity = self.identity()
        self.assertEqual(identity.trouble(), "")
        self.assertFalse(identity.deleted)

    def test_moved(self) -> None:
        """A file that was moved away can be put back, and the text says whence."""
        identity = self.identity()
        for name in (self.path, f"{self.path}-wal"):
            os.rename(name, f"{name}.away")
            self.assertIn(f"{name} has been moved away while in use, to ", identity.trouble())
            self.assertIn(".away: put it back", identity.trouble())
            self.assertFalse(identity.deleted)
            os.rename(f"{name}.away", name)
            self.assertEqual(identity.trouble(), "")

    def test_deleted(self) -> None:
        """A file that was deleted is gone for good."""
        identity = self.identity()
        os.unlink(self.path)
        self.assertEqual(identity.trouble(), f"{self.path} has been deleted while in use")
        self.assertTrue(identity.deleted)

    def test_another(self) -> None:
        """A file of the same name is not the one that is open."""
        identity = self.identity()
        self.write(f"{self.path}.new")
        os.rename(f"{self.path}.new", self.path)
        self.assertIn("has been deleted while in use", identity.trouble())

    def test_close(self) -> None:
        """Closed, it keeps no descriptor; nor where one of the files is not there."""
        before = descriptors()
        FileIdentity(self.path).close()
        self.assertEqual(descriptors(), before)
        os.unlink(f"{self.path}-wal")
        with self.assertRaises(FileNotFoundError):
            FileIdentity(self.path)
        self.assertEqual(descriptors(), before)
