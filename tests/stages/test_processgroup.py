"""
Process groups, without programs: what is asked of the system.  Real programs are
in C{tests/integration/test_pipe.py}.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from twisted.internet.process import Process
from twisted.internet.protocol import ProcessProtocol
from twisted.trial.unittest import SynchronousTestCase

from deferrals.stages import processgroup
from deferrals.stages.processgroup import (
    NO_CHILD,
    NO_PROGRAM,
    GroupProcess,
    Orphans,
    signalGroup,
    spawn,
)


class Ended(BaseException):
    """
    The child has ended.
    """


class SpawnTests(SynchronousTestCase):
    """
    L{spawn}.
    """

    def test_missing(self) -> None:
        """What is not there is an error before anything is started."""
        path = "/nonexistent/program"
        error = self.assertRaises(OSError, spawn, None, ProcessProtocol(), [path], {}, "/")
        self.assertEqual(error.filename, path)

    def test_other(self) -> None:
        """A reactor that is none of Twisted's starts it as it can."""
        started: list[Any] = []

        class Reactor:
            def spawnProcess(self, *words: Any) -> None:
                started.append(words)

        protocol = ProcessProtocol()
        spawn(Reactor(), protocol, [sys.executable, "-c"], {"A": "b"}, "/")  # type: ignore[arg-type]
        path = os.fsencode(sys.executable)
        self.assertEqual(started, [(protocol, path, [path, b"-c"], {"A": "b"}, "/")])


class ChildTests(SynchronousTestCase):
    """
    L{GroupProcess} in the child.
    """

    def setUp(self) -> None:
        self.did: list[str] = []
        self.process = GroupProcess.__new__(GroupProcess)

        def end(status: int) -> None:
            raise Ended(status)

        self.patch(os, "_exit", end)
        self.patch(os, "setsid", lambda: self.did.append("setsid"))
        self.patch(os, "write", lambda fd, data: self.did.append(data.decode("utf-8")))

    def failing(self, *words: Any, **more: Any) -> None:
        raise PermissionError(13, "Permission denied", "/srv/program")

    def test_group(self) -> None:
        """It leads a session, and so a group, before it is the program."""
        self.patch(Process, "_setupChild", lambda process, **more: self.did.append("set up"))
        self.process._setupChild(fdmap={})
        self.assertEqual(self.did, ["setsid", "set up"])

    def test_neverBack(self) -> None:
        """
        What goes wrong in the child ends it with a status that is no refusal: not
        with a traceback, and never as a second server.
        """
        for name, status in (("_setupChild", NO_CHILD), ("_execChild", NO_PROGRAM)):
            self.patch(Process, name, self.failing)
            ended = self.assertRaises(Ended, getattr(self.process, name))
            self.assertEqual(ended.args, (status,))
        self.assertIn("Permission denied", self.did[-1])


class SignalTests(SynchronousTestCase):
    """
    L{signalGroup}.
    """

    def test_group(self) -> None:
        """All of a group get it; that there is none does no harm."""
        sent: list[Any] = []
        self.patch(os, "killpg", lambda *words: sent.append(words))
        self.assertFalse(signalGroup(None, signal.SIGTERM))
        self.assertTrue(signalGroup(4711, signal.SIGTERM))
        self.assertEqual(sent, [(4711, signal.SIGTERM)])
        for error in (ProcessLookupError, PermissionError):
            self.patch(os, "killpg", self.raising(error))
            self.assertFalse(signalGroup(4711, signal.SIGKILL))

    def raising(self, error: type[Exception]) -> Callable[..., None]:
        def fail(*words: Any) -> None:
            raise error

        return fail


class OrphanTests(SynchronousTestCase):
    """
    L{Orphans}.
    """

    def test_look(self) -> None:
        """
        What has ended and is still there at the second look is reaped; what
        another part waits for, and what runs, is not.
        """
        children, ended = {5, 6, 7, 8}, {5, 6, 7}
        reaped: list[int] = []
        self.patch(processgroup, "_children", lambda: children)
        self.patch(processgroup, "_hasEnded", lambda pid: pid in ended)
        self.patch(os, "waitpid", lambda pid, options: reaped.append(pid))
        orphans = Orphans({5: "a program"})
        self.assertEqual(orphans.look(), [])
        children.discard(6)  # another part of the process has waited for it meanwhile
        ended.add(8)
        self.assertEqual(orphans.look(), [7])
        children.discard(7)
        self.assertEqual(orphans.look(), [8])
        self.assertEqual(reaped, [7, 8])
