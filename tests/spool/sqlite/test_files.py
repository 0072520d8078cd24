"""
The files of the embedded spool, and its lock.
"""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess

from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from deferrals import durable
from deferrals.errors import SpoolError
from deferrals.model.ids import parseId
from deferrals.spool.message import PART
from deferrals.spool.sqlite.files import Holder, SpoolFiles, SpoolLock

NUMBER = parseId("1M84B9SJQ005Q")


class FilesTests(SynchronousTestCase):
    """
    L{SpoolFiles}.
    """

    def setUp(self) -> None:
        self.files = SpoolFiles(os.path.abspath(os.path.join(self.mktemp(), "spool")))
        self.files.make()

    def put(self) -> None:
        with open(self.files.body(NUMBER), "wb") as file:
            file.write(b"x")

    def test_unseen(self) -> None:
        """A content that cannot be looked at is not missing."""
        os.symlink(self.files.body(NUMBER), self.files.body(NUMBER))  # ELOOP
        self.assertEqual(self.files.withoutBody([NUMBER, 7]), [7])
        self.assertRaises(OSError, open, self.files.found(NUMBER))

    def test_private(self) -> None:
        """Every directory is the server's own."""
        self.files.make()
        for path in (self.files.directory, self.files.bodies):
            self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o700)

    def test_mended(self) -> None:
        """A spool that others could look into is mended, with a line in the log."""
        said: list[LogEvent] = []
        globalLogPublisher.addObserver(said.append)
        self.addCleanup(globalLogPublisher.removeObserver, said.append)
        os.chmod(self.files.directory, 0o755)
        self.files.make()
        self.assertEqual(stat.S_IMODE(os.stat(self.files.directory).st_mode), 0o700)
        (event,) = (one for one in said if one["log_namespace"] == "deferrals.spool")
        self.assertIn("had mode 0755", formatEvent(event))

    def test_bodies(self) -> None:
        """Files are known by their messages' numbers; another file is none of ours."""
        self.assertEqual(self.files.bodyNumbers(), [])
        self.put()
        with open(os.path.join(self.files.bodies, "not an id"), "wb"):
            pass
        self.assertEqual(self.files.bodyNumbers(), [NUMBER])
        self.assertEqual(self.files.withoutBody([NUMBER, 7]), [7])

    def test_aside(self) -> None:
        """What is moved aside keeps its name, and goes only where all of it is to go."""
        self.assertFalse(self.files.setBodyAside(NUMBER))
        self.put()
        self.assertTrue(self.files.setBodyAside(NUMBER))
        self.assertEqual(self.files.namesAside(), ["1M84B9SJQ005Q"])
        self.files.removeBody(NUMBER)
        self.assertEqual(len(self.files.namesAside()), 1)
        self.files.removeAll(NUMBER)
        self.assertEqual(self.files.namesAside(), [])

    def test_asideTwice(self) -> None:
        """What is moved aside overwrites nothing."""
        for _ in range(3):
            self.put()
            self.assertTrue(self.files.setBodyAside(NUMBER))
        names = ["1M84B9SJQ005Q", "1M84B9SJQ005Q-1", "1M84B9SJQ005Q-2"]
        self.assertEqual(self.files.namesAside(), names)

    def test_asideDurably(self) -> None:
        """It is durable where it is now, and then where it was."""
        self.put()
        synced: list[str] = []
        self.patch(durable, "sync", synced.append)
        self.files.setBodyAside(NUMBER)
        self.assertEqual(synced, [self.files.damaged, self.files.bodies])

    def test_removed(self) -> None:
        """A content's file goes when it is to go, wherever it is."""
        self.put()
        self.files.removeBody(NUMBER)
        self.assertEqual(self.files.bodyNumbers(), [])
        self.put()
        self.files.removeAll(NUMBER)
        self.assertEqual(self.files.bodyNumbers(), [])

    def test_unfinished(self) -> None:
        """What never became whole is known by its other name, and is no content."""
        self.put()
        with open(f"{self.files.body(NUMBER + 1)}{PART}", "wb"):
            pass
        self.assertEqual(self.files.unfinished(), [NUMBER + 1])
        self.assertEqual(self.files.bodyNumbers(), [NUMBER])
        self.files.removeUnfinished(NUMBER)
        self.files.removeUnfinished(NUMBER + 1)
        self.assertEqual(self.files.unfinished(), [])
        self.assertEqual(self.files.bodyNumbers(), [NUMBER])

    def part(self, content: bytes = b"x") -> None:
        with open(self.files.part(NUMBER), "wb") as file:
            file.write(content)

    def test_finished(self) -> None:
        """A content gets its name once; what has that name is never replaced."""
        self.files.finish(NUMBER)
        self.assertFalse(self.files.hasBody(NUMBER))
        self.part(b"one")
        self.assertTrue(self.files.hasBody(NUMBER))
        self.files.finish(NUMBER)
        self.assertEqual(self.files.unfinished(), [])
        self.part(b"other")
        self.files.finish(NUMBER)
        with open(self.files.found(NUMBER), "rb") as file:
            self.assertEqual(file.read(), b"one")

    def test_removedUnfinished(self) -> None:
        """A content goes also by the name that it had before its row was durable."""
        for remove in (self.files.removeBody, self.files.removeAll):
            self.part()
            remove(NUMBER)
            self.assertEqual(self.files.unfinished(), [])


class LockTests(SynchronousTestCase):
    """
    L{SpoolLock}.
    """

    def setUp(self) -> None:
        self.files = SpoolFiles(os.path.abspath(self.mktemp()))
        self.files.make()

    def test_one(self) -> None:
        """One holds it at a time."""
        first, second = SpoolLock(self.files), SpoolLock(self.files)
        first.take()
        error = self.assertRaises(SpoolError, second.take, "a server")
        self.assertIn("in use by a server", str(error))
        first.release()
        second.take()
        self.assertTrue(second.held)
        second.release()
        second.release()

    def test_holder(self) -> None:
        """Which process has it can be told, and whether that is stopped."""
        lock = SpoolLock(self.files)
        self.assertIsNone(SpoolLock(self.files).holder())
        lock.take()
        self.assertEqual(lock.holder(), Holder(os.getpid()))
        error = self.assertRaises(SpoolError, SpoolLock(self.files).take)
        self.assertEqual(str(error)[-len(f"process ({os.getpid()})") :], f"process ({os.getpid()})")
        lock.release()
        self.assertIsNone(lock.holder())
        with open(self.files.lock, "r+b") as file:  # another version does not say its number
            file.truncate(0)
            fcntl.flock(file, fcntl.LOCK_EX)
            self.assertEqual((lock.holder(), str(lock.holder())), (Holder(None), ""))

    def test_stopped(self) -> None:
        """Of one that is stopped it is said, and what an operator can do."""
        with subprocess.Popen(["sleep", "60"]) as process:
            holder = Holder(process.pid)
            self.assertEqual((holder.isStopped, str(holder)), (False, f" ({process.pid})"))
            process.send_signal(signal.SIGSTOP)
            os.waitpid(process.pid, os.WUNTRACED)
            self.assertTrue(holder.isStopped)
            self.assertIn(f"`kill -CONT {process.pid}` lets it go on", str(holder))
            process.kill()
        self.assertFalse(holder.isStopped)

    def test_noRoom(self) -> None:
        """A lock needs no room on the disk."""
        lock = SpoolLock(self.files)

        def full(*_: object) -> None:
            raise OSError(28, "no space left on device")

        self.patch(os, "pwrite", full)
        lock.take()
        self.assertEqual(lock.holder(), Holder(None))
        lock.release()

    def test_deleted(self) -> None:
        """A lock whose file was deleted is taken anew, so that no other process gets it."""
        lock = SpoolLock(self.files)
        lock.take()
        os.unlink(self.files.lock)
        lock.renew()
        self.assertRaises(SpoolError, SpoolLock(self.files).take)
        lock.renew()
        lock.release()

    def test_noDirectory(self) -> None:
        """A lock that cannot be made is an error of the spool."""
        lock = SpoolLock(SpoolFiles("/nonexistent/spool"))
        self.assertRaises(SpoolError, lock.take)
