"""
Every system call of one transaction: the n-th write, sync, rename, truncate or
unlink of a file in the spool fails, or is the process's last, for every n; then
the spool is opened again, and there is exactly one owner or a legal duplicate,
never a loss, never half a message (design, section 4).

The calls are found and struck by ptrace, without any wrapper of our own, so
SQLite's are among them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from deferrals.spool.sqlite.spool import SqliteSpool
from tests.integration.support import ROOT, path
from tests.reactors import PumpedReactor
from tests.requirements import requirement

CALLS = "write,pwrite64,fsync,fdatasync,rename,unlink,ftruncate"

#: Takes a message in, and says how far it came: staged, released, delivered.
PROGRAM = """
import attrs, os, sys
from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from deferrals.model.disposition import Remove
from deferrals.spool.sqlite.spool import SqliteSpool
from deferrals.testing import makeAddressees, makeEnvelope
directory, size, report = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
spool = SqliteSpool(directory, reactor, deferToThread)
say = lambda text: os.write(report, text.encode() + b"\\n")
def begin(_):
    os.getppid()  # a mark for the trace: the transaction begins
    envelope = makeEnvelope()
    writer = spool.newBody(envelope.transaction)
    writer.write(b"Subject: x\\r\\n\\r\\n" + b"x" * size + b"\\r\\n")
    d = writer.finish()
    d.addCallback(lambda message: spool.stage(envelope, message, makeAddressees("a@b.example")))
    d.addCallbacks(staged, refused)
def staged(work):
    say("staged")
    spool.release(work, {})
    if sys.argv[4] == "deliver":
        d = spool.record(work, {work.addressees[0]: Remove()})
        d.addCallback(lambda _: spool.waiting())
        d.addCallback(lambda left: say("delivered") if left == (0, 0) else None)
    elif sys.argv[4] == "tell":
        d = tell(work)
    else:
        d = spool.waiting()
    d.addErrback(lambda failure: None)
    d.addCallback(lambda _: end())
def tell(work):
    envelope = attrs.evolve(makeEnvelope(), sender=None)
    writer = spool.newBody(envelope.transaction)
    writer.write(b"Subject: y\\r\\n\\r\\n" + b"y" * size + b"\\r\\n")
    d = writer.finish()
    d.addCallback(lambda message: spool.record(
        work, {work.addressees[0]: Remove("failed")},
        [(envelope, message, makeAddressees("s@c.example"))],
    ))
    return d.addCallback(lambda works: say("told"))
def refused(failure):
    say("refused")
    end()
def end():
    if sys.argv[4] in ("keep", "tell"):
        os._exit(0)
    spool.close().addBoth(lambda _: os._exit(0))
d = spool.open()
d.addCallback(begin)
d.addErrback(lambda failure: (say("closed"), os._exit(0)))
reactor.callLater(30, os._exit, 3)
reactor.run()
"""


class FaultTests(SynchronousTestCase):
    """
    One call goes wrong.
    """

    def setUp(self) -> None:
        found = shutil.which("strace")
        if found is None:
            raise SkipTest("strace is not installed")
        self.strace = found

    def attempt(self, size: int, how: str, fault: str | None) -> tuple[list[str], str]:
        """
        @return: what the process said, and the trace.
        """
        self.directory = self.mktemp()
        trace = self.mktemp()
        read, write = os.pipe()
        struck = ["-e", f"inject={fault}"] if fault else []
        argv = [
            *(
                self.strace,
                "-f",
                "--seccomp-bpf",
                "-qq",
                "-o",
                trace,
                "-e",
                f"trace={CALLS},getppid",
                *struck,
            ),
            *(sys.executable, "-c", PROGRAM, self.directory, str(size), str(write), how),
        ]
        process = subprocess.Popen(
            argv, pass_fds=[write], env=self.environment(), stderr=subprocess.DEVNULL
        )
        os.close(write)
        with os.fdopen(read) as report:
            said = report.read().split()
        process.wait(120)
        with open(trace, errors="replace") as file:
            return said, file.read()

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": path(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}

    def left(self) -> list[Any]:
        """
        What the next process finds.

        @return: size, whether that is what was stored, and for whom.
        """
        reactor = PumpedReactor()
        spool = SqliteSpool(self.directory, reactor, self.inThread)
        self.assertIsNone(reactor.wait(spool.open()))
        found = []
        for work in reactor.wait(spool.claim(10, {}, 10)):
            size, digest = work.message.measured()
            sound = (size, digest) == (work.message.size, work.message.digest)
            found.append([size, sound, *map(str, work.addressees)])
        reactor.wait(spool.close())
        return found

    def inThread(self, function: Any, *args: Any) -> Any:
        return maybeDeferred(function, *args)

    def numbers(self, size: int, how: str, fatal: bool) -> list[tuple[str, int]]:
        """
        The calls of a transaction that goes well: each name with its numbers,
        which strace counts for each thread by itself.

        @param fatal: whether the process dies: where a call merely fails, it must not
            be the reactor's that wakes itself up, which is a C{write}, too.
        """
        said, trace = self.attempt(size, how, None)
        self.assertEqual(said[0], "staged")
        counts: Counter[tuple[str, str]] = Counter()
        found: dict[tuple[str, int], None] = {}
        begun = False
        for thread, name in re.findall(r"^(\d+) +(\w+)\(", trace, re.M):
            counts[thread, name] += 1
            begun = begun or name == "getppid"
            if begun and name != "getppid" and (name != "write" or fatal):
                found[name, counts[thread, name]] = None
        return list(found)

    def strike(self, size: int, how: str, effect: str) -> None:
        octets = size + 16
        calls = self.numbers(size, how, effect.startswith("signal"))
        self.assertIn("fdatasync", dict(calls))
        for name, number in calls:
            said, _ = self.attempt(size, how, f"{name}:{effect}:when={number}")
            where = f"{name} {number} {effect}: {said}"
            left = self.left()
            message, notice = ([[octets, True, to]] for to in ("a@b.example", "s@c.example"))
            if how == "tell" and "staged" in said:
                self.assertIn(left, [notice] if "told" in said else [message, notice], where)
                continue
            self.assertIn(left, ([], message), where)
            if "staged" in said and "delivered" not in said and how == "keep":
                self.assertEqual(left, message, where)
            if "refused" in said:
                self.assertEqual(left, [], where)

    @requirement("D-23")
    def test_smallDies(self) -> None:
        """The process dies at the n-th call; the body is in the database."""
        self.strike(100, "keep", "signal=SIGKILL")

    @requirement("D-23")
    def test_largeFails(self) -> None:
        """The n-th call fails with an error of the disk; the body is a file."""
        self.strike(300_000, "keep", "error=EIO")

    def test_deliveredFails(self) -> None:
        """The same, up to the last recipient's outcome."""
        self.strike(100, "deliver", "error=ENOSPC")

    def test_toldDies(self) -> None:
        """
        The process dies while a notice takes the place of what it is
        about: one of the two is there, and never both.
        """
        self.strike(100, "tell", "signal=SIGKILL")
