"""
How a worker's process is begun.
"""

from __future__ import annotations

import os
import signal
import socket
from typing import Any

from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IReactorSocket
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from deferrals.workers import launching
from deferrals.workers.launching import LINE, VARIABLE, Command, Launched, launch, workerNumber
from deferrals.workers.line import WorkerLine
from tests.workers.wires import End


@implementer(IReactorSocket)
class Reactor(Clock):
    """
    Begins nothing, and remembers what it was to begin.
    """

    lacking: OSError | None = None

    def adoptStreamConnection(self, descriptor: int, family: int, factory: Any) -> None:
        assert family == socket.AF_UNIX
        self.end = End(factory.buildProtocol(None))
        self.isBlocking = os.get_blocking(descriptor)

    def spawnProcess(self, *what: Any, childFDs: dict[int, int]) -> None:
        if self.lacking is not None:
            raise self.lacking
        self.what = what
        self.files = sorted(childFDs)
        self.given = os.read(childFDs[0], 1000)
        with socket.socket(fileno=os.dup(childFDs[LINE])) as own:
            self.family = own.family


class Transport:
    """
    A process's.
    """

    pid = 77

    def __init__(self) -> None:
        self.signals: list[str] = []

    def signalProcess(self, name: str) -> None:
        self.signals.append(name)
        raise ProcessExitedAlready


class LaunchTests(SynchronousTestCase):
    """
    L{launch}.
    """

    def setUp(self) -> None:
        self.reactor: Any = Reactor()
        self.ended: list[str] = []
        line = WorkerLine(self.reactor)
        self.process = Launched(line, lambda process, how: self.ended.append(how))
        self.command = Command(["python", "-c", "pass"], "/srv")

    def launch(self) -> None:
        launch(self.reactor, self.command, {"A": "b"}, "workers = 2\n", self.process)

    def test_begun(self) -> None:
        """It has the configuration as standard input, its line, and our output; no more."""
        self.launch()
        process, program, words, environment, directory = self.reactor.what
        self.assertIs(process, self.process)
        self.assertEqual((program, *words), ("python", "python", "-c", "pass"))
        self.assertEqual((environment, directory), ({"A": "b"}, "/srv"))
        self.assertEqual(self.reactor.files, [0, 1, 2, LINE])
        self.assertEqual(self.reactor.given, b"workers = 2\n")
        self.assertEqual(self.reactor.family, socket.AF_UNIX)
        self.assertFalse(self.reactor.isBlocking)
        self.assertTrue(self.process.line.connected)

    def test_directory(self) -> None:
        """Where its parent is already it need not be able to go."""
        self.command = Command(["python"], os.getcwd())
        self.launch()
        self.assertIsNone(self.reactor.what[-1])

    def test_noProcess(self) -> None:
        """Where the system has none, its line is closed."""
        self.reactor.lacking = OSError(11, "no")
        self.assertRaises(OSError, self.launch)
        self.assertTrue(self.reactor.end.disconnecting)

    def test_ended(self) -> None:
        """How it has ended is said."""
        for error, how in (
            (ProcessDone(0), "it has ended"),
            (ProcessTerminated(3), "it exited 3"),
            (ProcessTerminated(None, signal.SIGSEGV), "it was ended by signal 11"),
        ):
            self.process.processEnded(Failure(error))
            self.assertEqual(self.ended.pop(), how)

    def test_kill(self) -> None:
        """It is killed, if it has not ended meanwhile."""
        transport: Any = Transport()
        self.process.transport = transport
        self.process.kill()
        self.assertEqual((transport.signals, self.process.pid), (["KILL"], 77))


class NumberTests(SynchronousTestCase):
    """
    What a process knows of itself.
    """

    def test_environment(self) -> None:
        """A worker has its number and Python's path; what a service manager gave is not its."""
        self.patch(os, "environ", {"HOME": "/root", "NOTIFY_SOCKET": "x", "LISTEN_FDS": "1"})
        found = Command((), "/").environment(2, ["/a", "/b"])
        self.assertEqual(found, {"HOME": "/root", "PYTHONPATH": "/a:/b", VARIABLE: "2"})

    def test_number(self) -> None:
        """A worker knows its number once; what it begins itself is no worker."""
        self.patch(launching.os, "environ", {VARIABLE: "0"})
        self.assertEqual([workerNumber(), workerNumber()], [0, None])
