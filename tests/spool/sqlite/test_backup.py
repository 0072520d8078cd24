"""
A copy of a spool, made while it is used.
"""

from __future__ import annotations

import os
import shutil

from deferrals.errors import SpoolError
from deferrals.spool.message import MEMORY_OCTETS
from deferrals.spool.sqlite import backup
from deferrals.spool.sqlite.backup import backUp
from deferrals.spool.sqlite.files import SpoolFiles
from tests.spool.sqlite.test_belonging import SpoolCase


class BackupTests(SpoolCase):
    """
    L{backUp}.
    """

    def setUp(self) -> None:
        super().setUp()
        self.files = self.spool.store.files
        self.copy = SpoolFiles(os.path.abspath(self.mktemp()))

    def test_restored(self) -> None:
        """It can take the place of the spool, and has all that was in it."""
        works = [self.staged(size=size) for size in (10, MEMORY_OCTETS, 10, MEMORY_OCTETS)]
        self.assertEqual(backUp(self.files, self.copy.directory), 4)
        numbers = {work.envelope.transaction for work in works}
        self.assertEqual(
            set(self.copy.bodyNumbers()), {w.envelope.transaction for w in works[1::2]}
        )
        self.assertEqual(self.ids(self.copy), numbers)
        self.assertEqual((self.alarms(), self.copy.namesAside()), ([], []))

    def test_goesOn(self) -> None:
        """What leaves the spool afterwards stays in the copy, also on another disk."""
        for link in (os.link, self.fail):
            self.patch(os, "link", link if link is os.link else self.otherDisk)
            work = self.staged(size=MEMORY_OCTETS)
            copy = SpoolFiles(os.path.abspath(self.mktemp()))
            backUp(self.files, copy.directory)
            self.spool.abandon(work)
            self.reactor.wait(self.spool.waiting())
            with open(copy.body(work.envelope.transaction), "rb") as file:
                self.assertEqual(len(file.read()), MEMORY_OCTETS + 2)
            self.assertFalse(self.files.hasBody(work.envelope.transaction))

    def otherDisk(self, *args: str) -> None:
        raise OSError(18, "another disk")

    def test_meanwhile(self) -> None:
        """What comes and goes while it is made is in it as a whole, or not at all."""
        gone = self.staged(size=MEMORY_OCTETS)
        came = []
        contents = backup._contents

        def slowly(files: SpoolFiles, copy: SpoolFiles, withUnnamed: bool = False) -> None:
            contents(files, copy, withUnnamed)
            if came:
                return
            came.extend(self.staged(size=MEMORY_OCTETS) for _ in range(2))
            self.spool.abandon(gone)
            self.reactor.wait(self.spool.waiting())

        self.patch(backup, "_contents", slowly)
        self.assertEqual(backUp(self.files, self.copy.directory), 2)
        numbers = {work.envelope.transaction for work in came}
        self.assertEqual(set(self.copy.bodyNumbers()), numbers)
        self.assertEqual(self.ids(self.copy), numbers)
        self.assertEqual((self.alarms(), self.copy.namesAside()), ([], []))

    def test_left(self) -> None:
        """A message whose content went between the two is not in it."""
        work = self.staged(size=MEMORY_OCTETS)
        contents = backup._contents

        def none(files: SpoolFiles, copy: SpoolFiles, withUnnamed: bool = False) -> None:
            if not os.path.exists(copy.database):
                os.unlink(files.body(work.envelope.transaction))
            contents(files, copy, withUnnamed)

        self.patch(backup, "_contents", none)
        self.assertEqual(backUp(self.files, self.copy.directory), 0)

    def test_added(self) -> None:
        """It can be added to a spool that has gone on: what is whole is taken back."""
        works = [self.staged(), self.staged(size=MEMORY_OCTETS)]
        backUp(self.files, self.copy.directory)
        for work in works:
            self.spool.abandon(work)
        self.reactor.wait(self.spool.waiting())
        os.makedirs(self.files.damaged)
        shutil.copytree(self.copy.directory, os.path.join(self.files.damaged, "monday"))
        done = self.reactor.wait(self.queue().rescue("restore", "monday"))
        self.assertEqual(done["restored"], [work.envelope.id for work in works])

    def test_there(self) -> None:
        """A directory that is there is left alone; so is a spool that is not."""
        os.mkdir(self.copy.directory)
        with self.assertRaisesRegex(SpoolError, "cannot back up"):
            backUp(self.files, self.copy.directory)
        self.assertEqual(os.listdir(self.copy.directory), [])
        with self.assertRaises(SpoolError):
            backUp(SpoolFiles(os.path.abspath(self.mktemp())), os.path.abspath(self.mktemp()))
