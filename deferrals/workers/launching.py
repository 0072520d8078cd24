"""
How a worker's process is begun: the same program again, with its end of the line, and
the configuration that is in force as its standard input.

The configuration is given, not read again: a file that has been changed, and perhaps
refused, counts from the next reload on, also for a worker that takes a dead one's place.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence

import attrs
from twisted.internet.error import ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IAddress, IProcessTransport, IReactorSocket
from twisted.internet.protocol import ProcessProtocol, ServerFactory
from twisted.python.failure import Failure

from deferrals.interfaces import IReactor
from deferrals.workers.line import WorkerLine

#: Where a worker finds its end of the line.
LINE = 3

#: Tells a process that it is a worker, and which one.
VARIABLE = "DEFERRALS_WORKER"

#: What a service manager has given to the parent alone.
_OWN = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS")


def workerNumber() -> int | None:
    """
    @return: which worker this process is; C{None} where it is none.  Asked once: what
        it begins is none.
    """
    text = os.environ.pop(VARIABLE, "")
    return int(text) if text else None


@attrs.frozen
class Command:
    """
    What begins a worker.

    @ivar words: a program, and its arguments.
    @ivar directory: where; that may be closed to the user that the parent has become.
    """

    words: Sequence[str]
    directory: str

    def environment(self, worker: int, path: Sequence[str]) -> dict[str, str]:
        """
        @param path: where Python finds modules.
        """
        own = {name: value for name, value in os.environ.items() if name not in _OWN}
        return {**own, "PYTHONPATH": os.pathsep.join(path), VARIABLE: str(worker)}


class Launched(ProcessProtocol):
    """
    A worker's process.

    @param ended: is told how it has ended.
    """

    transport: IProcessTransport

    def __init__(self, line: WorkerLine, ended: Callable[[Launched, str], object]) -> None:
        self.line = line
        self._ended = ended

    @property
    def pid(self) -> int:
        """
        Its number.
        """
        pid: int = self.transport.pid
        return pid

    def kill(self) -> None:
        """
        End it at once.
        """
        with contextlib.suppress(ProcessExitedAlready):
            self.transport.signalProcess("KILL")

    def processEnded(self, reason: Failure) -> None:
        """
        See C{ProcessProtocol}.
        """
        error = reason.value
        how = "it has ended"
        if isinstance(error, ProcessTerminated):
            number = error.signal
            how = f"it was ended by signal {number}" if number else f"it exited {error.exitCode}"
        self.line.close()
        self._ended(self, how)


class OneLine(ServerFactory):
    """
    @param line: what a connection that there is already becomes.
    """

    noisy = False

    def __init__(self, line: WorkerLine) -> None:
        self._line = line

    def buildProtocol(self, addr: IAddress | None) -> WorkerLine:
        """
        See C{Factory}.
        """
        return self._line


def adopt(reactor: IReactor, descriptor: int, line: WorkerLine) -> None:
    """
    Make a line of an end of it; the descriptor stays the caller's.
    """
    os.set_blocking(descriptor, False)
    adopted = IReactorSocket(reactor).adoptStreamConnection
    adopted(descriptor, socket.AF_UNIX, OneLine(line))


def launch(
    reactor: IReactor,
    command: Command,
    environment: Mapping[str, str],
    text: str,
    launched: Launched,
) -> None:
    """
    @param text: the configuration that is in force.
    @raise OSError: the system has no process for it.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs, tempfile.TemporaryFile() as given:
        given.write(text.encode("utf-8"))
        given.seek(0)
        adopt(reactor, ours.fileno(), launched.line)
        try:
            reactor.spawnProcess(
                launched,
                command.words[0],
                command.words,
                environment,
                None if command.directory == os.getcwd() else command.directory,
                childFDs={0: given.fileno(), 1: 1, 2: 2, LINE: theirs.fileno()},
            )
        except OSError:
            launched.line.close()
            raise
