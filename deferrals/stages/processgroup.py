"""
Programs that lead a process group of their own, so that what they start can be
ended with them.

Twisted's processes stay in the group of their parent, and there is no way to say
otherwise: what is put in here is called in the child, between fork and exec
(C{docs/upstream.md}).
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import signal
from collections.abc import Container, Mapping, Sequence

from twisted.internet.interfaces import IProcessProtocol, IReactorProcess
from twisted.internet.posixbase import PosixReactorBase
from twisted.internet.process import Process

#: How a child ends that cannot become the program (sysexits.h: EX_OSERR; the
#: shells' "cannot be run").
NO_CHILD, NO_PROGRAM = 71, 126

#: There is no room for another process.
LACKING = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})


class GroupProcess(Process):
    """
    A process that leads a group, and a session, of its own.

    @param words: the program's path, and its arguments.
    @param ids: the user and the group that it runs as; C{None} for the server's.
    """

    def __init__(
        self,
        reactor: PosixReactorBase,
        words: Sequence[bytes],
        environment: Mapping[bytes, bytes],
        directory: bytes,
        protocol: IProcessProtocol,
        ids: tuple[int, int] | None = None,
    ) -> None:
        uid, gid = (None, None) if ids is None else ids
        Process.__init__(self, reactor, words[0], words, environment, directory, protocol, uid, gid)

    def _setupChild(self, *args: object, **kwargs: object) -> None:
        """
        In the child, which must not come back from here with an exception: it
        would end as if the program had refused.
        """
        try:
            os.setsid()
            Process._setupChild(self, *args, **kwargs)
        except BaseException:
            os._exit(NO_CHILD)

    def _execChild(self, *args: object, **kwargs: object) -> None:
        try:
            Process._execChild(self, *args, **kwargs)
        except BaseException as error:
            with contextlib.suppress(BaseException):
                os.write(2, f"{error}\n".encode("utf-8", "replace"))
            os._exit(NO_PROGRAM)


def spawn(
    reactor: IReactorProcess,
    protocol: IProcessProtocol,
    words: Sequence[str],
    environment: Mapping[str, str],
    directory: str,
    ids: tuple[int, int] | None = None,
) -> None:
    """
    Start a program in a group of its own, where the reactor is one of Twisted's.

    @param words: the program's path, and its arguments.
    @param ids: the user and the group that it runs as; C{None} for the server's.
    @raise OSError: there is no such program, or no room for another process.
    """
    if not os.access(words[0], os.X_OK):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), words[0])
    encoded = [os.fsencode(word) for word in words]
    if isinstance(reactor, PosixReactorBase):
        pairs = {os.fsencode(key): os.fsencode(value) for key, value in environment.items()}
        GroupProcess(reactor, encoded, pairs, os.fsencode(directory), protocol, ids)
    else:
        reactor.spawnProcess(
            protocol, encoded[0], encoded, environment, directory, *(() if ids is None else ids)
        )


def signalGroup(leader: int | None, number: signal.Signals) -> bool:
    """
    Send a signal to all processes of a group.

    @param leader: the process that leads it.
    @return: whether there is such a group.
    """
    if leader is None:
        return False
    try:
        os.killpg(leader, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


class Orphans:
    """
    Processes that have ended and that nothing waits for: process 1 of a
    container is the parent of all whose own one has gone.  One that is there at
    two looks is such a process.

    @param known: the processes that another part waits for.
    """

    def __init__(self, known: Container[int]) -> None:
        self._known = known
        self._seen: set[int] = set()

    def look(self) -> list[int]:
        """
        @return: those that were reaped.
        """
        found = {pid for pid in _children() if pid not in self._known and _hasEnded(pid)}
        orphans = sorted(found & self._seen)
        for pid in orphans:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        self._seen = found - set(orphans)
        return orphans


def _children() -> set[int]:
    """
    All children of this process, where the system tells.
    """
    found: set[int] = set()
    for path in glob.glob("/proc/self/task/*/children"):
        with contextlib.suppress(OSError), open(path, encoding="ascii") as file:
            found.update(map(int, file.read().split()))
    return found


def _hasEnded(pid: int) -> bool:
    """
    Whether a child has ended; it is left as it is.
    """
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False
