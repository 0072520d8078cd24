"""
A line over a real socket.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.trial.unittest import TestCase

from deferrals.deferreds import together
from deferrals.workers.line import WorkerLine

reactor: Any = _reactor


def adopted(line: WorkerLine, end: socket.socket) -> WorkerLine:
    """
    Let a line have its end of a socket pair.
    """
    end.setblocking(False)
    reactor.adoptStreamConnection(end.fileno(), socket.AF_UNIX, Factory.forProtocol(lambda: line))
    end.close()
    return line


class SocketTests(TestCase):
    """
    L{WorkerLine} with Twisted's own transport.
    """

    def setUp(self) -> None:
        ends = socket.socketpair()
        self.over: Deferred[None] = Deferred()
        self.first = adopted(WorkerLine(reactor), ends[0])
        self.second = adopted(WorkerLine(reactor, lost=lambda _: self.over.callback(None)), ends[1])

    async def tearDown(self) -> None:
        self.first.close()
        await self.over

    async def test_descriptors(self) -> None:
        """A socket that listens comes over, while much is said in both directions."""
        listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listening.close)

        def taken(name: str, descriptors: list[int]) -> list[Any]:
            with socket.socket(fileno=descriptors[0]) as one:
                return [name, *one.getsockname()]

        self.second.handle("take", taken)
        self.second.handle("say", lambda text: text)
        text = "x" * 1_000_000
        await self.first.ask("say", "")
        asked = [
            self.first.ask("take", str(number), descriptors=[listening.fileno()])
            if number % 3
            else self.first.ask("say", text)
            for number in range(30)
        ]
        answers = await together(asked)
        for number, answer in enumerate(answers):
            wanted = [str(number), *listening.getsockname()] if number % 3 else text
            self.assertEqual(answer, wanted)
        self.assertEqual(self.descriptors(listening), 1)

    def descriptors(self, of: socket.socket) -> int:
        """
        How many descriptors this process has of a socket.
        """
        mine = os.fstat(of.fileno())
        found = 0
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # the listing's own is closed by now
                found += os.path.samestat(os.stat(f"/proc/self/fd/{name}"), mine)
        return found

    async def test_manyAsks(self) -> None:
        """Ten thousand questions of one turn are answered, in their order."""
        self.second.handle("double", lambda number: 2 * number)
        answers = await together([self.first.ask("double", number) for number in range(10_000)])
        self.assertEqual(answers, [2 * number for number in range(10_000)])
