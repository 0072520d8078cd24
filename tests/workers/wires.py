"""
Lines without processes: octets go from one end to the other when a test says so.
"""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from deferrals.workers.line import WorkerLine


class End(StringTransport):
    """
    The transport of one end, which goes on writing as long as the test does not
    stop the other end's process.

    @ivar writes: what was written, one for each write.
    """

    def __init__(self, line: WorkerLine) -> None:
        super().__init__()
        self.line = line
        self.writes: list[bytes] = []
        self.descriptors: list[int] = []
        self.isLost = False
        line.makeConnection(self)

    def write(self, data: bytes) -> None:
        super().write(data)
        self.writes.append(data)

    def sendFileDescriptor(self, descriptor: int) -> None:
        self.descriptors.append(os.dup(descriptor))

    def abortConnection(self) -> None:
        self.disconnecting = True

    def take(self) -> bytes:
        data = self.value()
        self.clear()
        return data

    def lose(self) -> None:
        if not self.isLost:
            self.isLost = True
            self.line.connectionLost(Failure(ConnectionDone()))


class Wire:
    """
    A line's two ends.

    @param step: so many octets arrive at once.
    @ivar stopped: whether the second end's process is stopped: it hears nothing and
        says nothing.
    """

    def __init__(
        self, clock: Clock, first: WorkerLine, second: WorkerLine, step: int = 1 << 20
    ) -> None:
        self.clock = clock
        self.step = step
        self.stopped = False
        self.ends = End(first), End(second)

    def carry(self) -> bool:
        """
        Let everything arrive that was written.

        @return: whether there was anything.
        """
        moved = False
        first, second = self.ends
        ways = [] if self.stopped else [(first, second), (second, first)]
        for one, other in ways:
            for descriptor in one.descriptors:
                other.line.fileDescriptorReceived(descriptor)
            one.descriptors = []
            data = one.take()
            for start in range(0, len(data), self.step):
                if not other.isLost:
                    other.line.dataReceived(data[start : start + self.step])
            moved = moved or bool(data)
        if first.disconnecting or second.disconnecting:
            self.lose()
        return moved

    def lose(self) -> None:
        """
        One of the processes has ended.
        """
        for end in self.ends:
            end.lose()


def settle(clock: Clock, *wires: Wire) -> None:
    """
    Let all be said that is to be said now.
    """
    quiet = 0
    for _ in range(1000):
        clock.advance(0)
        moved = [wire.carry() for wire in wires]
        quiet = 0 if any(moved) else quiet + 1
        if quiet == 2:
            return
    raise AssertionError("they talk without end")


def pair(clock: Clock, handlers: Any, step: int = 1 << 20) -> tuple[WorkerLine, WorkerLine, Wire]:
    """
    @return: the end that asks, the one that answers with C{handlers}, and the wire.
    """
    first, second = WorkerLine(clock), WorkerLine(clock, handlers)
    return first, second, Wire(clock, first, second, step)
