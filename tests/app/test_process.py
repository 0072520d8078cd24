"""
Signals, pid files, and the service manager.
"""

from __future__ import annotations

import functools
import gc
import os
import signal
import socket
import subprocess
import sys
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.app.process import (
    REAP_SECONDS,
    Signals,
    endAtOnce,
    forgetStale,
    keepWhatBegan,
    notify,
    startReaping,
    startWatchdog,
)


class ProcessCase(SynchronousTestCase):
    """
    The signals and the environment of this process are what they were.
    """

    def setUp(self) -> None:
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        self.patch(os, "environ", dict(os.environ))


class GarbageTests(ProcessCase):
    """
    L{keepWhatBegan}.
    """

    def test_kept(self) -> None:
        """What is there is not gone through any longer; what comes since is."""
        self.addCleanup(gc.set_threshold, *gc.get_threshold())
        self.addCleanup(gc.unfreeze)
        there: list[object] = []
        keepWhatBegan()
        new: list[object] = [there]
        followed = gc.get_objects()
        self.assertFalse(any(one is there for one in followed))
        self.assertTrue(any(one is new for one in followed))


class SignalTests(ProcessCase):
    """
    L{Signals} and L{endAtOnce}.
    """

    def test_early(self) -> None:
        """A signal that comes before the service runs ends nothing, and is answered once."""
        signals = Signals(signal.SIGHUP, signal.SIGUSR1)
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGHUP)
        answered: list[str] = []
        signals.answer(signal.SIGUSR1, lambda: answered.append("usr1"))
        self.assertEqual(answered, [])
        signals.answer(signal.SIGHUP, lambda: answered.append("hup"))
        self.assertEqual(answered, ["hup"])
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGHUP)
        self.assertEqual(answered, ["hup", "usr1", "hup"])

    def test_several(self) -> None:
        """Each of several services in one process is told, and of its own signals only."""
        answered: list[str] = []
        services = [Signals(signal.SIGHUP, signal.SIGUSR1), Signals(signal.SIGHUP)]
        for name, service in zip(("first", "second"), services, strict=True):
            service.answer(signal.SIGHUP, functools.partial(answered.append, name))
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGHUP)
        self.assertEqual(sorted(answered), ["first", "second"])
        self.assertEqual([service.asked for service in services], [{signal.SIGUSR1}, set()])

    def test_second(self) -> None:
        """A second SIGTERM does what it does to any program."""
        endAtOnce()
        for number in (signal.SIGTERM, signal.SIGINT):
            self.assertIs(signal.getsignal(number), signal.SIG_DFL)

    def test_secondForOthers(self) -> None:
        """With several processes it ends all: the others first, also one that has ended."""
        killed: list[tuple[int, int]] = []

        def kill(pid: int, number: int) -> None:
            killed.append((pid, number))
            if pid == 71:
                raise ProcessLookupError

        self.patch(os, "kill", kill)
        endAtOnce(lambda: [71, 72])
        signal.raise_signal(signal.SIGTERM)
        own = (os.getpid(), signal.SIGTERM)
        self.assertEqual(killed, [(71, signal.SIGKILL), (72, signal.SIGKILL), own])
        self.assertIs(signal.getsignal(signal.SIGTERM), signal.SIG_DFL)


class PidFileTests(ProcessCase):
    """
    L{forgetStale}.
    """

    def remains(self, text: str) -> bool:
        path = self.mktemp()
        with open(path, "w") as file:
            file.write(text)
        forgetStale(path)
        return os.path.exists(path)

    def test_others(self) -> None:
        """A number that has gone to this process or to another program is none of a server."""
        self.assertFalse(self.remains(str(os.getpid())))
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
            self.assertFalse(self.remains(str(other.pid)))
            other.communicate(b"\n")

    def test_server(self) -> None:
        """A server that runs keeps its file; what is no number is twistd's to refuse."""
        words = [sys.executable, "-c", "print(flush=True); input()", "twistd"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(words, **pipes) as server:  # type: ignore[call-overload]
            server.stdout.readline()  # it has its name by now
            self.assertTrue(self.remains(str(server.pid)))
            server.communicate(b"\n")
        self.assertTrue(self.remains("?"))
        forgetStale(self.mktemp())


class NotifyTests(ProcessCase):
    """
    L{notify} and L{startWatchdog}.
    """

    def manager(self, name: str) -> socket.socket:
        end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(end.close)
        end.bind(name)
        end.setblocking(False)
        return end

    def test_notify(self) -> None:
        """The manager hears it, at a path or at an abstract name."""
        path = self.mktemp()
        for name, told in ((path, path), (f"\0deferrals-{os.getpid()}", None)):
            manager = self.manager(name)
            os.environ["NOTIFY_SOCKET"] = told or name.replace("\0", "@")
            self.assertTrue(notify("READY=1", "MAINPID=7"))
            self.assertEqual(manager.recv(99), b"READY=1\nMAINPID=7")

    def test_none(self) -> None:
        """Without a manager, or with one that is gone, the server runs all the same."""
        os.environ.pop("NOTIFY_SOCKET", None)
        self.assertFalse(notify("READY=1"))
        os.environ["NOTIFY_SOCKET"] = self.mktemp()
        self.assertFalse(notify("READY=1"))

    def test_watchdog(self) -> None:
        """It is told three times in the time that it waits, for as long as the reactor turns."""
        path = self.mktemp()
        manager = self.manager(path)
        os.environ.update(
            NOTIFY_SOCKET=path, WATCHDOG_USEC="30000000", WATCHDOG_PID=str(os.getpid())
        )
        clock = Clock()
        watchdog: Any = startWatchdog(clock)
        clock.pump([10] * 6)
        self.assertEqual([manager.recv(99) for _ in range(7)], [b"WATCHDOG=1"] * 7)
        watchdog.stop()
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_noWatchdog(self) -> None:
        """It is another process's, or there is none, or nonsense."""
        for told in ({}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "x"}):
            os.environ.pop("WATCHDOG_USEC", None)
            os.environ.update(told)
            self.assertIsNone(startWatchdog(Clock()))
        os.environ.update(WATCHDOG_USEC="30000000", WATCHDOG_PID="1")
        self.assertIsNone(startWatchdog(Clock()))


class ReapingTests(SynchronousTestCase):
    """
    L{startReaping}.
    """

    def test_first(self) -> None:
        """Process 1 of a container looks for orphans, until it stops; no other process does."""
        clock = Clock()
        self.assertIsNone(startReaping(clock))
        self.patch(os, "getpid", lambda: 1)
        reaping: Any = startReaping(clock)
        clock.advance(REAP_SECONDS)
        reaping.stop()
        self.assertEqual(clock.getDelayedCalls(), [])
