"""
A disk that is full, has no files left, or cannot be written, on a small tmpfs;
and a database that is taken away.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from typing import Any

from twisted.trial.unittest import SkipTest

from deferrals.spool.sqlite.marker import Mark, readMark
from tests.crash.support import CONFIG, PATIENCE, CrashCase, until
from tests.integration.support import Process, Server, needsRoot, program

FULL = "452 4.3.1"


def removed(path: str) -> None:
    """
    Remove a directory into which a server may write at the same time.
    """
    aside = f"{path}.removed"
    os.rename(path, aside)
    shutil.rmtree(aside)


class DiskTests(CrashCase):
    """
    The state directory is on a file system of its own.
    """

    def mounted(self, options: str, image: bool = False) -> Server:
        """
        @param image: whether it is a file system that can fail.
        """
        needsRoot()
        self.mount = tempfile.mkdtemp(prefix="deferrals-disk-")
        self.addCleanup(os.rmdir, self.mount)
        words = ["-t", "tmpfs", "-o", f"{options},mode=0700", "tmpfs"]
        if image:
            self.image = os.path.abspath(self.mktemp())
            with open(self.image, "wb") as file:
                file.truncate(64 << 20)
            subprocess.run([program("mkfs.ext4"), "-q", self.image], check=True)
            words = ["-o", "loop", self.image]
        done = subprocess.run(["mount", *words, self.mount], capture_output=True, check=False)
        if done.returncode != 0:
            raise SkipTest(f"cannot mount: {done.stderr!r}")
        self.addCleanup(subprocess.run, ["umount", "-l", self.mount], check=False)
        server = self.server(f'state_dir = "{self.mount}"\n{CONFIG}')
        mark = os.path.join(self.mount, "spool", "mark")
        # It listens before that is open.
        until(lambda: (readMark(mark) or Mark()).generation > 0, "the spool is open", PATIENCE)
        return server

    def attempt(
        self,
        server: Any,
        size: int = 10,
        sender: str = "me@client.test",
        recipient: str = "a@example.net",
    ) -> str:
        """
        @return: the final reply, or the first one that refuses.
        """
        dialogue = self.dialogue(server.port)
        dialogue.reply()
        for line in ("EHLO x", f"MAIL FROM:<{sender}>", f"RCPT TO:<{recipient}>", "DATA"):
            (said,) = dialogue.say(line)
            if said >= "4":
                dialogue.close()
                return str(said)
        lines = b"x" * 76 + b"\r\n"
        dialogue.socket.sendall(b"Subject: x\r\n\r\n" + lines * (size // 78 + 1) + b".\r\n")
        reply: str = dialogue.reply()
        dialogue.close()
        return reply

    def recovers(self, server: Any, delivered: int) -> None:
        """
        It goes on without a restart, and nothing was lost.
        """
        reply = self.attempt(server)
        self.assertTrue(reply.startswith("250 2.6.0"), reply)
        server.arrived("a", delivered + 1)

    def test_full(self) -> None:
        """A full disk is 452 4.3.1 for small and large mail, and the server goes on."""
        server = self.mounted("size=24m")
        filler = os.path.join(self.mount, "filler")
        self.assertTrue(self.attempt(server).startswith("250"))
        queued = self.send(server, "<dead-1@x.example>")
        self.filled()
        for size in (10, 400_000):
            for _ in range(3):
                reply = self.attempt(server, size)
                self.assertTrue(reply.startswith(FULL), reply)
        bodies = os.path.join(self.mount, "spool", "bodies")
        until(lambda: os.listdir(bodies) == [], "what was not taken is removed")
        os.unlink(filler)
        self.recovers(server, 1)
        self.assertEqual(self.run_(server, "queue", "show", queued).returncode, 0)

    def filled(self) -> None:
        """
        Others take all that is left of the disk.
        """
        with open(os.path.join(self.mount, "filler"), "wb", buffering=0) as file:
            for size in (65536, 4096):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"x" * size)

    def queued(self, server: Server) -> int:
        """
        Fill the disk with mail for a dead host, until no more is taken.

        @return: how many messages were.
        """
        count = 0
        while self.attempt(server, 200_000, recipient=f"dead-{count}@x.example") < "4":
            count += 1
        self.assertGreater(count, 50)
        return count

    def test_queue(self) -> None:
        """A disk that the queue has filled: what leaves it makes room, without a restart."""
        server = self.mounted("size=64m")
        count = self.queued(server)
        reply = self.attempt(server)
        self.assertTrue(reply.startswith(FULL), reply)
        done = self.run_(server, "queue", "remove", "--to", "dead-*")
        self.assertIn(f"{count} recipients removed", done.stdout)
        until(lambda: self.attempt(server).startswith("250"), "mail is taken again", PATIENCE)
        self.logged(server, "there is room again")
        until(lambda: self.free() > 40 << 20, "the room is given back", 2 * PATIENCE)

    def test_remove(self) -> None:
        """With nothing left at all, an operator can remove mail, and the reserve comes back."""
        server = self.mounted("size=64m")
        reserve = os.path.join(self.mount, "spool", "reserve")
        until(lambda: os.path.exists(reserve), "a reserve", PATIENCE)
        count = self.queued(server)
        self.filled()
        self.assertEqual(self.free(), 0)
        done = self.run_(server, "queue", "remove", "--to", "dead-*")
        self.assertIn(f"{count} recipients removed", done.stdout, done.stderr + server.log[-2000:])
        os.unlink(os.path.join(self.mount, "filler"))
        until(lambda: self.attempt(server).startswith("250"), "mail is taken again", PATIENCE)
        until(lambda: os.path.exists(reserve), "the reserve is made again", PATIENCE)

    def test_removeOffline(self) -> None:
        """The same, while no server runs."""
        server = self.mounted("size=64m")
        count = self.queued(server)
        server.kill()
        self.filled()
        self.assertEqual(self.free(), 0)
        done = self.run_(server, "queue", "remove", "--to", "dead-*")
        self.assertIn(f"{count} recipients removed", done.stdout, done.stderr)
        os.unlink(os.path.join(self.mount, "filler"))
        server.start()
        until(lambda: self.attempt(server).startswith("250"), "mail is taken again", PATIENCE)

    def free(self) -> int:
        found = os.statvfs(self.mount)
        return found.f_bavail * found.f_frsize

    def test_abort(self) -> None:
        """A file system that has failed and become read-only: 452, and after that all is there."""
        server = self.mounted("", image=True)
        queued = self.send(server, "<dead-1@x.example>")
        subprocess.run(["mount", "-o", "remount,abort", self.mount], check=True)
        for size in (10, 400_000):
            reply = self.attempt(server, size)
            self.assertTrue(reply.startswith(FULL), reply)
        server.kill()
        subprocess.run(["umount", self.mount], check=True)
        subprocess.run(["fsck.ext4", "-p", self.image], check=False, capture_output=True)
        subprocess.run(["mount", "-o", "loop", self.image, self.mount], check=True)
        server.start()
        self.assertEqual(self.run_(server, "queue", "show", queued).returncode, 0)
        self.recovers(server, 0)

    def test_inodes(self) -> None:
        """No more files can be made: 452 4.3.1, and the server goes on."""
        server = self.mounted("size=200m,nr_inodes=200")
        fillers = []
        try:
            while True:
                name = os.path.join(self.mount, f"filler-{len(fillers)}")
                open(name, "w").close()
                fillers.append(name)
        except OSError:
            pass
        for size in (10, 400_000):
            reply = self.attempt(server, size)
            self.assertTrue(reply.startswith(FULL), reply)
        for name in fillers:
            os.unlink(name)
        self.recovers(server, 0)

    def test_readOnly(self) -> None:
        """A file system that becomes read-only: 452 4.3.1, and the server goes on afterwards.

        A kernel does that after an error, whoever writes; by hand it cannot be done while
        files are open, so each write of the database is made to fail as it would there.
        """
        strace = program("strace")
        server = self.server(CONFIG)
        self.assertTrue(self.attempt(server).startswith("250"))
        server.arrived("a", 1)
        tracer = Process(
            [
                *(strace, "-f", "-p", str(server.process.process.pid), "-e", "trace=pwrite64"),
                *("-e", "inject=pwrite64:error=EROFS"),
            ],
            os.path.join(server.directory, "strace.log"),
        )
        self.addCleanup(tracer.kill)
        tracer.ready(lambda: "attached" in tracer.output(), "strace")
        for size in (10, 400_000):
            reply = self.attempt(server, size)
            self.assertTrue(reply.startswith(FULL), reply)
        tracer.stop()
        self.recovers(server, 1)

    def test_taken(self) -> None:
        """The database file is moved away while mail flows: 452, until it is put back."""
        server = self.server(CONFIG)
        queued = self.send(server, "<dead-1@x.example>")
        path = os.path.join(server.directory, "state", "spool", "spool.sqlite")
        os.rename(path, path + ".away")
        for _ in range(3):
            reply = self.attempt(server)
            self.assertTrue(reply.startswith(FULL), reply)
        os.rename(path + ".away", path)
        self.recovers(server, 0)
        server.kill()
        server.start()
        self.assertEqual(self.run_(server, "queue", "show", queued).returncode, 0)

    def test_deleted(self) -> None:
        """The spool is deleted while mail flows: it is written anew, with all that was in it."""
        server = self.server(CONFIG)
        queued = self.send(server, "<dead-1@x.example>")
        removed(os.path.join(server.directory, "state", "spool"))
        until(lambda: self.attempt(server).startswith("250"), "mail is taken again")
        server.kill()
        server.start()
        self.assertEqual(self.run_(server, "queue", "show", queued).returncode, 0)
        self.recovers(server, 1)

    def test_stateDirectory(self) -> None:
        """All of the state directory is deleted: it is made again as it was."""
        server = self.server(CONFIG)
        queued = self.send(server, "<dead-1@x.example>")
        state = os.path.join(server.directory, "state")
        until(lambda: os.path.exists(os.path.join(state, "control")), "control", PATIENCE)
        removed(state)
        until(lambda: os.path.exists(os.path.join(state, "control")), "control", PATIENCE)
        until(
            lambda: os.path.exists(os.path.join(state, "spool", "spool.sqlite")),
            "the spool",
            PATIENCE,
        )
        for name in ("", "spool", "spool/bodies"):
            mode = os.stat(os.path.join(state, name)).st_mode & 0o777
            self.assertEqual(mode, 0o700, name)
        self.assertEqual(self.run_(server, "status").returncode, 0)
        self.assertEqual(self.run_(server, "queue", "show", queued).returncode, 0)
        self.logged(server, "control was taken away: made again")
        self.recovers(server, 0)

    def test_empty(self) -> None:
        """After a kill the database has 0 octets: nothing is removed, and all is taken back."""
        server = self.server(CONFIG)
        small = self.send(server, "<dead-1@x.example>")
        self.assertTrue(self.attempt(server, 400_000, recipient="dead-2@x.example") < "4")
        server.kill()
        spool = os.path.join(server.directory, "state", "spool")
        shutil.copy(os.path.join(spool, "spool.sqlite"), os.path.join(spool, "kept"))
        shutil.copy(os.path.join(spool, "spool.sqlite-wal"), os.path.join(spool, "kept-wal"))
        os.truncate(os.path.join(spool, "spool.sqlite"), 0)
        server.start()
        self.logged(server, "is of 0 octets: set aside as")
        found = self.run_(server, "queue", "rescue").stdout
        self.assertIn("2 set aside", found)
        (name,) = (n for n in os.listdir(os.path.join(spool, "damaged")) if n[:5] == "spool")
        aside = os.path.join(spool, "damaged", name)
        os.rename(os.path.join(spool, "kept"), os.path.join(aside, "spool.sqlite"))
        os.rename(os.path.join(spool, "kept-wal"), os.path.join(aside, "spool.sqlite-wal"))
        self.assertIn("dead-2@x.example", self.run_(server, "queue", "rescue", "show", name).stdout)
        done = self.run_(server, "queue", "rescue", "restore", name)
        self.assertIn("2 messages taken back, held", done.stdout, done.stderr)
        self.assertEqual(self.run_(server, "queue", "check").returncode, 0)
        self.assertIn("held", self.run_(server, "queue", "list", small).stdout)
        self.run_(server, "queue", "release", "--all")
        self.assertNotIn("held", self.run_(server, "queue", "list").stdout)
        done = self.run_(server, "queue", "rescue", "remove", name)
        self.assertIn("0 set aside", self.run_(server, "queue", "rescue").stdout)

    def test_damaged(self) -> None:
        """A database that is damaged: what can be read goes on, the rest is kept and named."""
        server = self.server(CONFIG)
        queued = [self.send(server, f"<dead-{number}@x.example>") for number in range(30)]
        until(lambda: server.log.count("retry by") >= 3, "attempts")
        server.stop()
        path = os.path.join(server.directory, "state", "spool", "spool.sqlite")
        size = os.path.getsize(path)
        with open(path, "r+b") as file:
            for page in range(size // 4096 // 2, size // 4096 // 2 + 2):
                file.seek(page * 4096)
                file.write(os.urandom(4096))
        server.start()
        reply = self.attempt(server)
        until(lambda: self.attempt(server).startswith("250"), f"mail is taken again: {reply}")
        found = self.run_(server, "queue", "list").stdout
        named = server.log + self.run_(server, "queue", "check").stdout
        for number in queued:
            self.assertTrue(number in found or number in named, f"{number} is not accounted for")
