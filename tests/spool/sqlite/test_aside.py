"""
What does not fit, in a directory of its own.
"""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from deferrals import durable
from deferrals.spool.sqlite import aside
from deferrals.spool.sqlite.files import SpoolFiles


class AsideTests(SynchronousTestCase):
    """
    Moving and copying.
    """

    def setUp(self) -> None:
        self.files = SpoolFiles(os.path.abspath(self.mktemp()))
        self.files.make()
        for path in (self.files.database, self.files.log, self.files.mark):
            with open(path, "w") as file:
                file.write(os.path.basename(path))

    def found(self, path: str) -> dict[str, str]:
        names = {}
        for name in os.listdir(path):
            with open(os.path.join(path, name)) as file:
                names[name] = file.read()
        return names

    def test_database(self) -> None:
        """A database goes with all that belongs to it, and the reason."""
        path = aside.moveDatabase(self.files, "spool", "it is old")
        own = {name: name for name in ("spool.sqlite", "spool.sqlite-wal", "mark")}
        self.assertEqual(self.found(path), {**own, "why": "it is old\n"})
        self.assertEqual(sorted(os.listdir(self.files.directory)), ["bodies", "damaged"])

    def test_durably(self) -> None:
        """It is durable where it is now, and then where it was."""
        synced: list[str] = []
        self.patch(durable, "sync", synced.append)
        path = aside.moveDatabase(self.files, "spool", "it is old")
        self.assertEqual(synced[-2:], [path, self.files.directory])

    def test_log(self) -> None:
        """A log goes alone, or is copied."""
        copy = aside.copyLog(self.files, "damaged")
        self.assertEqual(self.found(copy)["spool.sqlite-wal"], "spool.sqlite-wal")
        self.assertTrue(os.path.exists(self.files.log))
        path = aside.moveDatabase(self.files, "log", "foreign", log=True)
        self.assertEqual(set(self.found(path)), {"spool.sqlite-wal", "why"})
        self.assertTrue(os.path.exists(self.files.database))

    def test_names(self) -> None:
        """No name is used twice."""
        self.patch(aside.time, "strftime", lambda text: "log-then")
        paths = {aside.copyLog(self.files, "x") for _ in range(3)}
        self.assertEqual(len(paths), 3)

    def test_full(self) -> None:
        """A reason that cannot be written keeps nothing from being set aside."""

        def full(*args: object) -> None:
            raise OSError(28, "no space left on device")

        self.patch(durable, "write", full)
        path = aside.moveDatabase(self.files, "spool", "it is old")
        self.assertIn("spool.sqlite", os.listdir(path))
