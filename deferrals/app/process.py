"""
What a process of its own owes its surroundings: signals, a pid file, and word to
the service manager.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import weakref
from collections.abc import Callable, Iterable
from types import FrameType

from twisted.internet.interfaces import IReactorTime
from twisted.internet.process import reapProcessHandlers
from twisted.internet.task import LoopingCall

from deferrals.logger import Logger
from deferrals.stages.processgroup import Orphans

_log = Logger(namespace="deferrals")

#: How often process 1 of a container looks for orphans that have ended.
REAP_SECONDS = 5.0

#: So many objects are made before the collector of garbage looks through them.
YOUNG_OBJECTS = 10_000

#: So many words to the manager's watchdog in the time that it waits for one.
_PER_WATCHDOG = 3


class Signals:
    """
    Signals that a service answers.  They may come before it runs: then they wait.  Each
    of several services in one process is told.

    @ivar asked: those that came before L{answer}.
    """

    def __init__(self, *numbers: signal.Signals) -> None:
        self.asked: set[int] = set()
        self._numbers = frozenset(numbers)
        self._answers: dict[int, Callable[[], None]] = {}
        _all.add(self)
        for number in numbers:
            signal.signal(number, _came)

    def answer(self, number: signal.Signals, answer: Callable[[], None]) -> None:
        """
        @param answer: called within the signal handler.
        """
        self._answers[number] = answer
        if number in self.asked:
            self.asked.discard(number)
            answer()

    def came(self, number: int) -> None:
        """
        The process was sent one, perhaps one of others.
        """
        answer = self._answers.get(number)
        if answer is not None:
            answer()
        elif number in self._numbers:
            self.asked.add(number)


_all: weakref.WeakSet[Signals] = weakref.WeakSet()


def _came(number: int, frame: FrameType | None) -> None:
    for one in list(_all):
        one.came(number)


def endAtOnce(others: Callable[[], Iterable[int]] | None = None) -> None:
    """
    The process is stopping: a second SIGTERM or interrupt ends it, without a
    traceback.

    @param others: the processes that end with it.
    """

    def end(number: int, frame: FrameType | None) -> None:
        for one in () if others is None else others():
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL if others is None else end)


def forgetStale(path: str) -> None:
    """
    Remove a pid file whose process is no server any more: the number has gone to
    another program, or, in a container, to this process itself.
    """
    try:
        with open(path) as file:
            pid = int(file.read())
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            command = file.read()
    except (OSError, ValueError):
        return  # twistd looks, too, and says what is wrong with it
    if pid == os.getpid() or b"twist" not in command:
        os.remove(path)


def notify(*states: str) -> bool:
    """
    Tell the service manager (sd_notify(3)).

    @param states: such as C{READY=1}.
    @return: whether there is one that listens.
    """
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as end:
        try:
            end.sendto("\n".join(states).encode(), path.replace("@", "\0", 1))
        except OSError as error:
            _log.warn("the service manager was not told: {error}", error=str(error))
            return False
    return True


def keepWhatBegan() -> None:
    """
    All has begun.  What is there now stays, nearly a hundred thousand objects: the
    collector of garbage would go through them again and again, and all mail would wait
    meanwhile.  It finds next to nothing in what comes since, and looks less often.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)


def startWatchdog(clock: IReactorTime) -> LoopingCall | None:
    """
    Say from within the reactor that it turns, as often as the service manager
    wants to hear it.

    @return: what does, until it is stopped; C{None} where it does not want to.
    """
    span = os.environ.get("WATCHDOG_USEC", "")
    mine = os.environ.get("WATCHDOG_PID", "") in ("", str(os.getpid()))
    if not (mine and span.isdecimal() and int(span)):
        return None
    watchdog = LoopingCall(notify, "WATCHDOG=1")
    watchdog.clock = clock
    watchdog.start(int(span) / 1e6 / _PER_WATCHDOG).addErrback(
        lambda failure: _log.failure("the watchdog is not told", failure)
    )
    return watchdog


def startReaping(clock: IReactorTime) -> LoopingCall | None:
    """
    Wait for the orphans of a container, where this is its process 1.

    @return: what does, until it is stopped; C{None} where others do.
    """
    if os.getpid() != 1:
        return None
    reaping = LoopingCall(Orphans(reapProcessHandlers).look)
    reaping.clock = clock
    d = reaping.start(REAP_SECONDS)
    d.addErrback(lambda failure: _log.failure("orphans are not reaped", failure))
    return reaping
