"""
What an operator's command does with a queue; each store's tests have the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.ids import formatId
from deferrals.model.json import JSON
from deferrals.model.selection import Selection
from deferrals.spool.changes import CHANGED, COMMANDS, LEAVING
from deferrals.spool.commanded import CommandedQueue


class _Queue(CommandedQueue):
    """
    One with two messages, of which it changes as many as it is told.
    """

    def __init__(self, happened: list[object]) -> None:
        super().__init__(
            lambda: happened.append("changed"), lambda numbers: happened.append(set(numbers))
        )
        self.happened = happened
        self.count = 3

    def recipients(
        self, selection: Selection, limit: int, after: Sequence[int] | None
    ) -> Deferred[tuple[list[dict[str, JSON]], Sequence[int] | None]]:
        self.happened.append((limit, after))
        rows: list[dict[str, JSON]] = [
            {"id": formatId(n), "seq": seq} for n, seq in ((7, 0), (7, 1), (9, 0))
        ]
        return succeed((rows, [9, 0]))

    async def made(self, command: str, keys: list[tuple[int, int]]) -> tuple[int, int]:
        self.happened.append((command, keys))
        return self.count, 1


class CommandedQueueTests(SynchronousTestCase):
    """
    L{CommandedQueue}.
    """

    def setUp(self) -> None:
        self.happened: list[object] = []
        self.queue = _Queue(self.happened)

    def test_change(self) -> None:
        """
        What is held or removed leaves the server's hands before; what has changed may be
        due.
        """
        keys = [(7, 0), (7, 1), (9, 0)]
        for command in COMMANDS:
            del self.happened[:]
            made = self.queue.change(command, Selection(), [5, 0])
            self.assertEqual(self.successResultOf(made), (3, 1, [9, 0]))
            leaving = [{7, 9}] if command in LEAVING else []
            wanted = [(CHANGED, [5, 0]), *leaving, (command, keys), "changed"]
            self.assertEqual(self.happened, wanted)

    def test_nothing(self) -> None:
        """Where nothing was changed nothing is due; what is no command does nothing."""
        self.queue.count = 0
        self.successResultOf(self.queue.change("retry", Selection(), None))
        self.assertNotIn("changed", self.happened)
        del self.happened[:]
        self.failureResultOf(self.queue.change("shred", Selection(), None), ValueError)
        self.assertEqual(self.happened, [])
