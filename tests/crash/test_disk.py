"""
A disk that is full, has no files left, or cannot be written, on a small tmpfs;
and a database that is taken away.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from typing import Any

from twisted.trial.unittest import SkipTest

from tests.crash.support import CONFIG, CrashCase, until
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

    def mounted(self, options: str) -> Server:
        needsRoot()
        self.mount = tempfile.mkdtemp(prefix="deferrals-disk-")
        self.addCleanup(os.rmdir, self.mount)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"{options},mode=0700", "tmpfs", self.mount],
            capture_output=True,
            check=False,
        )
        if done.returncode != 0:
            raise SkipTest(f"cannot mount: {done.stderr!r}")
        self.addCleanup(subprocess.run, ["umount", "-l", self.mount], check=False)
        return self.server(f'state_dir = "{self.mount}"\n{CONFIG}')

    def attempt(self, server: Any, size: int = 10, sender: str = "me@client.test") -> str:
        """
        @return: the final reply, or the first one that refuses.
        """
        dialogue = self.dialogue(server.port)
        dialogue.reply()
        for line in ("EHLO x", f"MAIL FROM:<{sender}>", "RCPT TO:<a@example.net>", "DATA"):
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
        with open(filler, "wb") as file:
            try:
                while True:
                    file.write(b"x" * 65536)
                    file.flush()
            except OSError:
                pass
        for size in (10, 400_000):
            for _ in range(3):
                reply = self.attempt(server, size)
                self.assertTrue(reply.startswith(FULL), reply)
        bodies = os.path.join(self.mount, "spool", "bodies")
        until(lambda: os.listdir(bodies) == [], "what was not taken is removed")
        os.unlink(filler)
        self.recovers(server, 1)
        self.assertEqual(self.run_(server, "queue", "show", queued).returncode, 0)

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
